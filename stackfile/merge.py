"""Two documents -> one: what a later file says is laid over the earlier ones.

In: documents in long form. Out: the merged document; every node keeps the mark of the file it came from. Rules: Compose
Specification 13-merge and compose-go `override/{merge,uncity}.go`, in a table keyed by path. `!reset` and `!override` of
the later document act on the earlier one first.
"""

from __future__ import annotations

from collections.abc import Callable

from pystack.stackfile.document import (
    Mapping,
    Node,
    Path,
    Reporter,
    Scalar,
    Sequence,
    edit,
    is_null,
    sequence_at,
    text_of,
    with_changes,
)

Identity = Callable[[Node], str]


def merge(base: Node, over: Node, reporter: Reporter, path: Path = ()) -> Node:
    """The base with the later document laid over it."""
    if over.tag == "!override":
        return untagged(over) or over
    if is_null(over):
        return over if _pattern(path) in _NULLABLE else base
    if is_null(base):
        return untagged(over) or base
    pattern = _pattern(path)
    if pattern in _REPLACED:
        return untagged(over) or base
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        if pattern == "services.*.logging" and _drivers_differ(base, over):
            return untagged(over) or base
        return _mappings(base, over, reporter, path)
    if isinstance(base, Sequence) and isinstance(over, Sequence):
        if pattern == "networks.*.ipam.config":
            return _keyed(base, over, reporter, path, _subnet)
        reporter.copies(len(base.items), over)
        later = untagged(over)
        added = later.items if isinstance(later, Sequence) else []
        return sequence_at([*base.items, *added], base)
    if isinstance(base, Scalar) and isinstance(over, Scalar):
        return over
    if pattern in _EITHER:
        return untagged(over) or base
    where = f"line {base.line} of {base.source.display}"
    message = f"cannot merge {_kind(over)} over {_kind(base)} ({where})"
    reporter.error(
        over, "merge", message, path=path, help="both files must give it the same form, or use !override"
    )
    return base


def _mappings(base: Mapping, over: Mapping, reporter: Reporter, path: Path) -> Mapping:
    reporter.copies(len(base.items), over)
    items, keys = dict(base.items), dict(base.keys)
    for key, value in over.items.items():
        if value.tag == "!reset":
            items.pop(key, None)
            keys.pop(key, None)
            continue
        if key in items:
            items[key] = merge(items[key], value, reporter, (*path, key))
            if items[key] is not base.items.get(key):
                keys[key] = over.keys[key]
            continue
        if (fresh := untagged(value)) is not None:
            items[key] = fresh
            keys[key] = over.keys[key]
    return Mapping(items, keys, base.source, base.line, base.column)


def untagged(node: Node) -> Node | None:
    """The node without `!reset` parts and without `!override` marks: what a document means that is laid over nothing."""
    if node.tag == "!reset":
        return None
    if isinstance(node, Scalar):
        return (
            node
            if not node.tag
            else Scalar(node.value, node.text, node.source, node.line, node.column, node.plain)
        )
    if isinstance(node, Mapping):
        pairs = {key: untagged(value) for key, value in node.items.items()}
        if not node.tag and all(pairs[key] is value for key, value in node.items.items()):
            return node
        kept = {key: value for key, value in pairs.items() if value is not None}
        return Mapping(kept, {key: node.keys[key] for key in kept}, node.source, node.line, node.column)
    items = [untagged(item) for item in node.items]
    if not node.tag and all(a is b for a, b in zip(items, node.items, strict=True)):
        return node
    return Sequence([i for i in items if i is not None], node.source, node.line, node.column)


def unique(document: Node) -> Node:
    """The document with each list's repeated entries made one: a later one replaces an earlier one, in its place."""
    return edit(document, ("services", "*"), _unique_lists)


def _unique_lists(service: Node) -> Node:
    if not isinstance(service, Mapping):
        return service
    changed: dict[str, Node] = {}
    for key, value in service.items.items():
        if (identity := _UNIQUE.get(key)) is not None:
            if (after := _without_twins(value, identity)) is not value:
                changed[key] = after
        elif key == "networks":
            after = value
            for name in ("aliases", "link_local_ips"):
                after = edit(after, ("*", name), lambda node: _without_twins(node, _name))
            if after is not value:
                changed[key] = after
    return with_changes(service, changed)


def _without_twins(node: Node, identity: Identity) -> Node:
    if not isinstance(node, Sequence) or len(node.items) < 2:
        return node
    kept = {identity(item): item for item in node.items}
    return node if len(kept) == len(node.items) else sequence_at(list(kept.values()), node)


def _keyed(base: Sequence, over: Sequence, reporter: Reporter, path: Path, identity: Identity) -> Node:
    """Merges lists of mappings whose entries with the same identity belong together."""
    found = {identity(item): item for item in base.items}
    for item in over.items:
        key = identity(item)
        found[key] = merge(found[key], item, reporter, (*path, 0)) if key in found else item
    return sequence_at(list(found.values()), base)


def _pattern(path: Path) -> str:
    """The path as the tables write it: the name below a top-level element, and below `networks` and `ulimits`, is `*`."""
    parts = [str(p) for p in path]
    if len(parts) > 1:
        parts[1] = "*"
    if len(parts) > 3 and parts[2] in ("networks", "ulimits"):
        parts[3] = "*"
    return ".".join(parts)


def _drivers_differ(base: Mapping, over: Mapping) -> bool:
    first, second = base.items.get("driver"), over.items.get("driver")
    if not isinstance(first, Scalar) or not isinstance(second, Scalar):
        return False
    return first.value != second.value


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    return "a list" if isinstance(node, Sequence) else "a single value"


def _text(node: Node) -> str:
    return text_of(node.value) if isinstance(node, Scalar) else f"#{id(node)}"


def _of(node: Node, key: str) -> str:
    value = node.items.get(key) if isinstance(node, Mapping) else None
    return text_of(value.value) if isinstance(value, Scalar) else ""


def _subnet(node: Node) -> str:
    return _of(node, "subnet")


def _name(node: Node) -> str:
    return _text(node).partition("=")[0]


def _target(node: Node) -> str:
    return _of(node, "target") or f"#{id(node)}"


def _port(node: Node) -> str:
    if not isinstance(node, Mapping):
        return _text(node)
    return f"{_of(node, 'host_ip')}:{_of(node, 'published')}:{_of(node, 'target')}/{_of(node, 'protocol') or 'tcp'}"


def _mounted(prefix: str) -> Identity:
    def identity(node: Node) -> str:
        target, source = _of(node, "target"), _of(node, "source")
        return target or (prefix + source if source else f"#{id(node)}")

    return identity


_REPLACED = {
    "services.*.command",
    "services.*.entrypoint",
    "services.*.healthcheck.test",
    "services.*.ulimits.*",
}
#: Where a later file's null takes the earlier value away.
_NULLABLE = {"services.*.command", "services.*.entrypoint"}
_EITHER = {"services.*.ulimits.*", "services.*.networks.*", "services.*.build"}

#: What makes two entries of a service's list the same one.
_UNIQUE: dict[str, Identity] = {
    "cap_add": _name,
    "cap_drop": _name,
    "configs": _mounted("/"),
    "devices": _target,
    "dns": _name,
    "dns_opt": _name,
    "dns_search": _name,
    "env_file": lambda node: _of(node, "path") or f"#{id(node)}",
    "expose": _text,
    "extra_hosts": _text,
    "links": _name,
    "ports": _port,
    "profiles": _name,
    "secrets": _mounted("/run/secrets/"),
    "tmpfs": _name,
    "volumes": _target,
}
