"""YAML text -> documents with marks.

In: a `Source`. Out: one node per YAML document in it. libyaml parses (PyYAML's C extension, ruamel's older one for what
that refuses, ruamel's own parser where both are missing) and only its events are used: nothing is ever constructed from a
tag. Scalars are resolved as compose-go sees them: YAML 1.2 booleans, 0o17 and 0x1F, `017` octal, and a bare date refused.

Caps, checked while the document is built and before anything walks it: 10 MB of text, 100 levels, 1,000,000 nodes with
aliases expanded. Aliases share their node, so a "billion laughs" file costs what its text costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from ruamel.yaml import YAML

from pystack.stackfile.diagnostics import Findings
from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, Sequence, Source, Value

# Both parsers are imported here, not where they are used: a load may run with the rights of a user who cannot read the
# directory that they are installed in.
try:
    from _ruamel_yaml import CParser  # type: ignore[import-not-found]
except ImportError:
    CParser = None
try:
    from yaml._yaml import CParser as NewerParser  # type: ignore[import-not-found]
except ImportError:
    NewerParser = None

MAX_TEXT = 10_000_000
MAX_DEPTH = 100
MAX_NODES = 1_000_000
_MAX_RETRY = 32 * 1024  # characters that ruamel's slow parser is given, where there is no faster one

_MAX_NUMBER = 300  # characters; what is longer is text

_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMERIC = frozenset("0123456789+-.")  # what a number or a date may begin with
_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_INT = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|0[0-7]*|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ][ \t]*[0-9:.]+ *(?:Z|[-+][0-9:]+)?)?\Z")
_YAML_TAG = "tag:yaml.org,2002:"
_KEPT_TAGS = {"!reset", "!override"}
_RESOLVED_TAGS = {"int", "float", "bool", "null"}


class _Stop(Exception):  # noqa: N818 - ends the parse of this file; the finding is already reported
    pass


def parse(source: Source, reporter: Reporter) -> list[Node]:
    """The documents of a file; [] after reporting what is wrong with it. An empty file has no document."""
    if len(source.text) > MAX_TEXT:
        reporter.at(source, 0, 0, "too-large", f"cannot read more than {MAX_TEXT // 1_000_000} MB of YAML")
        return []
    text = source.text.removeprefix("\ufeff")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        reporter.at(source, line, 1, "yaml", "cannot parse the YAML: it contains a NUL character")
        return []
    if not text.isascii() and (half := re.search("[\ud800-\udfff]", text)):
        line = text.count("\n", 0, half.start()) + 1
        reporter.at(source, line, 1, "yaml", "cannot parse the YAML: it contains half a surrogate pair")
        return []
    first, second = (NewerParser, CParser) if NewerParser is not None else (CParser, None)
    try:
        return _build(text, first, source, reporter)
    except _SyntaxError as wrong:
        error = wrong.error
    # What PyYAML's libyaml 0.2 refuses, the 0.1 in ruamel's extension may read (docs/adr/0010); else its words are shown.
    if second is not None or (first is not None and len(text) <= _MAX_RETRY):
        try:
            _check_syntax(text, second)  # cheaper than building what is wrong after all
            return _build(text, second, source, reporter)
        except _SyntaxError as wrong:
            error = wrong.error
    _report_syntax(error, source, reporter)
    return []


class _SyntaxError(Exception):
    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


def _check_syntax(text: str, libyaml: Any) -> None:
    """_SyntaxError when the parser refuses the text; what is nested too deep is left to the builder."""
    depth = 0
    try:
        for event in _events(text, libyaml):
            name = type(event).__name__
            depth += name.endswith("StartEvent") - name.endswith("EndEvent")
            if depth > MAX_DEPTH + 2:  # the stream and the document count, too
                return
    except Exception as error:
        raise _SyntaxError(error) from error


def _build(text: str, libyaml: Any, source: Source, reporter: Reporter) -> list[Node]:
    """Builds the documents; findings that are not about syntax are reported only when the syntax is right."""
    builder = _Builder(source, Reporter())
    events = _events(text, libyaml)
    try:
        documents = builder.documents(events)
    except _Stop:
        documents = []
    except Exception as error:
        if not type(error).__module__.startswith(("ruamel.yaml", "yaml")):
            raise
        raise _SyntaxError(error) from error
    for finding in builder.reporter.findings.items:
        reporter.findings.add(finding)
    return documents


def _events(text: str, libyaml: Any) -> Iterable[Any]:
    """Parser events of a libyaml, or of ruamel's pure parser when there is none."""
    if libyaml is None:
        return cast("Iterable[Any]", YAML(typ="safe", pure=True).parse(text))
    return iter(libyaml(text).get_event, None)


def _report_syntax(error: Any, source: Source, reporter: Reporter) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    text = source.line(line)
    if not text.strip() and line > 1:  # libyaml blames the line after the one that is wrong
        line -= 1
        text = source.line(line)
        column = len(text) + 1
    hint = ""
    if "\t" in text[: max(column, 1)]:
        hint = "YAML indents with spaces, not with tabs"
    elif "mapping values are not allowed" in str(getattr(error, "problem", "")):
        hint = "put the value in quotes, or check the indentation"
    problem = str(getattr(error, "problem", None) or "it holds characters that YAML does not allow")
    reporter.at(source, line, column, "yaml", f"cannot parse the YAML: {problem}", help=hint)


def resolve(text: str) -> Value:
    """What a plain scalar means. ValueError for a timestamp."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC:
        return text
    if len(text) > _MAX_NUMBER:
        return text
    digits = text.replace("_", "")
    if _INT.match(digits):
        return _integer(digits)
    if _FLOAT.match(digits):
        number = float(digits)
        return number if math.isfinite(number) else text  # as Go, which leaves text what no float can hold
    if text.lower() in _FLOATS:
        return float(_FLOATS[text.lower()])
    if _DATE.match(text):
        raise ValueError(text)
    return text


def _integer(digits: str) -> int | float:
    sign = -1 if digits[0] == "-" else 1
    body = digits.lstrip("+-")
    octal = len(body) > 1 and body[0] == "0" and body[1].isdigit()
    number = int(body, 8 if octal else 0)
    # Go's YAML keeps what an int64 or a uint64 holds; the rest becomes a float.
    return sign * number if number < 2**64 and sign * number >= -(2**63) else float(sign * number)


def _is_text(text: str) -> bool:
    """Whether it is UTF-8. Only an escape in double quotes can make it otherwise."""
    return not re.search("[\ud800-\udfff]", text)


@dataclass(slots=True)
class _Frame:
    """A collection that is being read. `items` is the sequence's list, None for a mapping."""

    node: Mapping | Sequence
    items: list[Node] | None
    anchor: str | None
    before: int  # nodes of the document when it began
    height: int = 0
    key: Scalar | None = None
    merges: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class _Builder:
    source: Source
    reporter: Reporter
    anchors: dict[str, Node | None] = field(default_factory=dict)
    weights: dict[str, tuple[int, int]] = field(default_factory=dict)  # anchor -> expanded size, height
    stack: list[_Frame] = field(default_factory=list)
    done: list[Node] = field(default_factory=list)
    nodes: int = 0  # of the document so far, with aliases expanded

    def documents(self, events: Iterable[Any]) -> list[Node]:
        by_name = {
            "ScalarEvent": self._scalar,
            "MappingStartEvent": self._mapping,
            "SequenceStartEvent": self._sequence,
            "MappingEndEvent": self._end,
            "SequenceEndEvent": self._end,
            "AliasEvent": self._alias,
            "DocumentStartEvent": self._document,
        }
        handlers: dict[type, Callable[[Any], None] | None] = {}
        for event in events:
            kind = event.__class__
            if kind not in handlers:
                handlers[kind] = by_name.get(kind.__name__)
            if handler := handlers[kind]:
                handler(event)
        return [d for d in self.done if not (isinstance(d, Scalar) and d.value is None)]

    def _document(self, _event: Any) -> None:
        self.anchors.clear()
        self.nodes = 0

    def _fail(self, event: Any, code: str, message: str, hint: str = "") -> None:
        mark = event.start_mark
        self.reporter.at(self.source, mark.line + 1, mark.column + 1, code, message, help=hint)

    def _tag(self, event: Any) -> str:
        """The tag that the node keeps: !reset, !override, or a core type for a scalar; any other is refused."""
        tag = event.tag
        tag = str(getattr(tag, "trval", tag) or "") if tag is not None else ""
        if tag in _KEPT_TAGS:
            self.source.tagged = True
            return tag
        if not tag or tag == "!":
            return ""
        short = tag.removeprefix(_YAML_TAG)
        if tag.startswith(_YAML_TAG) and short in ("str", "int", "float", "bool", "null", "map", "seq"):
            return short
        shown = f"!!{short}" if tag.startswith(_YAML_TAG) else tag
        self._fail(
            event, "unknown-tag", f"unknown tag `{shown}`", "a stack file may use !reset and !override"
        )
        raise _Stop

    def _scalar(self, event: Any) -> None:
        mark = event.start_mark
        text = event.value
        plain = not event.style  # None or "": written without quotes
        tag = "" if event.tag is None else self._tag(event)
        value: Value = text
        if tag != "str" if plain else tag in _RESOLVED_TAGS:
            if text in _WORDS:
                value = _WORDS[text]
            elif text[0] in _NUMERIC:
                value = self._number(event, text)
        if not plain and ("\0" in text or not (text.isascii() or _is_text(text))):
            self._fail(event, "bad-text", "text must not hold a NUL character or half a surrogate pair")
            text = value = ""
        if tag and tag not in _KEPT_TAGS:
            tag = ""
        node = Scalar(value, text, self.source, mark.line + 1, mark.column + 1, plain, tag)
        self.nodes += 1
        if event.anchor:
            self.anchors[event.anchor] = node
            self.weights[event.anchor] = (1, 0)
        self._add(node)

    def _number(self, event: Any, text: str) -> Value:
        try:
            return resolve(text)
        except ValueError:
            self._fail(
                event, "timestamp", f"`{text}` is a date in YAML, not text", f'put it in quotes: "{text}"'
            )
            return text

    def _mapping(self, event: Any) -> None:
        mark = event.start_mark
        tag = "" if event.tag is None else self._tag(event)
        kept = tag if tag in _KEPT_TAGS else ""
        self._start(event, Mapping({}, {}, self.source, mark.line + 1, mark.column + 1, kept), None)

    def _sequence(self, event: Any) -> None:
        mark = event.start_mark
        tag = "" if event.tag is None else self._tag(event)
        kept = tag if tag in _KEPT_TAGS else ""
        items: list[Node] = []
        self._start(event, Sequence(items, self.source, mark.line + 1, mark.column + 1, kept), items)

    def _start(self, event: Any, node: Mapping | Sequence, items: list[Node] | None) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._fail(event, "too-deep", f"cannot read YAML nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        if event.anchor:
            self.anchors[event.anchor] = None  # not complete: an alias to it now would contain itself
        self.stack.append(_Frame(node, items, event.anchor, self.nodes))
        self.nodes += 1

    def _end(self, _event: Any) -> None:
        frame = self.stack.pop()
        node = frame.node
        if frame.merges and isinstance(node, Mapping):
            _apply_merges(node, frame.merges)
        height = frame.height or (1 if node.items else 0)
        if frame.anchor:
            self.anchors[frame.anchor] = node
            self.weights[frame.anchor] = (self.nodes - frame.before, height)
        self._rise(height)
        self._add(node)

    def _rise(self, height: int) -> None:
        if self.stack and self.stack[-1].height <= height:
            self.stack[-1].height = height + 1

    def _alias(self, event: Any) -> None:
        name = event.anchor
        if name not in self.anchors:
            self._fail(event, "undefined-alias", f"alias `*{name}` has no anchor `&{name}` before it")
            raise _Stop
        node = self.anchors[name]
        if node is None:
            self._fail(event, "recursive-alias", f"alias `*{name}` stands inside its own anchor `&{name}`")
            raise _Stop
        size, height = self.weights.get(name, (1, 0))
        if len(self.stack) + height > MAX_DEPTH:
            self._fail(event, "too-deep", f"cannot read YAML nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        self.nodes += size
        self._rise(height)
        self._add(node, event)

    def _add(self, node: Node, event: Any = None) -> None:
        """Puts a finished node where it belongs: into the open collection, as its key or its value."""
        if not self.stack:
            self.done.append(node)
            return
        if self.nodes > MAX_NODES:
            place = event.start_mark if event else None
            line, column = (place.line + 1, place.column + 1) if place else (node.line, node.column)
            message = f"cannot expand the aliases of this file: more than {MAX_NODES:,} nodes"
            self.reporter.at(self.source, line, column, "too-many-nodes", message)
            raise _Stop
        frame = self.stack[-1]
        if frame.items is not None:
            frame.items.append(node)
        elif (key := frame.key) is None:
            frame.key = node if node.__class__ is Scalar and node.value.__class__ is str else self._key(node)
        else:
            frame.key = None
            self._entry(frame, key, node)

    def _key(self, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            self.reporter.error(node, "bad-key", "a key must be text, not a list or a mapping")
            raise _Stop
        if not isinstance(node.value, str):
            help_ = f'put it in quotes: "{node.text}":'
            self.reporter.error(node, "bad-key", f"key `{node.text}` must be text", help=help_)
            return Scalar(node.text, node.text, node.source, node.line, node.column)
        return node

    def _entry(self, frame: _Frame, key: Scalar, value: Node) -> None:
        name, target = key.value, frame.node
        assert isinstance(target, Mapping)
        assert isinstance(name, str)
        if name == "<<" and key.plain:
            frame.merges += self._merge_sources(value)
        elif name not in target.items:
            target.items[name] = value
            target.keys[name] = key
        elif self.reporter.full:
            raise _Stop
        else:
            message = f"key `{name}` is given twice in one mapping"
            hint = f"first given in line {target.keys[name].line}"
            self.reporter.error(key, "duplicate-key", message, help=hint)

    def _merge_sources(self, value: Node) -> list[Node]:
        sources = value.items if isinstance(value, Sequence) else [value]
        if all(isinstance(s, Mapping) for s in sources):
            return list(sources)
        self.reporter.error(
            value, "bad-merge", "`<<` takes a mapping or a list of mappings", help="write `<<: *anchor`"
        )
        return []


def _apply_merges(node: Mapping, sources: list[Node]) -> None:
    """YAML merge keys: the mapping's own keys win, then the first source that has the key."""
    for source in sources:
        assert isinstance(source, Mapping)
        for key, value in source.items.items():
            if key not in node.items:
                node.items[key] = value
                node.keys[key] = source.keys[key]


def parse_text(text: str, *, path: str = "-") -> list[Node]:
    """The documents of a text; StackFileError when it is not YAML. For tests and tools."""
    reporter = Reporter(Findings())
    documents = parse(Source(path, path, text, "/"), reporter)
    reporter.findings.raise_errors()
    return documents
