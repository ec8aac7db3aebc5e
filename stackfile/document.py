"""The document that the steps pass on: scalars, mappings and sequences, each with the place where it was written.

In: nodes from `yamldoc`. Out: nodes for the next step. Nodes are never changed once built: aliases share them, and a
step that changes something makes new nodes around what it keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias, Union

from pystack.stackfile.diagnostics import Diagnostic, Findings, Severity, path_text

Value: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True, eq=False)
class Source:
    """One file. `path` is absolute ("-" for standard input), `display` is what messages call it.

    `tagged`: the parser saw !reset or !override in it.
    """

    path: str
    display: str
    text: str
    directory: str
    tagged: bool = False
    _lines: list[str] | None = None

    @property
    def lines(self) -> list[str]:
        if self._lines is None:
            self._lines = self.text.split("\n")
        return self._lines

    def line(self, number: int) -> str:
        return self.lines[number - 1].rstrip("\r") if 0 < number <= len(self.lines) else ""


@dataclass(slots=True, eq=False)
class Scalar:
    """A leaf. `text` is what was written, `value` what it means; `plain` when it was written without quotes."""

    value: Value
    text: str
    source: Source
    line: int
    column: int
    plain: bool = True
    tag: str = ""


@dataclass(slots=True, eq=False)
class Mapping:
    """`items` by key; `keys` holds the key's own scalar for its mark."""

    items: dict[str, Node]
    keys: dict[str, Scalar]
    source: Source
    line: int
    column: int
    tag: str = ""


@dataclass(slots=True, eq=False)
class Sequence:
    items: list[Node]
    source: Source
    line: int
    column: int
    tag: str = ""


Node: TypeAlias = Union[Scalar, Mapping, Sequence]  # noqa: UP007 - names a class defined above at run time


def plain(node: Node) -> Any:
    """The node as dict, list and scalar values."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Mapping):
        return {k: v.value if isinstance(v, Scalar) else plain(v) for k, v in node.items.items()}
    return [v.value if isinstance(v, Scalar) else plain(v) for v in node.items]


def scalar_at(value: Value, near: Node) -> Scalar:
    """A scalar that a short form implied, marked where the short form stands."""
    return Scalar(value, text_of(value), near.source, near.line, near.column)


def mapping_at(items: dict[str, Node], near: Node) -> Mapping:
    """A mapping that stands for `near`; its keys are marked where `near` is."""
    keys = {key: Scalar(key, key, near.source, near.line, near.column) for key in items}
    return Mapping(items, keys, near.source, near.line, near.column, near.tag)


def sequence_at(items: list[Node], near: Node) -> Sequence:
    return Sequence(items, near.source, near.line, near.column, near.tag)


def with_items(node: Mapping, items: dict[str, Node], keys: dict[str, Scalar] | None = None) -> Mapping:
    """A copy of the mapping with other items; keys that it does not know get the value's mark."""
    known = node.keys if keys is None else keys
    marks = {
        key: known.get(key) or Scalar(key, key, value.source, value.line, value.column)
        for key, value in items.items()
    }
    return Mapping(items, marks, node.source, node.line, node.column, node.tag)


def with_changes(node: Mapping, changed: dict[str, Node]) -> Mapping:
    """The mapping with some of its values replaced; itself when none is."""
    if not changed:
        return node
    return Mapping({**node.items, **changed}, node.keys, node.source, node.line, node.column, node.tag)


def is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.value is None)


def child(node: Node | None, *path: str) -> Node | None:
    """The node below a path of keys, or None."""
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.items.get(key)
    return node


def entries(node: Node | None) -> Iterator[tuple[str, Node]]:
    """Key and value of a mapping; nothing for anything else."""
    if isinstance(node, Mapping):
        yield from node.items.items()


def edit(node: Node, path: Iterable[str], change: Callable[[Node], Node]) -> Node:
    """The document with `change` applied to what lies at the path; "*" stands for every key. Absent: unchanged."""
    return _edited(node, tuple(path), 0, change)


def _edited(node: Node, path: tuple[str, ...], depth: int, change: Callable[[Node], Node]) -> Node:
    if depth == len(path):
        return change(node)
    if not isinstance(node, Mapping):
        return node
    step, items = path[depth], node.items
    changed: dict[str, Node] = {}
    for name in items if step == "*" else (step,):
        before = items.get(name)
        if before is None:
            continue
        after = _edited(before, path, depth + 1, change)
        if after is not before:
            changed[name] = after
    return with_changes(node, changed)


def locate(root: Node, path: Path, *, key: bool = False) -> Node:
    """The node at the path, or its nearest ancestor. With `key`, the scalar of the last key itself."""
    node: Node = root
    for index, part in enumerate(path):
        if isinstance(node, Mapping) and part in node.items:
            if key and index == len(path) - 1:
                return node.keys[str(part)]
            node = node.items[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return node


def text_of(value: Value) -> str:
    """A scalar as Compose prints it where text is wanted: Go's %v."""
    if value is None:
        return ""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, float):
        return _go_float(value)
    return str(value)


def _go_float(value: float) -> str:
    """Go's strconv 'g' form with the shortest digits: an exponent below 1e-4 and from 1e6 up."""
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is not equal to itself
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return str(int(value)) if value == int(value) else repr(value)
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    power = int(exponent) + len(digits) - 1
    fraction = f".{text[1:]}" if text[1:] else ""
    return f"{'-' if value < 0 else ''}{text[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02}"


MAX_COPIES = 500_000
_VARIABLE = re.compile(r"(?<!\$)\$\{?([_a-zA-Z][_a-zA-Z0-9]*)")


@dataclass(slots=True)
class Reporter:
    """Makes diagnostics from nodes. One per load; every step gets it."""

    findings: Findings = field(default_factory=Findings)
    ports: int = 0  # published so far, ranges expanded
    named: int = 0  # dependencies, networks and models of all services so far
    filled: int = 0  # characters that interpolation made so far
    variables: int = 0  # that files gave for interpolation so far
    copied: int = 0  # entries that merging, `extends` and variable files copied so far
    #: Values may still hold variables: a short form that cannot be read for one is kept.
    templates: bool = False
    origins: dict[str, str] = field(default_factory=dict)  # variable -> where its value came from

    @property
    def full(self) -> bool:
        """Whether as many errors are known as are kept."""
        return self.findings.is_full("error")

    def copies(self, count: int, node: Node) -> None:
        """Counts entries that are copied; StackFileError when a small file makes too many of them."""
        self.copied += count
        if self.copied > MAX_COPIES:
            message = f"cannot copy more than {MAX_COPIES:,} entries by merging, `extends` and variable files"
            self.error(node, "too-many-entries", message)
            self.findings.raise_errors()

    def is_template(self, text: str) -> bool:
        return self.templates and "$" in text

    def error(self, node: Node, code: str, message: str, *, path: Path = (), help: str = "") -> None:
        self._report("error", node, code, message, path=path, hint=help)

    def warn(self, node: Node, code: str, message: str, *, path: Path = (), help: str = "") -> None:
        self._report("warning", node, code, message, path=path, hint=help)

    def at(
        self,
        source: Source,
        line: int,
        column: int,
        code: str,
        message: str,
        *,
        width: int = 1,
        path: Path = (),
        help: str = "",
        severity: Severity = "error",
    ) -> None:
        """A finding at a place of a file that has no node (yet)."""
        self.findings.add(
            Diagnostic(
                code=code,
                message=message,
                file=source.display,
                line=line,
                column=column,
                path=path_text(path),
                help=help,
                source_line=source.line(line),
                width=width,
                severity=severity,
            )
        )

    def _report(
        self, severity: Severity, node: Node, code: str, message: str, *, path: Path, hint: str
    ) -> None:
        came_from = self._came_from(node)
        self.at(
            node.source,
            node.line,
            node.column,
            code,
            message,
            width=_width(node),
            path=path,
            help=f"{came_from}; {hint}" if hint and came_from else hint or came_from,
            severity=severity,
        )

    def _came_from(self, node: Node) -> str:
        """Which variables made the value, and where each was set."""
        if not isinstance(node, Scalar) or node.text == node.value or "$" not in node.text or self.templates:
            return ""
        names = dict.fromkeys(_VARIABLE.findall(node.text))
        said = [
            f"`{n}` is from {self.origins[n]}" if n in self.origins else f"`{n}` is not set" for n in names
        ]
        return ", ".join(said)


def _width(node: Node) -> int:
    """How many characters the caret underlines: the scalar as written, or the rest of a flow collection's line."""
    line = node.source.line(node.line)
    rest = len(line.rstrip()) - node.column + 1
    if isinstance(node, Scalar):
        quotes = 0 if node.plain else 2
        return max(1, min(len(node.text) + quotes, rest))
    if line[node.column - 1 : node.column] in ("[", "{"):
        return max(1, rest)
    return 1
