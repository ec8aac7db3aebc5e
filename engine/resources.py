"""Limits of containers: what a request asks for is checked against the host, and an update is merged into what there is.

Flows in: specs, `Resources` of an update. Flows out: warnings, the merged limits, and those of them to write. Pure but
for facts about the host and the numbers of devices; the rules are moby's `daemon/update.go` and `UpdateContainer`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pystack.kernel import blockio
from pystack.kernel.cgroup_files import Features
from pystack.kernel.cgroup_v2 import unified_settings
from pystack.kernel.devices import container_devices
from pystack.kernel.host import Host
from pystack.kernel.limits import validate
from pystack.model.container import ContainerSpec, Resources, RestartPolicy
from pystack.model.errors import Conflict, InvalidInput, Unsupported

#: Annotations `pystack.cgroup.<file>` set a file of cgroup v2 that Docker's API has no field for.
UNIFIED_ANNOTATION = "pystack.cgroup."

#: What an update may change, as in Docker; all of it live.
UPDATABLE = (
    "memory",
    "memory_reservation",
    "memory_swap",
    "nano_cpus",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "blkio_weight",
)


def check_limits(resources: Resources, host: Host, features: Features, *, update: bool = False) -> list[str]:
    """Warnings. InvalidInput with the first error."""
    errors, warnings = validate(resources, host, features, update=update)
    if errors:
        raise InvalidInput(errors[0])
    return warnings


def check_resources(config: ContainerSpec, host: Host, features: Features) -> list[str]:
    """Everything that a spec says of limits and devices. Warnings; InvalidInput, NotFound or Unsupported."""
    resources = limits_of(config)
    if resources.unified and host.cgroups.mode != "v2":
        raise Unsupported(
            f"cannot set {min(resources.unified)} of a container: this host has cgroup v1",
            hint=f"boot it with cgroup v2, or leave out the annotations {UNIFIED_ANNOTATION}*",
        )
    unified_settings(resources.unified)
    if config.storage_opt:
        raise Unsupported("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    container_devices(config.privileged, resources.devices, resources.device_cgroup_rules)
    warnings = check_limits(resources, host, features)
    blockio.v1_settings(resources)  # the devices are there
    return warnings


def limits_of(config: ContainerSpec) -> Resources:
    """The limits of a container's run, with those that its annotations set."""
    unified = {
        key.removeprefix(UNIFIED_ANNOTATION): value
        for key, value in config.annotations.items()
        if key.startswith(UNIFIED_ANNOTATION)
    }
    return replace(config.resources, unified=unified) if unified else config.resources


def check_restart(policy: RestartPolicy) -> None:
    """InvalidInput, in Docker's words, for a retry count that cannot be."""
    if policy.name == "on-failure":
        if policy.maximum_retry_count < 0:
            raise InvalidInput("invalid restart policy: maximum retry count cannot be negative")
    elif policy.maximum_retry_count:
        text = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        raise InvalidInput(text + (" and cannot be negative" if policy.maximum_retry_count < 0 else ""))


_CONFLICTS = (
    ("nano_cpus", "cpu_period", "Nano CPUs cannot be updated as CPU Period has already been set"),
    ("nano_cpus", "cpu_quota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
    ("cpu_period", "nano_cpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
    ("cpu_quota", "nano_cpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
)
_SWAP_TOO_SMALL = (
    "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
)


def merged(container_id: str, current: Resources, asked: Resources) -> Resources:
    """`current` with what `asked` sets. Conflict, in Docker's words, when the two do not go together.

    A field at its default is not asked for; `pids_limit` 0 is: it takes the limit away.
    """
    for field, other, text in _CONFLICTS:
        if getattr(asked, field) > 0 and getattr(current, other) > 0:
            raise Conflict(f"Cannot update container {container_id}: Conflicting options: {text}")
    if asked.memory and not asked.memory_swap and asked.memory > current.memory_and_swap:
        raise Conflict(f"Cannot update container {container_id}: {_SWAP_TOO_SMALL}")
    changes = {field: getattr(asked, field) for field in UPDATABLE if getattr(asked, field)}
    if asked.memory and not asked.memory_swap:
        changes["memory_swap"] = current.memory_and_swap  # what was the default stays what it was
    if asked.pids_limit is not None:
        changes["pids_limit"] = asked.pids_limit if asked.pids_limit > 0 else None
    return replace(current, **changes)


def to_write(found: Resources, asked: Resources) -> Resources:
    """Of the merged limits those that an update touches: files that hold two values get both."""
    changes: dict[str, Any] = {field: getattr(found, field) for field in UPDATABLE if getattr(asked, field)}
    if asked.memory or asked.memory_swap:
        changes |= {"memory": found.memory, "memory_swap": found.memory_and_swap}
    if asked.cpu_period or asked.cpu_quota:
        changes |= {"cpu_period": found.cpu_period, "cpu_quota": found.cpu_quota}
    if asked.cpu_realtime_period or asked.cpu_realtime_runtime:
        changes |= {
            "cpu_realtime_period": found.cpu_realtime_period,
            "cpu_realtime_runtime": found.cpu_realtime_runtime,
        }
    return Resources(pids_limit=asked.pids_limit, **changes)


def undoing(current: Resources, asked: Resources) -> Resources:
    """What makes the kernel hold `current` again after a part of `asked` was written; 0 becomes "no limit"."""
    nothing = {"memory": -1, "memory_swap": -1, "cpu_quota": -1, "cpu_shares": 1024}
    changes: dict[str, Any] = {
        field: getattr(current, field) or nothing.get(field, 0)
        for field in UPDATABLE
        if getattr(asked, field)
    }
    if asked.memory or asked.memory_swap:
        changes |= {"memory": current.memory or -1, "memory_swap": current.memory_and_swap or -1}
    if asked.nano_cpus and not current.nano_cpus:
        changes |= {"nano_cpus": 0, "cpu_quota": current.cpu_quota or -1, "cpu_period": current.cpu_period}
    pids = None if asked.pids_limit is None else current.pids_limit or 0
    return Resources(pids_limit=pids, **changes)
