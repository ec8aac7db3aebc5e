"""Plain values -> YAML text that every parser reads alike: block style, and text in double quotes unless it is plainly text.

In: dict, list, str, int, float, bool and None. Out: YAML 1.2, also right under 1.1's booleans and numbers. A library would
cost the command more time than all its other work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+-]+)*\Z")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", ".inf", ".nan", ".", ".."})


def dump(value: Any) -> str:
    """The document, with a newline at its end."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{indent}{_scalar(key)}:", item, indent + "  ")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _item(item, indent)
    else:
        yield indent + _scalar(value)


def _entry(head: str, item: Any, indent: str) -> Iterator[str]:
    if isinstance(item, (dict, list)) and item:
        yield head
        yield from _lines(item, indent)
    else:
        yield f"{head} {_scalar(item)}"


def _item(item: Any, indent: str) -> Iterator[str]:
    """A list's entry: what it holds begins on the dash's line."""
    lines = _lines(item, indent + "  ")
    yield f"{indent}- {next(lines)[len(indent) + 2 :]}"
    yield from lines


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _PLAIN.match(value) and value.lower() not in _WORDS and not re.match(r"\.[0-9]", value):
            return value
        return _quoted(value)
    return "null" if value is None else json.dumps(value)


def _quoted(text: str) -> str:
    if text.isascii() or all(c.isprintable() or c in "\n\t" for c in text):
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")
    return '"' + "".join(_escape(c) for c in text) + '"'


def _escape(char: str) -> str:
    if char.isprintable():
        return {'"': '\\"', "\\": "\\\\"}.get(char, char)
    return f"\\U{ord(char):08x}"
