"""News of the kernel's OOM killer: a container's cgroup goes in, calls come out while it lives.

v1: an eventfd registered at memory.oom_control (Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"). v2:
inotify on memory.events (cgroup-v2.rst). Both may call without anybody having been killed: who is called counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from pystack.kernel import cgroup_files as files
from pystack.kernel.inotify import DirectoryWatcher

End = Callable[[], None]


def watch(directory: str, watcher: DirectoryWatcher, notice: Callable[[], None]) -> End:
    """Call `notice` on the event loop at each sign of want of memory, until the result is called. OSError: it cannot."""
    if os.path.exists(f"{directory}/memory.events"):
        return watcher.add(f"{directory}/memory.events", notice)
    return _watch_v1(directory, notice)


def _watch_v1(directory: str, notice: Callable[[], None]) -> End:
    loop = asyncio.get_running_loop()
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(directory, "cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(event)
        raise

    def read() -> None:
        os.eventfd_read(event)  # the kernel also writes when the cgroup goes
        notice()

    def end() -> None:
        loop.remove_reader(event)
        os.close(event)

    loop.add_reader(event, read)
    return end
