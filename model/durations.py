"""Go's durations as text ("1h30m", "300ms"): text in, nanoseconds out."""

from __future__ import annotations

import re

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> int | None:
    """Nanoseconds, or None when this is no duration. "0" is one without a unit (Go, time.ParseDuration)."""
    if text == "0":
        return 0
    total, at = 0.0, 0
    for match in _PART.finditer(text):
        if match.start() != at:
            return None
        total, at = total + float(match[1]) * _UNITS[match[2]], match.end()
    return int(total) if text and at == len(text) else None
