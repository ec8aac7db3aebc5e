"""`.env` and `env_file` text -> variables.

In: text, the file's name and a lookup for variables inside values. Out: name -> value, in file order; None for a bare
`NAME` that the lookup does not know. Rules: Compose Specification 05-services "env_file format" and compose-go `dotenv`:
`export` prefix, `=` or `:`, single quotes literal, double quotes with escapes, both over several lines, ` #` comments,
variables in unquoted and double-quoted values. `format: raw` takes each line as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pystack.stackfile.diagnostics import Severity
from pystack.stackfile.document import Reporter, Source
from pystack.stackfile.interpolate import MAX_FILLED, Lookup, TemplateError, substitute

_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=:#'\"]+)[ \t]*(?:([=:])[ \t]*)?")
_NAME = re.compile(r"[A-Za-z0-9_.\-\[\]]+\Z")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_STOPS = re.compile(r"\\.|['\"]", re.DOTALL)
_ESCAPE = re.compile(r"\\([abfnrtv\"\\$!`])")


def parse(
    source: Source, lookup: Lookup, reporter: Reporter, before: Mapping[str, str | None] | None = None
) -> dict[str, str | None]:
    """The variables of a file; what cannot be read is reported and left out.

    A `$NAME` in a value is what `lookup` knows, else what the file gave before it, else what is in `before`.
    """
    text = source.text.removeprefix("\ufeff").replace("\r\n", "\n")
    parser = _Parser(source, text, lookup, reporter, before or {})
    parser.run()
    return parser.values


def parse_raw(source: Source, lookup: Lookup, reporter: Reporter) -> dict[str, str | None]:
    """`format: raw` (Docker's --env-file): no quotes, no comments after values, no variables."""
    values: dict[str, str | None] = {}
    for number, line in enumerate(source.text.removeprefix("\ufeff").splitlines(), 1):
        stripped = line.lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not name or re.search(r"\s", name):
            reporter.at(source, number, 1, "env-file", f"variable `{name}` contains a space, or has no name")
        else:
            values[name] = value if equals else lookup(name)
    return values


@dataclass(slots=True)
class _Parser:
    source: Source
    text: str
    lookup: Lookup
    reporter: Reporter
    before: Mapping[str, str | None]
    values: dict[str, str | None] = field(default_factory=dict)
    position: int = 0
    size: int = 0  # of the values
    unclosed: set[str] = field(default_factory=set)  # quotes that nothing closes any more

    def run(self) -> None:
        if "\0" in self.text:
            self._fail(self.text.index("\0"), "a value holds a NUL character")
            return
        while self.position < len(self.text) and not self.reporter.full:
            end = self._line_end(self.position)
            line = self.text[self.position : end].strip()
            if not line or line.startswith("#"):
                self.position = end + 1
                continue
            self._variable(end)

    def _line_end(self, start: int) -> int:
        end = self.text.find("\n", start)
        return len(self.text) if end < 0 else end

    def _fail(self, at: int, message: str, hint: str = "", severity: Severity = "error") -> None:
        if self.reporter.findings.is_full(severity):
            return
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        self.reporter.at(self.source, line, column, "env-file", message, help=hint, severity=severity)

    def _variable(self, end: int) -> None:
        start = self.position
        match = _LINE.match(self.text, start, end)
        if not match or not _NAME.match(match.group(1)):
            self._fail(start, "cannot read this line as NAME=value", "comments begin with #")
            self.position = end + 1
            return
        name = match.group(1)
        if not match.group(2):
            after = self.text[match.end() : end].strip()
            if after and not after.startswith("#"):
                self._fail(match.end(), f"variable name `{name}` is followed by a space", "write NAME=value")
            else:
                self.values[name] = self._known(name)
            self.position = end + 1
            return
        try:
            value, self.position = self._value(match.end(), end)
            self.size += len(value)
            if self.size > MAX_FILLED:
                message = f"the values become longer than {MAX_FILLED:,} characters"
                raise TemplateError(message, "", "too-large")
            self.values[name] = value
        except TemplateError as error:
            self._fail(match.end(), str(error), error.hint)
            self.position = end + 1

    def _value(self, start: int, end: int) -> tuple[str, int]:
        """The value that begins at `start`, and where the next line begins. `end` ends the first line."""
        quote = self.text[start : start + 1]
        if quote not in ("'", '"'):
            raw = self.text[start:end]
            comment = re.search(r"\s#", raw)
            raw = raw[: comment.start()] if comment else raw
            return self._expand(raw.rstrip()), end + 1
        close = self._close(start + 1, quote)
        if close < 0:
            raise TemplateError(f"a value's quote {quote} is not closed", "", "env-file")
        raw = self.text[start + 1 : close]
        after = self._line_end(close)
        trailing = self.text[close + 1 : after].strip()
        if trailing and not trailing.startswith("#"):
            if "'" in trailing or '"' in trailing:
                raise TemplateError(f"`{trailing[:20]}` follows a quoted value", "", "env-file")
            self._fail(
                close + 1, f"`{trailing[:20]}` follows a quoted value and is ignored", severity="warning"
            )
        if quote == "'":
            return raw.replace("\\'", "'"), after + 1
        return self._expand_quoted(raw), after + 1

    def _close(self, start: int, quote: str) -> int:
        if quote in self.unclosed:
            return -1
        for found in _STOPS.finditer(self.text, start):
            if found.group() == quote:
                return found.start()
        self.unclosed.add(quote)
        return -1

    def _expand_quoted(self, raw: str) -> str:
        unescaped = _ESCAPE.sub(lambda m: "$$" if m[1] == "$" else _ESCAPES.get(m[1], m[1]), raw)
        return self._expand(unescaped)

    def _expand(self, raw: str) -> str:
        return substitute(raw, self._known)

    def _known(self, name: str) -> str | None:
        value = self.lookup(name)
        if value is None:
            value = self.values.get(name)
        return self.before.get(name) if value is None else value
