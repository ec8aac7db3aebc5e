"""Query parameters: text goes in; filters, flags, numbers and instants come out, read as Docker reads them."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from pystack.api import jsons
from pystack.model.errors import InvalidInput

_FALSE = frozenset({"", "0", "no", "false", "none"})
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}\Z")
_UNIX = re.compile(r"-?[0-9]+(?:\.[0-9]{1,9})?\Z")


def flag(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    """Docker's booleans: anything is true but "", 0, no, false and none."""
    text = query.get(name)
    return default if text is None else text.strip().lower() not in _FALSE


def integer(query: Mapping[str, str], name: str, *, low: int = -(2**63), high: int = 2**63 - 1) -> int | None:
    """A whole number from `low` to `high`, or None when it is not given."""
    text = query.get(name, "").strip()
    if not text:
        return None
    if not _INTEGER.match(text):
        raise InvalidInput(f"cannot read {name}: {text[:40]!r} is not a whole number")
    number = int(text)
    if not low <= number <= high:
        raise InvalidInput(f"cannot read {name}: {text[:40]} is out of range")
    return number


def dimension(query: Mapping[str, str], name: str) -> int:
    """Rows or columns of a terminal: what struct winsize holds, ioctl_tty(2)."""
    number = integer(query, name, low=0, high=2**16 - 1)
    if number is None:
        raise InvalidInput("invalid resize: both h and w are needed")
    return number


def parse_filters(text: str, allowed: Collection[str] | None = None) -> dict[str, list[str]]:
    """Filters in both spellings: {"label": ["a=b"]} and {"label": {"a=b": true}}. `allowed` None = any name."""
    if not text.strip():
        return {}
    value = jsons.parse(text.encode())
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("invalid filters: not a JSON object")
    filters: dict[str, list[str]] = {}
    for name, given in value.items():
        if allowed is not None and name not in allowed:
            raise InvalidInput(f"invalid filter '{name[:80]}'")
        filters[name] = _values(name, given)
    return filters


def _values(name: str, given: object) -> list[str]:
    if isinstance(given, dict) and all(isinstance(on, bool) for on in given.values()):
        return [str(key) for key, on in given.items() if on]
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        return list(given)
    raise InvalidInput(
        f"invalid filter '{name[:80]}': neither a list of strings nor a map of string to boolean"
    )


def parse_duration(text: str) -> int | None:
    """Go's `time.Duration` text ("1h30m", "10s") in ns; None when it is not one."""
    rest, sign = (text[1:], -1) if text.startswith("-") else (text, 1)
    total, position = 0.0, 0
    for match in _DURATION.finditer(rest):
        if match.start() != position:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    return sign * int(total) if rest and position == len(rest) else None


def parse_instant(text: str, name: str) -> int:
    """Wall-clock ns from unix seconds[.fraction], RFC 3339, a local date, or a duration before now; 0 for ""."""
    text = text.strip()
    if not text or text == "0":
        return 0
    if _UNIX.match(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0") or 0)
    if (ago := parse_duration(text)) is not None:
        return time.time_ns() - ago
    try:
        return instant_ns(text)
    except ValueError:
        raise InvalidInput(f"cannot read {name}: {text[:60]!r} is no time stamp and no duration") from None


def instant_ns(text: str) -> int:
    """Wall-clock ns of an RFC 3339 text, exact to the nanosecond. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    fraction = re.search(r"\.([0-9]{1,9})", text)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 10**9 + (int(fraction[1].ljust(9, "0")) if fraction else 0)
