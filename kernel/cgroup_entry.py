"""What launcher, shim and child do with cgroups: directories in; entering, and the OOM killer's count. Stdlib only.

Making, limiting and removing them is the daemon's part (`kernel.cgroups`).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Sequence


_UNIFIED: dict[str, bool] = {}  # what was found, which never changes; grows in shims only


def is_v2(directory: str) -> bool:
    """Whether it is of the unified hierarchy, where processes join through `cgroup.procs` only."""
    found = _UNIFIED.get(directory)
    if found is None:
        found = _UNIFIED[directory] = not os.path.exists(f"{directory}/tasks")
    return found


def enter(directory: str) -> None:
    """Move the caller, which must be single-threaded, into the cgroup.

    v1: writing 0 to `tasks` oneself is cheap, where a pid written from outside waits for RCU (7-20 ms).
    """
    name = "cgroup.procs" if is_v2(directory) else "tasks"
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def oom_kills(cgroups: Sequence[str]) -> int:
    """How often the kernel's OOM killer struck in these cgroups (v1 memory.oom_control, v2 memory.events)."""
    for directory in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            try:
                fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # not the memory controller's, or already gone
            try:
                lines = os.read(fd, 4096).splitlines()
            finally:
                os.close(fd)
            fields = dict(line.split() for line in lines if line.count(b" ") == 1)
            return int(fields.get(b"oom_kill", 0))
    return 0
