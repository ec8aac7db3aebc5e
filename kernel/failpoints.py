"""Named failpoints: places where a test can make this process die, fail or wait. Free when off.

A side effect that matters for crash safety calls `failpoint("network.bridge.created")` just after (or before) it.
`PYSTACK_FAILPOINTS` holds `name=action[,name=action…]`, read once at import; actions are `kill` (SIGKILL to oneself),
`error` (OSError EIO), `sleep:<seconds>`, and `N*action` to act at the N-th pass only. Each process counts its own passes;
with an item `passes=/path` all processes count them together in that file, of which forks share the mapping: then the
N-th pass is one pass of one process, however many start again after it. Standard library only: the launcher and the shim
import this.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from mmap import mmap

#: Bytes of the file of passes: a decimal number at the place that the failpoint has in the plan.
SLOT, SLOTS = 8, 64

_PLAN: dict[str, tuple[int, str]] = {}
_SEEN: dict[str, int] = {}
_shared: mmap | None = None


def _parse(text: str) -> dict[str, tuple[int, str]]:
    plan: dict[str, tuple[int, str]] = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        count, star, rest = action.partition("*")
        plan[name] = (int(count), rest) if star else (0, action)
    return plan


def configure(text: str) -> None:
    """Replace the plan (tests in the same process)."""
    global _shared
    _PLAN.clear()
    _SEEN.clear()
    _PLAN.update(_parse(text))
    _, path = _PLAN.pop("passes", (0, ""))
    _shared = _map(path) if path else None


def _map(path: str) -> mmap:
    import mmap

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, SLOT * SLOTS)
        return mmap.mmap(fd, SLOT * SLOTS)
    finally:
        os.close(fd)


def _pass(name: str) -> int:
    """Count this pass; its number, from 1."""
    if _shared is None:
        _SEEN[name] = _SEEN.get(name, 0) + 1
        return _SEEN[name]
    start = list(_PLAN).index(name) * SLOT
    number = int(_shared[start : start + SLOT].strip(b"\0") or b"0") + 1
    _shared[start : start + SLOT] = b"%0*d" % (SLOT, number)
    return number


def passes(path: str) -> list[int]:
    """How often each failpoint of a plan with `passes=path` was come by, in the plan's order (64 places)."""
    with open(path, "rb") as file:
        data = file.read()
    return [int(data[start : start + SLOT].strip(b"\0") or b"0") for start in range(0, SLOT * SLOTS, SLOT)]


def failpoint(name: str) -> None:
    """Act if the plan names this place. With no plan this is one truth test."""
    if not _PLAN:
        return
    at, action = _PLAN.get(name, (0, ""))
    if not action:
        return
    number = _pass(name)
    if at and number != at:
        return
    verb, _, argument = action.partition(":")
    if verb == "kill":
        os.kill(os.getpid(), 9)  # SIGKILL
    elif verb == "error":
        raise OSError(5, f"failpoint {name}")
    elif verb == "sleep":
        time.sleep(float(argument))
    else:
        raise ValueError(f"unknown failpoint action {action!r} for {name}")


configure(os.environ.get("PYSTACK_FAILPOINTS", ""))
