"""Facts about the host that do not change while the engine runs, for /info, validation and the seccomp compiler.

In: /proc, /sys, uname(2). Out: one `Host`. Cgroup facts come from `kernel.cgroups.detect()`.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass

from pystack.kernel import apparmor
from pystack.kernel.capabilities import last_capability
from pystack.kernel.cgroups import Hierarchy, detect


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`kernel` is (major, minor); `machine` as uname -m; `memory` and `swap` in bytes; sets of CPUs and memory nodes."""

    kernel: tuple[int, int]
    kernel_release: str
    machine: str
    operating_system: str
    hostname: str
    cpus: frozenset[int]
    memory_nodes: frozenset[int]
    memory: int
    swap: int
    cap_last_cap: int
    security_modules: tuple[str, ...]
    apparmor: bool
    seccomp: bool
    cgroups: Hierarchy

    @property
    def cpu_count(self) -> int:
        return len(self.cpus)

    @property
    def architecture(self) -> str:
        """Go's and OCI's name of the machine: amd64, arm64 …"""
        return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}.get(self.machine, self.machine)

    def security_options(self) -> list[str]:
        """Docker's SecurityOptions of /info."""
        options = ["name=apparmor"] if self.apparmor else []
        if self.seccomp:
            options.append("name=seccomp,profile=builtin")
        if self.cgroups.mode == "v2":
            options.append("name=cgroupns")
        return options


def parse_cpu_list(text: str) -> frozenset[int]:
    """Numbers of a list such as "0-3,7" (cpuset(7)). ValueError when malformed."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        low = int(first)
        high = int(last) if dash else low
        if high < low or high > 1 << 16:
            raise ValueError(part)
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def parse_kernel(release: str) -> tuple[int, int]:
    """(major, minor) of a release such as "6.1.0-56-cloud-amd64"."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _read(path: str, default: str = "") -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return default


def _memory() -> tuple[int, int]:
    """(MemTotal, SwapTotal) in bytes (proc_meminfo(5) counts in KiB)."""
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))  # type: ignore[return-value]


def file_system_of(path: str) -> str:
    """Type of the file system that holds `path`: "ext4", "xfs", "overlay" … (the longest mount point above it)."""
    best, found = -1, "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= best:
                best, found = len(point), right.split()[0]
    return found


def propagation_of(path: str) -> tuple[str, frozenset[str]]:
    """(mount point, {"shared", "master"} as it has them) of the mount that holds `path` (proc_pid_mountinfo(5))."""
    path, found = os.path.realpath(path), ("/", frozenset[str]())
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.partition(" - ")[0].split()
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(found[0]):
                found = (point, frozenset(field.partition(":")[0] for field in fields[6:]))
    return found


@functools.cache
def facts() -> Host:
    """The host, read once."""
    memory, swap = _memory()
    release = platform.release()
    modules = _read("/sys/kernel/security/lsm").strip()
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return Host(
        kernel=parse_kernel(release),
        kernel_release=release,
        machine=platform.machine(),
        operating_system=pretty[1] if pretty else "Linux",
        hostname=os.uname().nodename,
        cpus=parse_cpu_list(_read("/sys/devices/system/cpu/online", "0")),
        memory_nodes=parse_cpu_list(_read("/sys/devices/system/node/online", "0")),
        memory=memory,
        swap=swap,
        cap_last_cap=last_capability(),
        security_modules=tuple(filter(None, modules.split(","))),
        apparmor=apparmor.enabled(),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        cgroups=detect(),
    )
