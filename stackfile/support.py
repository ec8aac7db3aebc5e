"""Attributes of the specification that the engine does not carry out: said, never silently ignored.

In: the document and the enabled services. Out: an error at each attribute that would change what runs, a warning where it
concerns later operations or nothing on one host. Which is which, and why, stands in `standing`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from pystack.stackfile.diagnostics import path_text
from pystack.stackfile.document import (
    Mapping,
    Node,
    Path,
    Reporter,
    Scalar,
    Sequence,
    child,
    entries,
    is_null,
)
from pystack.stackfile.standing import IGNORED, REFUSED

_Tree = dict[str, "_Tree"]


def _tree() -> _Tree:
    """The tables' paths as a tree; `version` has its own warning."""
    root: _Tree = {}
    for path in (*REFUSED, *IGNORED):
        node = root
        for part in path.replace("[]", ".[]").split("."):
            node = node.setdefault(part, {})
    root.pop("version")
    return root


_PATHS = _tree()


def check_support(document: Node, enabled: Iterable[str], reporter: Reporter) -> None:
    """Reports what the enabled services ask for and the engine does not do."""
    chosen = frozenset(enabled)
    for path, pattern, key, value in _found(document, _PATHS, (), "", chosen):
        _report(path, pattern, key, value, reporter)
    for name, network in entries(child(document, "networks")):
        ipv4 = child(network, "enable_ipv4")
        if isinstance(ipv4, Scalar) and str(ipv4.value).lower() in ("false", "no", "off"):
            _refuse(ipv4, ("networks", name, "enable_ipv4"), reporter)
    for name in chosen:
        here: Path = ("services", name)
        service = child(document, "services", name)
        _words(service, here, reporter)
        _targets(service, here, reporter)


def _found(
    node: Node | None, tree: _Tree, path: Path, pattern: str, enabled: Collection[str]
) -> Iterator[tuple[Path, str, Node, Node]]:
    """Path, table entry, key and value of what the document has of the tables."""
    if isinstance(node, Sequence) and (below := tree.get("[]")):
        for index, item in enumerate(node.items):
            yield from _found(item, below, (*path, index), pattern + "[]", enabled)
    if not isinstance(node, Mapping):
        return
    for name, value in node.items.items():
        star = "*" if "*" in tree else name
        branch = tree.get(star)
        if branch is None or (pattern == "services" and name not in enabled):
            continue
        where, matched = (*path, name), f"{pattern}.{star}".lstrip(".")
        if matched in REFUSED or matched in IGNORED:
            yield where, matched, node.keys[name], value
        else:
            yield from _found(value, branch, where, matched, enabled)


def _report(path: Path, pattern: str, key: Node, value: Node, reporter: Reporter) -> None:
    if is_null(value) or (isinstance(value, Scalar) and value.value in ("", False)):
        return
    if pattern == "networks.*.ipam.driver":
        if isinstance(value, Scalar) and value.value != "default":
            _refuse(value, path, reporter)
    elif pattern == "services.*.attach":
        return  # `attach: true` is what happens anyway
    elif pattern in IGNORED:
        message = f"{path_text(path)} has no effect: {IGNORED[pattern]}"
        reporter.warn(key, "unsupported", message, path=path)
    else:
        message = f"{path_text(path)} is not supported yet"
        why = REFUSED[pattern]
        reporter.error(
            key, "unsupported", message, path=path, help="" if why.startswith("the engine does not") else why
        )


def _words(service: Node | None, path: Path, reporter: Reporter) -> None:
    """Attributes some of whose values are carried out."""
    attach, policy = child(service, "attach"), child(service, "pull_policy")
    mode, volumes = child(service, "deploy", "mode"), child(service, "volumes")
    if isinstance(attach, Scalar) and str(attach.value).lower() in ("false", "no", "off"):
        message = f"{path_text(path)}.attach has no effect: {IGNORED['services.*.attach']}"
        reporter.warn(attach, "unsupported", message, path=(*path, "attach"))
    if isinstance(policy, Scalar) and re.match(r"build|daily|weekly|refresh|every_", str(policy.value)):
        _refuse(policy, (*path, "pull_policy"), reporter)
    if isinstance(mode, Scalar) and mode.value not in (None, "replicated"):
        _refuse(mode, (*path, "deploy", "mode"), reporter)
    for name in ("uts", "userns_mode"):
        scalar = child(service, name)
        if isinstance(scalar, Scalar) and scalar.value not in (None, "", "host"):
            _refuse(scalar, (*path, name), reporter)
    for index, volume in enumerate(volumes.items if isinstance(volumes, Sequence) else ()):
        kind = child(volume, "type")
        if isinstance(kind, Scalar) and kind.value in ("image", "npipe", "cluster"):
            _refuse(kind, (*path, "volumes", index, "type"), reporter)


def _refuse(value: Scalar, path: Path, reporter: Reporter) -> None:
    message = f"{path_text(path)} `{value.value}` is not supported yet"
    reporter.error(value, "unsupported", message, path=path)


def _targets(service: Node | None, path: Path, reporter: Reporter) -> None:
    """Mount targets that no container can have. Compose lets them pass and the engine refuses them."""
    volumes, tmpfs = child(service, "volumes"), child(service, "tmpfs")
    targets = [child(v, "target") for v in volumes.items] if isinstance(volumes, Sequence) else []
    targets += tmpfs.items if isinstance(tmpfs, Sequence) else []
    for node in targets:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            continue
        target = node.value.partition(":")[0] if node.value.startswith("/") else node.value
        if not target.startswith("/"):
            drive = re.match(r"[A-Za-z]:", target)
            hint = "a one-letter volume name reads as a Windows drive; give it a longer name" if drive else ""
            message = f"mount target `{target}` must be an absolute path"
            reporter.error(node, "bad-volume", message, path=path, help=hint)
        elif target.strip("/") == "":
            reporter.error(node, "bad-volume", "a mount cannot cover the container's root `/`", path=path)
