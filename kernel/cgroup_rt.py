"""Realtime CPU time on cgroup v1: what a container asks for has to be lent to every cgroup above it, and given back.

In: directories of the cpu controller, microseconds. The kernel wants the shares of all children to fit into their
parent's (Documentation/scheduler/sched-rt-group.rst), and a new cgroup has none. Nothing is remembered: a parent has
what its children sum up to.
"""

from __future__ import annotations

import os

from pystack.kernel import cgroup_files as files

PERIOD, RUNTIME = "cpu.rt_period_us", "cpu.rt_runtime_us"
DEFAULT_PERIOD = 1_000_000


def runtime_of(directory: str) -> int:
    return files.read_int(directory, RUNTIME)


def share(directory: str) -> float:
    """The part of one CPU that a cgroup has."""
    return runtime_of(directory) / (files.read_int(directory, PERIOD) or DEFAULT_PERIOD)


def _children(directory: str) -> list[str]:
    return [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]


def settle(ancestors: list[str], extra: float = 0.0) -> None:
    """Give each of `ancestors` (outermost first) its children's sum, plus `extra`, a share of one CPU, for one to come.

    Raising goes from the outside in, lowering from the inside out. OSError (EINVAL) when the host has not that much left.
    """
    places = ancestors if extra else ancestors[::-1]
    for place in places:
        period = files.read_int(place, PERIOD) or DEFAULT_PERIOD
        wanted = int(round(sum(map(share, _children(place))) + extra, 6) * period)
        if wanted != runtime_of(place):
            files.write(place, RUNTIME, str(wanted))
