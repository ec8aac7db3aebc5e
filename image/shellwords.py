"""Words as a Dockerfile has them: text and variables in, words without quotes out. Pure.

Single quotes keep everything, double quotes keep all but variables, a backslash keeps the next character. Variables are
$name, ${name}, and ${name:-x} ${name-x} ${name:+x} ${name+x} ${name:?x} ${name?x}. Source: the Dockerfile reference,
"Environment replacement".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pystack.model.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_OPERATOR = re.compile(r":?[-+?]")
_ESCAPE = "\\"
_DEPTH_MAX = 20


def split(text: str) -> list[str]:
    """Words at white space outside of quotes, quotes and backslashes left in them."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == _ESCAPE and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if word:
                words.append(word)
            word, at = "", at + 1
            continue
        word += char
        at += 1
    return [*words, word] if word else words


def expand(word: str, variables: Mapping[str, str]) -> str:
    """The word with its variables replaced and its quotes taken away. InvalidInput when it cannot be read."""
    return _Reader(word, variables).until("", 0)


class _Reader:
    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text, self._variables, self._at = text, variables, 0

    def until(self, end: str, depth: int) -> str:
        """The text up to `end`, which is taken, too; "" means the end of all."""
        if depth > _DEPTH_MAX:
            raise InvalidInput(f"cannot read {self._text[:60]!r}: it is nested too deep")
        out: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if end and char == end:
                return "".join(out)
            if char == "'":
                out.append(self._quoted())
            elif char == '"':
                out.append(self._double(depth))
            elif char == _ESCAPE:
                out.append(self._take() or _ESCAPE)
            elif char == "$":
                out.append(self._variable(depth))
            else:
                out.append(char)
        if end:
            raise InvalidInput(f"syntax error: missing {end!r} in {self._text[:60]!r}")
        return "".join(out)

    def _take(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _quoted(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise InvalidInput("unexpected end of statement while looking for matching single-quote")
        found, self._at = self._text[self._at : end], end + 1
        return found

    def _double(self, depth: int) -> str:
        out: list[str] = []
        while char := self._take():
            if char == '"':
                return "".join(out)
            if char == "$":
                out.append(self._variable(depth))
            elif char == _ESCAPE:
                after = self._take()
                out.append(after if after in {'"', "$", _ESCAPE} else char + after)
            else:
                out.append(char)
        raise InvalidInput("unexpected end of statement while looking for matching double-quote")

    def _variable(self, depth: int) -> str:
        braced = self._text.startswith("{", self._at)
        match = _NAME.match(self._text, self._at + braced)
        if match is None:
            if braced:
                raise InvalidInput(f"syntax error: bad substitution in {self._text[:60]!r}")
            return "$"
        self._at = match.end()
        value = self._variables.get(match[0])
        if not braced:
            return value or ""
        operator = _OPERATOR.match(self._text, self._at)
        if operator is None:
            if self._take() != "}":
                raise InvalidInput(f"unsupported modifier in substitution in {self._text[:60]!r}")
            return value or ""
        self._at = operator.end()
        other = self.until("}", depth + 1)
        given = bool(value) if operator[0].startswith(":") else value is not None
        if operator[0].endswith("-"):
            return (value or "") if given else other
        if operator[0].endswith("+"):
            return other if given else ""
        if not given:
            raise InvalidInput(f"{match[0]}: {other or 'not set'}")
        return value or ""
