"""`${VAR}` in the values of a document -> the document with values filled in.

In: a document and a variable lookup. Out: the same document with new scalars. Only scalar values are touched and the
result is never parsed again, so that a value cannot add YAML structure. Syntax: Compose Specification 12-interpolation
and compose-go `template`: $V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+a} ${V+a} (nested), `$$` is a dollar sign, a dollar
sign before anything else stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import is_

from pystack.stackfile.document import Mapping, Node, Path, Reporter, Scalar, Sequence, with_changes

Lookup = Callable[[str], str | None]

_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_BRACES = re.compile(r"\$\$|\$\{|\}")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")
_MAX_NESTING = 16
#: Characters that the variables of one value, and of all values of a stack, may become.
MAX_VALUE = 1_000_000
MAX_FILLED = 10_000_000


class TemplateError(ValueError):
    """An expression that cannot be filled in. `expression` is where it begins in the text; `code` is stable."""

    def __init__(self, message: str, expression: str, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.expression = expression
        self.code = code
        self.hint = hint


def substitute(text: str, lookup: Lookup, missing: Callable[[str, str], None] | None = None) -> str:
    """The text with its variables filled in. `missing(name, expression)` is told of each unset one without a default."""
    if "$" not in text:
        return text
    return _Template(lookup, missing).fill(text, 0)


@dataclass(slots=True)
class _Template:
    lookup: Lookup
    missing: Callable[[str, str], None] | None
    size: int = 0

    def fill(self, text: str, depth: int) -> str:
        if depth > _MAX_NESTING:
            raise TemplateError("variables are nested too deep", text[:20], "interpolation")
        out: list[str] = []
        position = 0
        while (dollar := text.find("$", position)) >= 0:
            out.append(text[position:dollar])
            following = text[dollar + 1 : dollar + 2]
            if following == "$":
                out.append("$")
                position = dollar + 2
            elif following == "{":
                end = _closing(text, dollar + 2)
                out.append(self._braced(text[dollar + 2 : end], text[dollar : end + 1], depth))
                position = end + 1
            elif match := _NAME.match(text, dollar + 1):
                out.append(self._named(match.group(), match.group()))
                position = match.end()
            else:
                out.append("$")
                position = dollar + 1
        out.append(text[position:])
        return "".join(out)

    def _named(self, name: str, expression: str) -> str:
        value = self.lookup(name)
        if value is None:
            if self.missing:
                self.missing(name, expression)
            return ""
        return self._sized(value)

    def _sized(self, value: str) -> str:
        self.size += len(value)
        if self.size > MAX_VALUE:
            raise TemplateError(f"a value becomes longer than {MAX_VALUE:,} characters", "$", "too-large")
        return value

    def _braced(self, body: str, expression: str, depth: int) -> str:
        match = _NAME.match(body)
        if not match:
            raise _bad(expression)
        name, rest = match.group(), body[match.end() :]
        if not rest:
            return self._named(name, "{" + name)
        operator = next((o for o in _OPERATORS if rest.startswith(o)), None)
        if operator is None:
            raise _bad(expression)
        argument = rest[len(operator) :]
        value = self.lookup(name)
        given = bool(value) if operator[0] == ":" else value is not None
        kind = operator[-1]
        if kind == "+":
            return self.fill(argument, depth + 1) if given else ""
        if given:
            return self._sized(value or "")
        if kind == "-":
            return self.fill(argument, depth + 1)
        why = self.fill(argument, depth + 1)
        state = "is empty" if value == "" else "is not set"
        message = f"required variable `{name}` {state}" + (f": {why}" if why else "")
        raise TemplateError(
            message, expression, "required-variable", f"set {name} in the environment or in .env"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """What a file says of a variable: `${NAME:-default}`, `${NAME:+presence}`, `${NAME:?…}`."""

    name: str
    required: bool = False
    default: str = ""
    presence: str = ""


def templates(document: Node) -> list[str]:
    """Every value of a document that holds a dollar sign, in file order."""
    found: list[str] = []
    seen: set[int] = set()

    def walk(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if isinstance(node, Scalar):
                if isinstance(node.value, str) and "$" in node.value:
                    found.append(node.value)
            elif id(node) not in seen:
                seen.add(id(node))
                walk(node.items.values() if isinstance(node, Mapping) else node.items)

    walk((document,))
    return found


def mentions(texts: Iterable[str]) -> Iterator[Mention]:
    """Every variable that the texts mention, in their order; what cannot be read is passed over."""
    for text in texts:
        yield from _mentioned(text, 0)


def _mentioned(text: str, depth: int) -> Iterator[Mention]:
    position = 0
    while depth <= _MAX_NESTING and (dollar := text.find("$", position)) >= 0:
        position = dollar + 2
        if text[dollar + 1 : dollar + 2] == "{":
            try:
                end = _closing(text, dollar + 2)
            except TemplateError:
                return
            body = text[dollar + 2 : end]
            position = end + 1
            if match := _NAME.match(body):
                rest = body[match.end() :]
                operator = next((o for o in _OPERATORS if rest.startswith(o)), "")
                yield _mention(match.group(), operator, rest[len(operator) :])
                yield from _mentioned(rest, depth + 1)
        elif match := _NAME.match(text, dollar + 1):
            yield Mention(name=match.group())
            position = match.end()


def _mention(name: str, operator: str, argument: str) -> Mention:
    kind = operator[-1:]
    return Mention(
        name=name,
        required=kind == "?",
        default=argument if kind == "-" else "",
        presence=argument if kind == "+" else "",
    )


def _bad(expression: str) -> TemplateError:
    hint = "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+other}; write $$ for a dollar sign"
    return TemplateError(
        f"cannot read the variable expression `{expression}`", expression, "interpolation", hint
    )


def _closing(text: str, start: int) -> int:
    """Index of the brace that closes the expression whose body begins at `start`."""
    depth = 1
    for token in _BRACES.finditer(text, start):
        if token.group() == "${":
            depth += 1
        elif token.group() == "}":
            depth -= 1
            if not depth:
                return token.start()
    raise TemplateError(
        "a variable expression is not closed",
        text[start - 2 :][:40],
        "interpolation",
        "end it with `}`; write $$ for a dollar sign",
    )


def interpolate(document: Node, lookup: Lookup, reporter: Reporter, path: Path = ()) -> Node:
    """The document with every text value filled in; what is wrong or unset is reported at its `$`."""
    return _Walk(lookup, reporter).node(document, path)


@dataclass(slots=True)
class _Walk:
    lookup: Lookup
    reporter: Reporter
    done: dict[int, Node] = field(default_factory=dict)  # keeps what aliases share shared

    def node(self, node: Node, path: Path) -> Node:
        if isinstance(node, Scalar):
            if isinstance(node.value, str) and "$" in node.value:
                return self._scalar(node, node.value, path)
            return node
        known = self.done.get(id(node))
        if known is not None:
            return known
        result = self._collection(node, path)
        self.done[id(node)] = result
        return result

    def _collection(self, node: Mapping | Sequence, path: Path) -> Node:
        if isinstance(node, Sequence):
            items = [
                item if _is_final(item) else self.node(item, (*path, index))
                for index, item in enumerate(node.items)
            ]
            if all(map(is_, items, node.items)):
                return node
            return Sequence(items, node.source, node.line, node.column, node.tag)
        changed: dict[str, Node] = {}
        for key, value in node.items.items():
            if not _is_final(value) and (after := self.node(value, (*path, key))) is not value:
                changed[key] = after
        return with_changes(node, changed)

    def _scalar(self, node: Scalar, text: str, path: Path) -> Node:
        told: set[str] = set()

        def missing(name: str, expression: str) -> None:
            if expression in told or self.reporter.findings.is_full("warning"):
                return
            told.add(expression)
            line, column = _find(node, "$" + expression)
            message = f"variable `{name}` is not set; it becomes an empty text"
            width = len(expression) + (2 if expression[0] == "{" else 1)
            self.reporter.at(
                node.source,
                line,
                column,
                "unset-variable",
                message,
                width=width,
                path=path,
                severity="warning",
            )

        try:
            value = substitute(text, self.lookup, missing)
        except TemplateError as error:
            if self.reporter.full:
                return node
            line, column = _find(node, error.expression)
            width = len(error.expression.split("\n")[0])
            self.reporter.at(
                node.source, line, column, error.code, str(error), width=width, path=path, help=error.hint
            )
            value = text
        self.reporter.filled += len(value)
        if self.reporter.filled > MAX_FILLED:
            message = f"cannot fill in variables: the values become longer than {MAX_FILLED:,} characters"
            self.reporter.error(node, "too-large", message, path=path)
            self.reporter.findings.raise_errors()
        return Scalar(value, node.text, node.source, node.line, node.column, node.plain, node.tag)


def _is_final(node: Node) -> bool:
    """Whether it is a value without variables."""
    return isinstance(node, Scalar) and not (isinstance(node.value, str) and "$" in node.value)


def _find(node: Scalar, expression: str) -> tuple[int, int]:
    """Line and column of an expression in the scalar as written; the scalar's own when escapes hide it."""
    wanted = expression.split("\n", maxsplit=1)[0]
    for number in range(node.line, node.line + node.text.count("\n") + 2):
        start = node.column - 1 if number == node.line else 0
        column = node.source.line(number).find(wanted, start)
        if column >= 0:
            return number, column + 1
    return node.line, node.column
