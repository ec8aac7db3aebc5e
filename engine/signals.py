"""Signal names and numbers as Docker takes them: "SIGTERM", "term", "15", "RTMIN+3" in, a number out. Pure."""

from __future__ import annotations

import signal

from pystack.model.errors import InvalidInput

_RTMIN, _RTMAX = 34, 64  # what glibc leaves to programs; Docker's table has the same


def _table() -> dict[str, int]:
    names = {
        s.name.removeprefix("SIG"): int(s) for s in signal.Signals if s.name not in {"SIGRTMIN", "SIGRTMAX"}
    }
    names |= {
        "IOT": names["ABRT"],
        "CLD": names["CHLD"],
        "POLL": names["IO"],
        "RTMIN": _RTMIN,
        "RTMAX": _RTMAX,
    }
    names |= {f"RTMIN+{n}": _RTMIN + n for n in range(1, 16)}
    names |= {f"RTMAX-{n}": _RTMAX - n for n in range(1, 15)}
    return names


_NUMBERS = _table()


def parse_signal(text: str) -> int:
    """The number of a signal given by name (with or without SIG, any case) or number. InvalidInput otherwise."""
    if text.isdecimal():
        number = int(text)
        if 1 <= number <= _RTMAX:
            return number
    number = _NUMBERS.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise InvalidInput(
            f"invalid signal: {text}", hint="use a name such as SIGTERM or a number from 1 to 64"
        )
    return number
