"""Wall-clock instants as Docker prints them: RFC 3339, nine digits of nanoseconds at most, UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from pystack.model.errors import InvalidInput

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d\d:\d\d)?\Z")


def format_ns(ns: int) -> str:
    """RFC 3339 with nine digits for nanoseconds since the epoch."""
    seconds, rest = divmod(ns, 1_000_000_000)
    t = time.gmtime(seconds)
    return f"{t[0]:04}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}.{rest:09}Z"


def now_ns() -> int:
    return time.time_ns()


def now() -> str:
    return format_ns(time.time_ns())


def parse_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 instant; negative for "0001-01-01T00:00:00Z", Docker's "never"."""
    # The engine's own logs and records have this very form; it is read a million times in a long log.
    match = _RFC3339.match(text)
    if match is None:
        raise InvalidInput(
            f"cannot read {text!r} as a time", hint="use RFC 3339, such as 2026-01-31T12:00:00Z"
        )
    day, clock, fraction, zone = match.groups()
    offset = "+00:00" if zone in {None, "Z", "z"} else zone
    whole = int(datetime.fromisoformat(f"{day}T{clock}{offset}").astimezone(UTC).timestamp())
    return whole * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
