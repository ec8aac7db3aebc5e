"""A service (or network) as a canonical document, and its versioned hash: the fast path of divergence.

In comes a service of a stack; out goes a plain document that holds what a container of it is made from, and
"1:<sha256 of its canonical JSON>". Attributes at their default are left out, so that a new attribute of the model
changes no hash. What needs no new container (replicas, depends_on, profiles, pull_policy) is not in it; the names of
networks and volumes in the engine and the digests of secrets and configs are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, cast

from pystack.model.container import NetworkSpec
from pystack.model.desired import Service, Stack

VERSION = "1:"
Document = Mapping[str, Any]

_NOT_HASHED = frozenset({"name", "replicas", "depends_on", "profiles", "pull_policy"})
_DEFAULTS: dict[type, tuple[tuple[str, Any], ...]] = {}


def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """(attribute, default) of a dataclass; computed once, since `dataclasses.fields` is slow."""
    known = _DEFAULTS.get(kind)
    if known is None:
        known = tuple(
            (item.name, item.default_factory() if item.default_factory is not MISSING else item.default)
            for item in fields(kind)
        )
        _DEFAULTS[kind] = known
    return known


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON's types, without attributes that are at their default."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return "sha256:" + hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    out = {}
    for name, default in _defaults(type(value)):
        item = getattr(value, name)
        if item != default:
            out[name] = plain(item)
    return out


def service_document(stack: Stack, service: Service) -> dict[str, Any]:
    """All that a container of the service is made from."""
    document = {key: item for key, item in plain(service).items() if key not in _NOT_HASHED}
    if "networks" in document:
        names = {joined.network: joined.network for joined in service.networks} | {
            key: network.name for key, network in stack.networks.items()
        }
        document["networks"] = {names[item["network"]]: item for item in document["networks"]}
    for mount in document.get("mounts", ()):
        if mount["type"] == "volume" and mount.get("source") in stack.volumes:
            mount["source"] = stack.volumes[mount["source"]].name
    for reference in document.get("files", ()):
        source = (stack.secrets if reference["kind"] == "secret" else stack.configs).get(reference["source"])
        reference["content"] = plain(source.content) if source else ""
    return document


def digest(document: Document) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return VERSION + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def network_hash(spec: NetworkSpec) -> str:
    """The hash of a network without its labels."""
    return digest({key: item for key, item in cast("Document", plain(spec)).items() if key != "labels"})


def comparable(recorded: str) -> bool:
    """Whether a recorded hash is of this version: only then does a different one mean a different service."""
    return recorded.startswith(VERSION)
