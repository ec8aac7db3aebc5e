"""Checks of a container's limits, in Docker's words, and the defaults that Docker adds.

In: `Resources`, facts about the host. Out: (errors, warnings), pure. Source: moby `daemon/daemon_unix.go`
(verifyPlatformContainerResources). A limit with a warning is left out by `kernel.cgroups`.
"""

from __future__ import annotations

from collections.abc import Iterator

from pystack.kernel.cgroup_files import Features
from pystack.kernel.host import Host, parse_cpu_list
from pystack.model.container import Resources

#: Docker's least memory limit, bytes.
MINIMUM_MEMORY = 6 << 20

_ABSENT = "Your kernel does not support {}"
_OOM_WITHOUT_LIMIT = (
    "OOM killer is disabled for the container, but no memory limit is set, "
    "this can result in the system running out of resources."
)
_Finding = tuple[bool, str]  # is an error, text


def validate(
    resources: Resources, host: Host, features: Features, *, update: bool = False
) -> tuple[list[str], list[str]]:
    """(errors, warnings). The first error is what Docker answers with status 400; warnings go into the create answer."""
    errors: list[str] = []
    warnings: list[str] = []
    for check in (_memory, _memory_extras, _pids, _cpu, _realtime, _cpuset, _blkio, _block_devices):
        for is_error, text in check(resources, host, features, update):
            (errors if is_error else warnings).append(text)
    return errors, warnings


def _memory(resources: Resources, _host: Host, features: Features, update: bool) -> Iterator[_Finding]:
    memory, swap = resources.memory, resources.memory_swap
    if memory and memory < MINIMUM_MEMORY:
        yield True, "Minimum memory limit allowed is 6MB"
    if memory > 0 and not features.memory_limit:
        yield (
            False,
            _ABSENT.format("memory limit capabilities or the cgroup is not mounted. Limitation discarded."),
        )
        return
    if memory > 0 and not features.swap_limit and swap != -1:
        yield (
            False,
            _ABSENT.format(
                "swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
            ),
        )
        return
    if memory > 0 and 0 < swap < memory:
        yield True, "Minimum memoryswap limit should be larger than memory limit, see usage"
    if memory == 0 and swap > 0 and not update:
        yield True, "You should always set the Memory limit when using Memoryswap limit, see usage"


def _memory_extras(
    resources: Resources, _host: Host, features: Features, _update: bool
) -> Iterator[_Finding]:
    swappiness, reservation = resources.memory_swappiness, resources.memory_reservation
    if swappiness is not None and swappiness != -1:
        if not features.memory_swappiness:
            yield (
                False,
                _ABSENT.format(
                    "memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                ),
            )
        elif not 0 <= swappiness <= 100:
            yield True, f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"
    if reservation > 0 and not features.memory_reservation:
        yield (
            False,
            _ABSENT.format(
                "memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."
            ),
        )
    elif 0 < reservation < MINIMUM_MEMORY:
        yield True, "Minimum memory reservation allowed is 6MB"
    elif reservation > 0 and 0 < resources.memory < reservation:
        yield True, "Minimum memory limit can not be less than memory reservation limit, see usage"
    if resources.kernel_memory:
        yield (
            False,
            _ABSENT.format(
                "kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded."
            ),
        )
    if resources.oom_kill_disable:
        if not features.oom_kill_disable:
            yield False, _ABSENT.format("OomKillDisable. OomKillDisable discarded.")
        elif resources.memory == 0:
            yield False, _OOM_WITHOUT_LIMIT


def _pids(resources: Resources, _host: Host, features: Features, _update: bool) -> Iterator[_Finding]:
    if resources.pids_limit and resources.pids_limit > 0 and not features.pids_limit:
        yield (
            False,
            _ABSENT.format("PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."),
        )


def _cpu(resources: Resources, host: Host, features: Features, _update: bool) -> Iterator[_Finding]:
    nano, period, quota = resources.nano_cpus, resources.cpu_period, resources.cpu_quota
    if nano > 0 and period > 0:
        yield True, "Conflicting options: Nano CPUs and CPU Period cannot both be set"
    if nano > 0 and quota > 0:
        yield True, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"
    if nano > 0 and not features.cpu_cfs:
        yield (
            True,
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        )
    if nano < 0 or nano > host.cpu_count * 1_000_000_000 or 0 < nano < 10_000_000:
        yield (
            True,
            f"Range of CPUs is from 0.01 to {host.cpu_count}.00, as there are only {host.cpu_count} CPUs available",
        )
    if resources.cpu_shares > 0 and not features.cpu_shares:
        yield False, _ABSENT.format("CPU shares or the cgroup is not mounted. Shares discarded.")
    if resources.cpu_shares < 0:
        yield True, f"invalid CPU shares ({resources.cpu_shares}): value must be a positive integer"
    if (period or quota) and not features.cpu_cfs:
        yield False, _ABSENT.format("CPU CFS scheduler. CPU period/quota discarded.")
        return
    if period and not 1000 <= period <= 1_000_000:
        yield True, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
    if 0 < quota < 1000:
        yield True, "CPU cfs quota can not be less than 1ms (i.e. 1000)"


def _realtime(resources: Resources, _host: Host, features: Features, _update: bool) -> Iterator[_Finding]:
    period, runtime = resources.cpu_realtime_period, resources.cpu_realtime_runtime
    if not period and not runtime:
        return
    if not features.cpu_realtime:
        yield True, "kernel does not support CPU real-time scheduler"
    elif period < 0 or runtime < 0:
        yield True, "invalid CPU real-time period or runtime: value must be a positive integer"
    elif period and runtime > period:
        yield True, "cpu real-time runtime cannot be higher than cpu real-time period"


def _cpuset(resources: Resources, host: Host, features: Features, _update: bool) -> Iterator[_Finding]:
    if (resources.cpuset_cpus or resources.cpuset_mems) and not features.cpuset:
        yield False, _ABSENT.format("cpuset or the cgroup is not mounted. Cpuset discarded.")
        return
    for text, available, kind, what in (
        (resources.cpuset_cpus, host.cpus, "cpus", "CPUs"),
        (resources.cpuset_mems, host.memory_nodes, "mems", "memory nodes"),
    ):
        if not text:
            continue
        try:
            wanted = parse_cpu_list(text)
        except ValueError:
            yield True, f"Invalid value {text} for cpuset {kind}"
            continue
        if not wanted <= available:
            yield (
                True,
                f"Requested {what} are not available - requested {text}, available: {cpu_list(available)}",
            )


def _blkio(resources: Resources, _host: Host, features: Features, _update: bool) -> Iterator[_Finding]:
    if resources.blkio_weight and not features.blkio_weight:
        yield False, _ABSENT.format("Block I/O weight or the cgroup is not mounted. Weight discarded.")
    elif resources.blkio_weight and not 10 <= resources.blkio_weight <= 1000:
        yield True, "Range of blkio weight is from 10 to 1000"


#: Field, the feature that it needs, what Docker calls it, how it ends the warning.
_DEVICE_LIMITS = (
    ("blkio_weight_device", "blkio_weight_device", "Block I/O weight_device", "Weight-device discarded."),
    (
        "blkio_device_read_bps",
        "blkio_read_bps",
        "BPS Block I/O read limit",
        "Block I/O BPS read limit discarded.",
    ),
    (
        "blkio_device_write_bps",
        "blkio_write_bps",
        "BPS Block I/O write limit",
        "Block I/O BPS write limit discarded.",
    ),
    (
        "blkio_device_read_iops",
        "blkio_read_iops",
        "IOPS Block read limit",
        "Block I/O IOPS read limit discarded.",
    ),
    (
        "blkio_device_write_iops",
        "blkio_write_iops",
        "IOPS Block write limit",
        "Block I/O IOPS write limit discarded.",
    ),
)


def _block_devices(
    resources: Resources, _host: Host, features: Features, _update: bool
) -> Iterator[_Finding]:
    for field, feature, what, end in _DEVICE_LIMITS:
        if getattr(resources, field) and not getattr(features, feature):
            yield False, _ABSENT.format(f"{what} or the cgroup is not mounted. {end}")
    if not all(10 <= limit.value <= 1000 for limit in resources.blkio_weight_device):
        yield True, "Range of blkio weight is from 10 to 1000"


def cpu_list(numbers: frozenset[int]) -> str:
    """Numbers as "0-3,7" (cpuset(7))."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
