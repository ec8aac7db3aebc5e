"""Cgroup v1: limits as files of one directory per controller, killing and freezing by the freezer, statistics.

In: `Resources`, directories by controller. Out: settings (pure), effects and Docker's statistics. See the kernel's
Documentation/admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from pystack.kernel import blockio
from pystack.kernel import cgroup_files as files
from pystack.kernel.cgroup_files import Features
from pystack.kernel.devices import ALLOW_ALL, DeviceRule
from pystack.model.container import Resources

#: What an unlimited memory.limit_in_bytes reads as is about this, whatever the page size.
_UNLIMITED = 1 << 62
_ABSENT = "Your kernel does not support "
Setting = tuple[str, str, str]  # controller, file, value


def cpu_settings(resources: Resources) -> list[Setting]:
    """cpu.* values; `nano_cpus` becomes a quota of a 100 ms period. Period first: a quota is checked against it."""
    period, quota = resources.cpu_period, resources.cpu_quota
    if resources.nano_cpus:
        period = 100_000
        quota = max(resources.nano_cpus * period // 1_000_000_000, 1000)
    settings = []
    if resources.cpu_shares:
        settings.append(("cpu", "cpu.shares", str(min(max(resources.cpu_shares, 2), 262144))))
    if period:
        settings.append(("cpu", "cpu.cfs_period_us", str(period)))
    if quota:
        settings.append(("cpu", "cpu.cfs_quota_us", str(quota)))
    if resources.cpu_realtime_period:
        settings.append(("cpu", "cpu.rt_period_us", str(resources.cpu_realtime_period)))
    if resources.cpu_realtime_runtime:
        settings.append(("cpu", "cpu.rt_runtime_us", str(resources.cpu_realtime_runtime)))
    return settings


def memory_settings(resources: Resources, current_limit: int = _UNLIMITED) -> list[Setting]:
    """memory.* values. The kernel keeps limit <= limit with swap at every moment, so the order depends on the limit now."""
    limit = [("memory", "memory.limit_in_bytes", str(resources.memory))] if resources.memory else []
    swap = (
        [("memory", "memory.memsw.limit_in_bytes", str(resources.memory_and_swap))]
        if resources.memory_and_swap
        else []
    )
    raising = resources.memory_and_swap < 0 or current_limit < resources.memory_and_swap
    settings = [*swap, *limit] if raising and limit and swap else [*limit, *swap]
    if resources.memory_reservation:
        settings.append(("memory", "memory.soft_limit_in_bytes", str(resources.memory_reservation)))
    if resources.memory_swappiness is not None and resources.memory_swappiness >= 0:
        settings.append(("memory", "memory.swappiness", str(resources.memory_swappiness)))
    if resources.oom_kill_disable:
        settings.append(("memory", "memory.oom_control", "1"))
    return settings


def settings(resources: Resources, current_limit: int = _UNLIMITED) -> list[Setting]:
    """Every value that these resources ask for, in the order of writing."""
    found = [*memory_settings(resources, current_limit), *cpu_settings(resources)]
    if resources.cpuset_cpus:
        found.append(("cpuset", "cpuset.cpus", resources.cpuset_cpus))
    if resources.cpuset_mems:
        found.append(("cpuset", "cpuset.mems", resources.cpuset_mems))
    if resources.pids_limit is not None:
        found.append(("pids", "pids.max", str(resources.pids_limit) if resources.pids_limit > 0 else "max"))
    found += [("blkio", name, line) for name, line in blockio.v1_settings(resources)]
    return found


def features(directories: Mapping[str, str]) -> Features:
    """What works in a cgroup of ours (its directories by controller)."""

    def has(controller: str, *names: str) -> bool:
        place = directories.get(controller)
        return place is not None and any(os.path.exists(f"{place}/{name}") for name in names)

    return Features(
        memory_limit=has("memory", "memory.limit_in_bytes"),
        swap_limit=has("memory", "memory.memsw.limit_in_bytes"),
        memory_reservation=has("memory", "memory.soft_limit_in_bytes"),
        memory_swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_cfs=has("cpu", "cpu.cfs_quota_us"),
        cpuset=has("cpuset", "cpuset.cpus"),
        pids_limit=has("pids", "pids.max"),
        blkio_weight=has("blkio", "blkio.weight", "blkio.bfq.weight"),
        blkio_weight_device=has("blkio", "blkio.weight_device", "blkio.bfq.weight_device"),
        blkio_read_bps=has("blkio", "blkio.throttle.read_bps_device"),
        blkio_write_bps=has("blkio", "blkio.throttle.write_bps_device"),
        blkio_read_iops=has("blkio", "blkio.throttle.read_iops_device"),
        blkio_write_iops=has("blkio", "blkio.throttle.write_iops_device"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us"),
    )


def open_cpuset(directory: str, parent: str) -> None:
    """Make a cpuset usable: a new one is empty and takes no process until cpus and mems are filled in."""
    files.write(directory, "cgroup.clone_children", "1")
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not files.read(directory, name).strip():
            files.write(directory, name, files.read(parent, name).strip())


def set_devices(directory: str, rules: Sequence[DeviceRule]) -> None:
    """Apply rules in order; "deny all" empties the list first, so that this also replaces what was there."""
    opened: dict[str, int] = {}
    try:
        for rule in rules or ALLOW_ALL:
            name = "devices.allow" if rule.allow else "devices.deny"
            if name not in opened:
                opened[name] = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            os.write(opened[name], rule.v1_line().encode())
    finally:
        for fd in opened.values():
            os.close(fd)


# Statistics


def _cpu(directories: Mapping[str, str]) -> dict[str, object]:
    accounting = directories.get("cpuacct", "")
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    times = files.read_pairs(accounting, "cpuacct.stat")
    throttling = files.read_pairs(directories.get("cpu", ""), "cpu.stat")
    return {
        "cpu_usage": {
            "total_usage": files.read_int(accounting, "cpuacct.usage"),
            "percpu_usage": [int(word) for word in files.read_words(accounting, "cpuacct.usage_percpu")],
            "usage_in_kernelmode": times.get("system", 0) * tick,
            "usage_in_usermode": times.get("user", 0) * tick,
        },
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttling.get("throttled_time", 0),
        },
    }


def _memory(directory: str, machine: int) -> dict[str, object]:
    if not directory:
        return {}
    return {
        "usage": files.read_int(directory, "memory.usage_in_bytes"),
        "max_usage": files.read_int(directory, "memory.max_usage_in_bytes"),
        "stats": files.read_pairs(directory, "memory.stat"),
        "failcnt": files.read_int(directory, "memory.failcnt"),
        "limit": min(files.read_int(directory, "memory.limit_in_bytes", machine), machine),
    }


def block_entries(text: str) -> list[dict[str, object]]:
    """Docker's entries from lines "8:0 Read 4096"; the closing total is no entry."""
    entries: list[dict[str, object]] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            entries.append({"major": int(major), "minor": int(minor), "op": words[1], "value": int(words[2])})
    return entries


def _blkio(directory: str) -> dict[str, object]:
    def entries(name: str) -> list[dict[str, object]]:
        for prefix in ("blkio.bfq.", "blkio.throttle."):
            if found := block_entries(files.read(directory, f"{prefix}{name}_recursive")):
                return found
        return []

    names = ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time", "sectors")
    return {
        "io_service_bytes_recursive": entries("io_service_bytes"),
        "io_serviced_recursive": entries("io_serviced"),
        **{f"{name}_recursive": None for name in names},
    }


def statistics(directories: Mapping[str, str], machine_memory: int) -> dict[str, dict[str, object]]:
    """Docker's cpu_stats, memory_stats, blkio_stats and pids_stats of a container; times in ns, sizes in bytes."""
    pids = directories.get("pids", "")
    limit = files.read_int(pids, "pids.max")  # none is left out, as Docker does on v1
    return {
        "cpu_stats": _cpu(directories),
        "memory_stats": _memory(directories.get("memory", ""), machine_memory),
        "blkio_stats": _blkio(directories.get("blkio", "")),
        "pids_stats": {
            "current": files.read_int(pids, "pids.current"),
            **({"limit": limit} if limit else {}),
        },
    }


def oom_kills(directories: Mapping[str, str]) -> int:
    return files.read_pairs(directories.get("memory", ""), "memory.oom_control").get("oom_kill", 0)


def under_oom(directories: Mapping[str, str]) -> bool:
    control = files.read_pairs(directories["memory"], "memory.oom_control")
    return control.get("under_oom", 0) == 1 and control.get("oom_kill_disable", 0) == 1


def is_frozen(directories: Mapping[str, str]) -> bool:
    return files.read(directories["freezer"], "freezer.state").strip() == "FROZEN"


def set_frozen(directories: Mapping[str, str], frozen: bool) -> None:
    files.write(directories["freezer"], "freezer.state", "FROZEN" if frozen else "THAWED")


def warnings_of(missing: Iterable[str]) -> list[str]:
    """Docker's words for values that this kernel has no file for."""
    swap = _ABSENT + "swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
    weight = _ABSENT + "Block I/O weight or the cgroup is not mounted. Weight discarded."
    texts = {
        "memory.memsw.limit_in_bytes": swap,
        "memory.swap.max": swap,
        "blkio.weight": weight,
        "io.weight": weight,
    }
    return [texts.get(name, f"{_ABSENT}{name}. Limitation discarded.") for name in missing]
