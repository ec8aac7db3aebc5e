"""Relative paths -> absolute ones, each against the directory of the file that it was written in.

In: one document in long form. Out: the same with absolute host paths. Done before documents are merged: a file reached
through `extends` or `include` has its own directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from pystack.stackfile.document import Mapping, Node, Scalar, Sequence, child, edit, sequence_at, with_items

#: What git, http and OCI references look like; the rest of a build context is a path (BuildKit's rule).
_REMOTE = re.compile(
    r"(?:https?|git|ssh|github\.com/|docker-image|oci-layout|service|target):?|git@|[a-z][a-z0-9+.-]*://"
)


def is_remote(path: str) -> bool:
    """Whether it names a stack file of a git repository, a registry or a web server."""
    return re.match(r"(?:https?|git|ssh|oci)://|git@", path) is not None


def absolute(document: Node, home: str, *, all_paths: bool = True) -> Node:
    """The document with absolute paths; `home` replaces a leading `~`. Else only those of files that the loader reads."""
    at = _Absolute(home).scalar

    def local(node: Node) -> Node:
        return node if isinstance(node, Scalar) and is_remote(str(node.value)) else at(node)

    read: list[tuple[tuple[str, ...], Callable[[Node], Node]]] = [
        (("services", "*", "env_file"), lambda n: _each(n, lambda i: _field(i, "path", at))),
        (("services", "*", "label_file"), lambda n: _each(n, at)),
        (("services", "*", "extends", "file"), local),
        (("include",), lambda n: _each(n, lambda i: _include(i, local))),
    ]
    shown: list[tuple[tuple[str, ...], Callable[[Node], Node]]] = [
        (("services", "*", "volumes"), lambda n: _each(n, lambda i: _bind(i, at))),
        (("services", "*", "build", "context"), lambda n: _local(n, at)),
        (("services", "*", "build", "additional_contexts", "*"), lambda n: _local(n, at)),
        (("services", "*", "build", "ssh", "*"), at),
        (("services", "*", "develop", "watch"), lambda n: _each(n, lambda i: _field(i, "path", at))),
        (("secrets", "*", "file"), at),
        (("configs", "*", "file"), at),
        (("volumes", "*"), lambda n: _volume(n, at)),
    ]
    for path, change in (*read, *shown) if all_paths else read:
        document = edit(document, path, change)
    return document


class _Absolute:
    __slots__ = ("home",)

    def __init__(self, home: str) -> None:
        self.home = home

    def scalar(self, node: Node) -> Node:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value:
            return node
        path = node.value
        if self.home and (path == "~" or path.startswith("~/")):
            path = self.home + path[1:]
        if path.startswith("/") and path == node.value:
            return node
        path = os.path.normpath(os.path.join(node.source.directory, path))
        return Scalar(path, node.text, node.source, node.line, node.column, node.plain, node.tag)


def _each(node: Node, change: Callable[[Node], Node]) -> Node:
    if not isinstance(node, Sequence):
        return node
    items = [change(item) for item in node.items]
    if all(a is b for a, b in zip(items, node.items, strict=True)):
        return node
    return sequence_at(items, node)


def _field(node: Node, key: str, change: Callable[[Node], Node]) -> Node:
    if not isinstance(node, Mapping) or key not in node.items:
        return node
    return with_items(node, {**node.items, key: change(node.items[key])})


def _bind(node: Node, change: Callable[[Node], Node]) -> Node:
    kind = child(node, "type")
    if isinstance(kind, Scalar) and kind.value == "bind":
        return _field(node, "source", change)
    return node


def _local(node: Node, change: Callable[[Node], Node]) -> Node:
    if isinstance(node, Scalar) and isinstance(node.value, str) and _REMOTE.match(node.value):
        return node
    return change(node)


def _volume(node: Node, change: Callable[[Node], Node]) -> Node:
    """A local volume that is a bind mount: its device is a path of the host."""
    options, driver = child(node, "driver_opts"), child(node, "driver")
    kind = child(options, "o")
    local = driver is None or (isinstance(driver, Scalar) and driver.value in ("local", None))
    if local and isinstance(kind, Scalar) and kind.value == "bind" and options is not None:
        return _field(node, "driver_opts", lambda n: _field(n, "device", change))
    return node


def _include(node: Node, change: Callable[[Node], Node]) -> Node:
    for key in ("path", "env_file"):
        node = _field(node, key, lambda n: _each(n, change))
    return _field(node, "project_directory", change)
