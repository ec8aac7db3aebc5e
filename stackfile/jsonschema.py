"""The models as a JSON Schema, so that editors complete and check stack files; and the list of their attributes.

In: the pydantic models of `schema`, and a table of the short forms that `shortforms` reads. Out: a JSON Schema (draft
2020-12) of a stack file as people write it. Pure.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pystack.stackfile.schema import (
    ConfigPart,
    GpuPart,
    IncludePart,
    ModelPart,
    NetworkPart,
    Part,
    SecretPart,
    ServicePart,
    VolumePart,
)

SECTIONS: dict[str, type[Part]] = {
    "services": ServicePart,
    "networks": NetworkPart,
    "volumes": VolumePart,
    "secrets": SecretPart,
    "configs": ConfigPart,
    "models": ModelPart,
}
_TEXT = {"type": "string"}
_LIST = {"type": "array", "items": _TEXT}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_PAIRS = {"type": "array", "items": _TEXT}

#: Attributes that may be a list of K=V texts.
_PAIRED = frozenset({"additional_contexts", "annotations", "args", "environment", "labels", "ssh", "sysctls"})
#: Attributes that may be one text instead of a list or a mapping.
_SINGLE = frozenset(
    {"build", "command", "dns", "dns_search", "entrypoint", "env_file", "extends", "gpus", "ignore"}
    | {"include", "label_file", "no_cache_filter", "path", "ssh", "test", "tmpfs"}
)
#: Attributes whose entries may be a text (or a number) instead of a mapping.
_SHORT_ENTRIES = frozenset({"configs", "devices", "env_file", "ports", "secrets", "volumes"})
#: Attributes that may be a list of names instead of a mapping.
_NAMED = frozenset({"depends_on", "models", "networks"})


def schema() -> dict[str, Any]:
    """The JSON Schema of a stack file."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "version": {"type": "string", "deprecated": True},
        "name": _TEXT,
        "include": {"type": "array", "items": {"anyOf": [_TEXT, _part(IncludePart, definitions)]}},
    }
    for name, model in SECTIONS.items():
        one = _part(model, definitions)
        values = one if model is ServicePart else {"anyOf": [one, {"type": "null"}]}
        properties[name] = {"type": ["object", "null"], "additionalProperties": values}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pystack stack file",
        "description": "The Compose Specification as pystack reads it.",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _part(model: type[Part], definitions: dict[str, Any]) -> dict[str, Any]:
    name = model.__name__.removesuffix("Part")
    reference = {"$ref": f"#/$defs/{name}"}
    if name in definitions:
        return reference
    definitions[name] = {}
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, field in model.model_fields.items():
        if key == "extensions":
            continue
        properties[key] = _attribute(key, _type(field), definitions)
        if key == "options" and issubclass(model, GpuPart):
            properties[key] = {"anyOf": [properties[key], _PAIRS]}
        if field.is_required():
            required.append(key)
    definitions[name] = {
        "type": "object",
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }
    return reference


def _type(field: Any) -> Any:
    """The field's annotation with the validators that pydantic took off its outside."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _attribute(key: str, annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The attribute with its short forms."""
    long = _value(annotation, definitions)
    forms = [long]
    if key in _SHORT_ENTRIES and long.get("type") == "array":
        entry = {"anyOf": [{"type": ["string", "number"]}, long["items"]]}
        forms = [{"type": "array", "items": entry}]
    is_map = long.get("type") == "object"
    if is_map and (key in _PAIRED or key in _NAMED):
        forms.append(_PAIRS)
    if key in _SINGLE and (is_map or long.get("type") == "array" or "$ref" in long):
        forms.append(_TEXT)
    if key in ("command", "entrypoint"):
        forms.append({"type": "null"})
    if key == "extra_hosts":
        forms.append({"type": "object", "additionalProperties": {"anyOf": [_TEXT, _LIST]}})
    if key == "ulimits":
        long["additionalProperties"] = {
            "anyOf": [long["additionalProperties"], {"type": ["integer", "string"]}]
        }
    if key == "external":
        forms.append({"type": "object", "properties": {"name": _TEXT}})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _value(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is types.UnionType or (origin is not None and type(None) in arguments):
        kinds = [a for a in arguments if a is not type(None)]
        inner = _value(kinds[0], definitions)
        if "type" in inner and inner["type"] != "object" and isinstance(inner["type"], list):
            return {**inner, "type": [*inner["type"], "null"]} if "null" not in inner["type"] else inner
        return inner
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], definitions)
    if origin is tuple:
        return {"type": "array", "items": _value(arguments[0], definitions)}
    if origin is dict:
        below = _value(arguments[1], definitions)
        nullable = type(None) in get_args(arguments[1]) and "$ref" in below
        values = {"anyOf": [below, {"type": "null"}]} if nullable else below
        return {"type": "object", "additionalProperties": values}
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return _part(annotation, definitions)
    return {}


def _annotated(kind: Any, metadata: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    """A value type of `types`: what may be written for it. Text always may, for the variables in it."""
    functions = [getattr(m, "func", None) for m in metadata]
    for function in functions:
        if choices := getattr(function, "choices", None):
            return {"type": "string", "enum": list(choices)}
        if forms := getattr(function, "written", None):
            return {"type": list(forms)}
    return _value(kind, definitions)


def attributes() -> list[str]:
    """The path of every attribute: `*` for a name, `[]` for an entry of a list."""
    found = ["version", "name", "include", *(f"include[].{key}" for key in _keys(IncludePart)), *SECTIONS]
    for name, model in SECTIONS.items():
        found += _below(model, f"{name}.*")
        if "external" in model.model_fields:
            found.append(f"{name}.*.external.name")
    return found


def _keys(model: type[Part]) -> Iterator[str]:
    return (key for key in model.model_fields if key != "extensions")


def _below(model: type[Part], path: str) -> Iterator[str]:
    for key in _keys(model):
        here = f"{path}.{key}"
        yield here
        part, suffix = _nested(model.model_fields[key].annotation)
        if part is not None:
            yield from _below(part, here + suffix)


def _nested(annotation: Any) -> tuple[type[Part] | None, str]:
    """The model inside an annotation, and how its place is written: "", "[]" or ".*"."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation, ""
    for argument in get_args(annotation):
        part, suffix = _nested(argument)
        if part is not None:
            origin = get_origin(annotation)
            return part, ("[]" if origin is tuple else ".*" if origin is dict else "") + suffix
    return None, ""
