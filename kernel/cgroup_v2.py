"""Cgroup v2: limits as files of one directory, conversions from v1's units, kill, freeze and statistics.

In: `Resources`, a directory. Out: settings (pure), effects and Docker's statistics. Conversions are those of runc and
crun, so that the same Compose file gives the same limits. See the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping

from pystack.kernel import blockio
from pystack.kernel import cgroup_files as files
from pystack.kernel.cgroup_files import V2_CONTROLLERS, Features
from pystack.model.container import Resources
from pystack.model.errors import EngineError, InvalidInput

Setting = tuple[str, str]  # file, value


def cpu_weight(shares: int) -> int:
    """cpu.weight 1..10000 for cpu.shares 2..262144 (the linear conversion of runc 1.2 and crun)."""
    clamped = min(max(shares, 2), 262144)
    return 1 + (clamped - 2) * 9999 // 262142


def cpu_max(resources: Resources) -> str:
    """cpu.max, "" when nothing is asked. The default period is 100 ms."""
    period, quota = resources.cpu_period or 100_000, resources.cpu_quota
    if resources.nano_cpus:
        quota = max(resources.nano_cpus * period // 1_000_000_000, 1000)
    if not quota and not resources.cpu_period:
        return ""
    return f"{quota if quota > 0 else 'max'} {period}"


def swap_max(memory: int, memory_swap: int) -> str:
    """memory.swap.max, which counts swap alone, where Docker's limit counts memory and swap; "" = leave."""
    if memory_swap < 0:
        return "max"
    if not memory_swap or memory <= 0:
        return ""
    return str(max(memory_swap - memory, 0))


def settings(resources: Resources) -> list[Setting]:
    """Every value that these resources ask for, in the order of writing. Swappiness and oom_kill_disable are v1 only."""
    found: list[Setting] = []
    if resources.memory:
        found.append(("memory.max", str(resources.memory) if resources.memory > 0 else "max"))
    if swap := swap_max(resources.memory, resources.memory_and_swap):
        found.append(("memory.swap.max", swap))
    if resources.memory_reservation:
        found.append(("memory.low", str(resources.memory_reservation)))
    if resources.cpu_shares:
        found.append(("cpu.weight", str(cpu_weight(resources.cpu_shares))))
    if quota := cpu_max(resources):
        found.append(("cpu.max", quota))
    if resources.cpuset_cpus:
        found.append(("cpuset.cpus", resources.cpuset_cpus))
    if resources.cpuset_mems:
        found.append(("cpuset.mems", resources.cpuset_mems))
    if resources.pids_limit is not None:
        found.append(("pids.max", str(resources.pids_limit) if resources.pids_limit > 0 else "max"))
    found += blockio.v2_settings(resources)
    found += unified_settings(resources.unified)
    return found


#: What may be set by name: limits of the container's own that Docker has no field for. None of them reaches beyond it.
_UNIFIED = re.compile(
    r"memory\.(high|min|low|oom\.group|swap\.(high|max)|zswap\.max)|cpu\.(idle|max\.burst|weight\.nice)"
    r"|io\.(latency|prio\.class)|cgroup\.max\.(depth|descendants)|hugetlb\.[0-9]+[KMG]B\.(rsvd\.)?max"
)


def unified_settings(unified: Mapping[str, str]) -> list[Setting]:
    """Files of cgroup v2 given by name. InvalidInput for one that is not a container's to set."""
    for name, value in unified.items():
        if not _UNIFIED.fullmatch(name):
            raise InvalidInput(
                f"cannot set the cgroup file {name!r} of a container",
                hint="memory.high, memory.min, memory.oom.group, cpu.idle, hugetlb.2MB.max and the like can be set",
            )
        if not value or "\n" in value:
            raise InvalidInput(f"cannot set {name} to {value!r}: give one line")
    return sorted(unified.items())


def features(directory: str) -> Features:
    """What works in a cgroup of ours."""

    def has(*names: str) -> bool:
        return any(os.path.exists(f"{directory}/{name}") for name in names)

    return Features(
        memory_limit=has("memory.max"),
        swap_limit=has("memory.swap.max"),
        memory_reservation=has("memory.low"),
        memory_swappiness=False,
        oom_kill_disable=False,
        cpu_shares=has("cpu.weight"),
        cpu_cfs=has("cpu.max"),
        cpuset=has("cpuset.cpus"),
        pids_limit=has("pids.max"),
        blkio_weight=has("io.weight", "io.bfq.weight"),
        blkio_weight_device=has("io.weight", "io.bfq.weight"),
        blkio_read_bps=has("io.max"),
        blkio_write_bps=has("io.max"),
        blkio_read_iops=has("io.max"),
        blkio_write_iops=has("io.max"),
        cpu_realtime=False,
    )


def enable_controllers(directory: str) -> None:
    """Pass the controllers that `directory` has on to its children.

    EBUSY: it holds processes and is not the root of the whole hierarchy ("no internal processes", cgroups(7)).
    """
    available = set(files.read_words(directory, "cgroup.controllers"))
    on = set(files.read_words(directory, "cgroup.subtree_control"))
    wanted = [name for name in V2_CONTROLLERS if name in available and name not in on]
    if not wanted:
        return
    try:
        files.write(directory, "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
    except OSError as error:
        if (
            error.errno == errno.EINVAL
        ):  # one of them will not (cpu, while realtime processes run): the others may
            _enable_each(directory, wanted)
            return
        raise EngineError(
            f"cannot enable the cgroup controllers {', '.join(wanted)} in {directory}: {error.strerror}",
            hint="give the engine a cgroup without processes of its own "
            "(systemd: Delegate=yes; a container: move them to a child)",
        ) from error


def _enable_each(directory: str, wanted: list[str]) -> None:
    """Enable what can be; what cannot is missing in `features` and is warned of there."""
    for name in wanted:
        try:
            files.write(directory, "cgroup.subtree_control", f"+{name}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


# Statistics


def block_entries(text: str) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Docker's (bytes, operations) entries from io.stat lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …"."""
    volume: list[dict[str, object]] = []
    count: list[dict[str, object]] = []
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for target, op, key in (
            (volume, "read", "rbytes"),
            (volume, "write", "wbytes"),
            (count, "read", "rios"),
            (count, "write", "wios"),
        ):
            if key in values:
                target.append({"major": int(major), "minor": int(minor), "op": op, "value": int(values[key])})
    return volume, count


def statistics(directory: str, machine_memory: int) -> dict[str, dict[str, object]]:
    """Docker's cpu_stats, memory_stats, blkio_stats and pids_stats of a container; times in ns, sizes in bytes."""
    cpu = files.read_pairs(directory, "cpu.stat")
    volume, count = block_entries(files.read(directory, "io.stat"))
    names = ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time", "sectors")
    return {
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": cpu.get("usage_usec", 0) * 1000,
                "usage_in_kernelmode": cpu.get("system_usec", 0) * 1000,
                "usage_in_usermode": cpu.get("user_usec", 0) * 1000,
            },
            "throttling_data": {
                "periods": cpu.get("nr_periods", 0),
                "throttled_periods": cpu.get("nr_throttled", 0),
                "throttled_time": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory_stats": {
            "usage": files.read_int(directory, "memory.current"),
            "stats": files.read_pairs(directory, "memory.stat"),
            "limit": min(files.read_int(directory, "memory.max", machine_memory), machine_memory),
        },
        "blkio_stats": {
            "io_service_bytes_recursive": volume,
            "io_serviced_recursive": count,
            **{f"{name}_recursive": None for name in names},
        },
        "pids_stats": {
            "current": files.read_int(directory, "pids.current"),
            "limit": files.read_int(directory, "pids.max", (1 << 64) - 1),
        },
    }


def oom_kills(directory: str) -> int:
    return files.read_pairs(directory, "memory.events").get("oom_kill", 0)


def is_frozen(directory: str) -> bool:
    return files.read_pairs(directory, "cgroup.events").get("frozen", 0) == 1
