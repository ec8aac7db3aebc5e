"""What the user sees: data on stdout, everything else on stderr; colours only where they are wanted; tables; failures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

#: Compose's cycle for log prefixes: five colours, then the same in bold.
PREFIX_COLOURS = ("36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1")


class Failure(SystemExit):
    """Ends the command with a status; the message has been printed."""


def colours(stream: TextIO, *, ansi: str = "auto") -> bool:
    """Whether to colour: --ansi, then NO_COLOR, then CLICOLOR_FORCE or FORCE_COLOR, then a terminal that is not dumb."""
    if ansi in {"always", "never"}:
        return ansi == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") or os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def paint(text: str, code: str, on: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if on else text


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(message: str, *, hint: str = "", status: int = 1) -> NoReturn:
    """Say what cannot be done and what to do next, and end with `status`."""
    on = colours(sys.stderr)
    text = "\n".join(printable(line) for line in message.split("\n"))
    print(f"{paint('error:', '31;1', on)} {text}", file=sys.stderr)
    if hint:
        print(f"{paint('hint:', '36', on)} {hint}", file=sys.stderr)
    raise Failure(status)


def printable(text: str) -> str:
    """Control characters as escapes, so that a name or an error cannot drive the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns three spaces apart, as Docker prints them."""
    lines = [list(header), *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
