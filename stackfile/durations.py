"""Durations and sizes: text -> nanoseconds or bytes, and back to the text that Compose prints.

Sources: Compose Specification 11-extension "Specifying durations" and "byte values", compose-go (str2duration: also d, w)
and docker/go-units.
"""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 604_800_000_000_000,
}
_PART = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(ns|us|µs|ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_duration(text: str) -> int:
    """Nanoseconds. ValueError when the text is not a duration."""
    sign = -1 if text.startswith("-") else 1
    body = text.removeprefix("-").removeprefix("+")
    if body == "0":
        return 0
    total, position = 0, 0
    while match := _PART.match(body, position):
        total += round(float(match.group(1)) * _UNITS[match.group(2)])
        position = match.end()
    if not body or position != len(body):
        raise ValueError(text)
    return sign * total


def format_duration(nanoseconds: int) -> str:
    """Go's time.Duration text: 1h0m0s, 1m30s, 1.5s, 200ms."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000_000_000:
        unit, size = ("ms", 1_000_000) if rest >= 1_000_000 else ("µs", 1_000) if rest >= 1_000 else ("ns", 1)
        return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, below = divmod(rest, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(below, 1_000_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    if not part:
        return str(whole)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"


def parse_size(text: str) -> int:
    """Bytes; units are powers of 1024. ValueError when the text is not a size."""
    match = _SIZE.match(text.strip())
    if not match:
        raise ValueError(text)
    return int(float(match.group(1)) * 1024 ** _POWERS[match.group(2).lower()])
