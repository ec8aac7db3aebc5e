"""Named failpoints: places where a test can make this process die, fail or wait. Free when off.

A side effect that matters for crash safety calls `failpoint("network.bridge.created")` just after (or before) it.
`PYSTACK_FAILPOINTS` holds `name=action[,name=action…]`, read once at import; actions are `kill` (SIGKILL to oneself),
`error` (OSError EIO), `sleep:<seconds>`, and `N*action` to act at the N-th pass only. Standard library only: the launcher
and the shim import this.
"""

from __future__ import annotations

import os
import signal
import time

_PLAN: dict[str, tuple[int, str]] = {}
_SEEN: dict[str, int] = {}


def _parse(text: str) -> dict[str, tuple[int, str]]:
    plan: dict[str, tuple[int, str]] = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        count, star, rest = action.partition("*")
        plan[name] = (int(count), rest) if star else (0, action)
    return plan


def configure(text: str) -> None:
    """Replace the plan (tests in the same process)."""
    _PLAN.clear()
    _SEEN.clear()
    _PLAN.update(_parse(text))


def failpoint(name: str) -> None:
    """Act if the plan names this place. With no plan this is one truth test."""
    if not _PLAN:
        return
    at, action = _PLAN.get(name, (0, ""))
    if not action:
        return
    _SEEN[name] = _SEEN.get(name, 0) + 1
    if at and _SEEN[name] != at:
        return
    verb, _, argument = action.partition(":")
    if verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "error":
        raise OSError(5, f"failpoint {name}")
    elif verb == "sleep":
        time.sleep(float(argument))
    else:
        raise ValueError(f"unknown failpoint action {action!r} for {name}")


configure(os.environ.get("PYSTACK_FAILPOINTS", ""))
