"""Cgroup file systems: where they are mounted, and reading and writing their files.

In: /proc/self/mountinfo, /proc/cgroups, cgroup directories. Out: a `Hierarchy` and values. See cgroups(7).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pystack.model.errors import EngineError

#: The v1 controllers that containers are put into; net_cls, perf_event and the like cost and give nothing.
V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
#: The v2 controllers that are passed on to containers.
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """What this host has. `mounts`: v1 controller -> mount point; `unified`: the cgroup2 mount point or "".

    "hybrid" is v1 controllers beside a cgroup2 tree; the engine then uses the v1 side only.
    """

    mode: Literal["v1", "hybrid", "v2"]
    controllers: frozenset[str]
    mounts: Mapping[str, str]
    unified: str

    @property
    def version(self) -> Literal["1", "2"]:
        """Docker's CgroupVersion."""
        return "2" if self.mode == "v2" else "1"

    @property
    def tops(self) -> list[str]:
        """The mount points in use, each once (cpu and cpuacct often share one)."""
        return [self.unified] if self.mode == "v2" else list(dict.fromkeys(self.mounts.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Which limits work here: the names of Docker's /info fields."""

    memory_limit: bool
    swap_limit: bool
    memory_reservation: bool
    memory_swappiness: bool
    oom_kill_disable: bool
    cpu_shares: bool
    cpu_cfs: bool
    cpuset: bool
    pids_limit: bool
    blkio_weight: bool
    blkio_weight_device: bool
    blkio_read_bps: bool
    blkio_write_bps: bool
    blkio_read_iops: bool
    blkio_write_iops: bool
    cpu_realtime: bool


def detect() -> Hierarchy:
    """Read what is mounted now. Raises EngineError when there is no usable cgroup file system."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file, _enabled_v1())


def _enabled_v1() -> set[str]:
    """Controllers of /proc/cgroups that are enabled; newer kernels without v1 have no such file."""
    try:
        with open("/proc/cgroups", encoding="ascii") as file:
            rows = [line.split() for line in file if not line.startswith("#")]
    except FileNotFoundError:
        return set()
    return {row[0] for row in rows if row[3] == "1"}


def parse_mountinfo(lines: Iterator[str] | list[str], enabled: set[str]) -> Hierarchy:
    """The hierarchy in mountinfo lines. A mount of a controller seen first wins; later ones are copies in containers."""
    mounts: dict[str, str] = {}
    unified = ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = after.split()
        point = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if fields[0] == "cgroup2" and not unified:
            unified = point
        elif fields[0] == "cgroup":
            for controller in fields[2].split(","):
                if controller in V1_CONTROLLERS and controller in enabled:
                    mounts.setdefault(controller, point)
    if mounts:
        mode: Literal["v1", "hybrid", "v2"] = "hybrid" if unified else "v1"
        ordered = {name: mounts[name] for name in V1_CONTROLLERS if name in mounts}
        return Hierarchy(mode=mode, controllers=frozenset(mounts), mounts=ordered, unified=unified)
    if unified:
        names = (
            read_words(unified, "cgroup.controllers")
            if os.path.exists(f"{unified}/cgroup.controllers")
            else []
        )
        return Hierarchy(mode="v2", controllers=frozenset(names), mounts={}, unified=unified)
    raise EngineError(
        "cannot find a cgroup file system",
        hint="mount one: mount -t cgroup2 none /sys/fs/cgroup (see cgroups(7))",
    )


def read(directory: str, name: str) -> str:
    """A file's text, "" when the kernel does not offer it."""
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.EOPNOTSUPP}:  # removed meanwhile, or not for this cgroup
            return ""
        raise
    finally:
        os.close(fd)


def read_words(directory: str, name: str) -> list[str]:
    return read(directory, name).split()


def read_int(directory: str, name: str, default: int = 0) -> int:
    """A number; `default` when the file is missing or says "max"."""
    text = read(directory, name).strip()
    return int(text) if text.lstrip("-").isdigit() else default


def read_pairs(directory: str, name: str) -> dict[str, int]:
    """Lines of "key number" (memory.stat, cpu.stat, cgroup.events …)."""
    pairs = {}
    for line in read(directory, name).splitlines():
        key, _, value = line.partition(" ")
        pairs[key] = int(value) if value.lstrip("-").isdigit() else 0
    return pairs


def write(directory: str, name: str, value: str) -> bool:
    """Write one value; False when the kernel has no such file. Other errors are OSError with the file's path."""
    path = f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.isdir(directory):
            return False
        raise
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)
    return True


def subtree(directory: str) -> list[str]:
    """A cgroup and all cgroups below it, deepest first (the order in which they can be removed)."""
    found = [base for base, _, _ in os.walk(directory)]
    return found[::-1]


def pids_below(directory: str) -> list[int]:
    """Processes of a cgroup and of those below it; empty when it is gone."""
    return [int(pid) for place in subtree(directory) for pid in read_words(place, "cgroup.procs")]
