"""A merged document -> validated parts; what does not validate becomes diagnostics with marks, in our words.

In: a merged document in long form. Out: `Parts`. A wrong attribute is reported and left out, so that the checks go on with
the rest of its service and every error is found in one go.
"""

from __future__ import annotations

from collections.abc import Mapping as Map
from typing import Any, TypeVar

from pydantic import ValidationError

from pystack.stackfile.diagnostics import did_you_mean, path_text
from pystack.stackfile.document import Mapping, Node, Path, Reporter, Scalar, locate, plain
from pystack.stackfile.schema import (
    ConfigPart,
    ModelPart,
    NetworkPart,
    Part,
    Parts,
    SecretPart,
    ServicePart,
    VolumePart,
)
from pystack.stackfile.types import found, quoted

P = TypeVar("P", bound=Part)

_TOP = ("version", "name", "include", "services", "networks", "volumes", "secrets", "configs", "models")


def validate(document: Node, reporter: Reporter) -> Parts:
    """The parts of a merged document; every error is reported at its mark."""
    parts = Parts()
    if not isinstance(document, Mapping):
        reporter.error(document, "wrong-type", "a stack file must be a mapping with `services`")
        return parts
    for key in document.items:
        if key not in _TOP and not key.startswith("x-") and not reporter.full:
            hint = did_you_mean(key, _TOP) or "top-level keys are " + ", ".join(_TOP)
            reporter.error(
                document.keys[key],
                "unknown-key",
                f"unknown key `{key}` at the top level",
                path=(key,),
                help=hint,
            )
    parts.services = _section(document, "services", ServicePart, reporter)
    parts.networks = _section(document, "networks", NetworkPart, reporter)
    parts.volumes = _section(document, "volumes", VolumePart, reporter)
    parts.secrets = _section(document, "secrets", SecretPart, reporter)
    parts.configs = _section(document, "configs", ConfigPart, reporter)
    parts.models = _section(document, "models", ModelPart, reporter)
    return parts


def _section(document: Mapping, name: str, model: type[P], reporter: Reporter) -> dict[str, P]:
    node = document.items.get(name)
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return {}
    if not isinstance(node, Mapping):
        reporter.error(
            node, "wrong-type", f"{name} must be a mapping, not {found(plain(node))}", path=(name,)
        )
        return {}
    out: dict[str, P] = {}
    for key, value in node.items.items():
        if key.startswith("x-"):
            continue
        if reporter.full:
            break
        data = plain(value)
        if data is None and model is ServicePart:
            reporter.error(
                node.keys[key],
                "empty-service",
                f"service `{key}` says nothing",
                path=(name, key),
                help="give it an `image`",
            )
            continue
        part = _validated(model, {} if data is None else data, document, (name, key), reporter)
        if part is not None:
            out[key] = part
    return out


def _validated(model: type[P], data: Any, document: Node, path: Path, reporter: Reporter) -> P | None:
    """The part. Attributes with errors are reported and left out, so that the checks still see the others."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        _report(error, model, document, path, reporter)
        wrong = {item["loc"][0] for item in error.errors(include_url=False) if item["loc"]}
        if not wrong or not isinstance(data, dict):
            return None
    try:
        return model.model_validate({key: value for key, value in data.items() if key not in wrong})
    except ValidationError:
        return None  # what is left needs what was wrong; that is reported


def _report(
    error: ValidationError, model: type[Part], document: Node, prefix: Path, reporter: Reporter
) -> None:
    for item in error.errors(include_url=False):
        if reporter.full:
            return
        path: Path = (*prefix, *item["loc"])
        where = path_text(path)
        kind, context = item["type"], item.get("ctx") or {}
        value = _value_at(document, path)
        if kind == "extra_forbidden":
            key = str(path[-1])
            known = [k for k in _model_at(model, item["loc"][:-1]).model_fields if k != "extensions"]
            hint = did_you_mean(key, known) or _listed(known)
            message = f"unknown key `{key}` in {path_text(path[:-1])}"
            reporter.error(locate(document, path, key=True), "unknown-key", message, path=path, help=hint)
            continue
        node = locate(document, path)
        if kind == "missing":
            message = f"{path_text(path[:-1])} needs `{path[-1]}`"
            reporter.error(node, "missing-key", message, path=path)
        elif kind == "wrong-type":
            reporter.error(node, kind, f"{where} {item['msg']}", path=path, help=str(context.get("hint", "")))
        else:
            expected = _EXPECTED.get(kind, "something else")
            hint = quoted(value) if kind == "string_type" else ""
            message = f"{where} must be {expected}, not {found(value)}"
            reporter.error(node, "wrong-type", message, path=path, help=hint)


_EXPECTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
}


def _value_at(document: Node, path: Path) -> Any:
    return plain(locate(document, path))


def _listed(known: list[str]) -> str:
    return "known keys: " + ", ".join(known) if len(known) <= 12 else ""


def _model_at(model: type[Part], path: tuple[str | int, ...]) -> type[Part]:
    """The model that validates what lies at a path of pydantic's `loc`."""
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            model = _part_in(field.annotation) or model
    return model


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (part := _part_in(argument)) is not None:
            return part
    return None


def extensions(document: Node) -> Map[str, Any]:
    """The `x-` keys of the top level."""
    if not isinstance(document, Mapping):
        return {}
    return {key: plain(value) for key, value in document.items.items() if key.startswith("x-")}
