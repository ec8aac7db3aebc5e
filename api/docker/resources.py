"""Limits in Docker's bodies: HostConfig and the body of an update go in, `Resources` come out, and back.

Raises InvalidInput or Unsupported for what this engine does not do: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pystack.api.docker.wire import (
    DeviceRequestBody,
    ResourcesBody,
    ThrottleDeviceBody,
    UpdateBody,
    WeightDeviceBody,
)
from pystack.model.container import Device, DeviceLimit, Resources, Ulimit
from pystack.model.errors import InvalidInput, Unsupported


def _refuse_windows(body: ResourcesBody) -> None:
    if body.IOMaximumBandwidth or body.IOMaximumIOps:
        raise InvalidInput(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"
        )
    for name in ("CpuCount", "CpuPercent"):
        if getattr(body, name):
            raise InvalidInput(f"cannot use {name}: it is for Windows containers", hint="use NanoCpus")


def _refuse_requests(requests: Iterable[DeviceRequestBody]) -> None:
    """Docker asks its device drivers (nvidia, amd, cdi); here is none."""
    for request in requests:
        capabilities = " ".join(f"[{' '.join(words)}]" for words in request.Capabilities or ())
        raise Unsupported(
            f'could not select device driver "{(request.Driver or "")[:40]}" with capabilities: [{capabilities[:80]}]',
            hint="this engine has no drivers for GPUs or CDI: give the device nodes as Devices",
        )


def _swappiness(value: int | None) -> int | None:
    return None if value == -1 else value


def _block_limits(
    name: str, bodies: Iterable[WeightDeviceBody | ThrottleDeviceBody]
) -> tuple[DeviceLimit, ...]:
    found = []
    for body in bodies:
        value = (body.Weight if isinstance(body, WeightDeviceBody) else body.Rate) or 0
        if not (body.Path or "").startswith("/"):
            raise InvalidInput(f"invalid {name}: the path of a device must be absolute")
        if value < 0:
            raise InvalidInput(f"invalid {name} of {body.Path}: {value} is negative")
        found.append(DeviceLimit(path=body.Path or "", value=value))
    return tuple(found)


def resources_of(body: ResourcesBody) -> Resources:
    """The limits of a create request. `PidsLimit` 0 or less is none."""
    _refuse_windows(body)
    _refuse_requests(body.DeviceRequests or ())
    pids = body.PidsLimit
    return Resources(
        **_plain_limits(body),
        memory_swappiness=_swappiness(body.MemorySwappiness),
        oom_kill_disable=bool(body.OomKillDisable),
        pids_limit=pids if pids and pids > 0 else None,
        blkio_weight_device=_block_limits("BlkioWeightDevice", body.BlkioWeightDevice or ()),
        blkio_device_read_bps=_block_limits("BlkioDeviceReadBps", body.BlkioDeviceReadBps or ()),
        blkio_device_write_bps=_block_limits("BlkioDeviceWriteBps", body.BlkioDeviceWriteBps or ()),
        blkio_device_read_iops=_block_limits("BlkioDeviceReadIOps", body.BlkioDeviceReadIOps or ()),
        blkio_device_write_iops=_block_limits("BlkioDeviceWriteIOps", body.BlkioDeviceWriteIOps or ()),
        ulimits=tuple(Ulimit(name=u.Name, soft=u.Soft, hard=u.Hard) for u in body.Ulimits or ()),
        devices=tuple(
            Device(
                path_on_host=d.PathOnHost or "",
                path_in_container=d.PathInContainer or d.PathOnHost or "",
                cgroup_permissions=d.CgroupPermissions or "rwm",
            )
            for d in body.Devices or ()
        ),
        device_cgroup_rules=tuple(body.DeviceCgroupRules or ()),
    )


def _plain_limits(body: ResourcesBody) -> dict[str, Any]:
    """Those that an update may change, too."""
    return {
        "memory": body.Memory or 0,
        "memory_reservation": body.MemoryReservation or 0,
        "memory_swap": body.MemorySwap or 0,
        "kernel_memory": body.KernelMemory or 0,
        "nano_cpus": body.NanoCpus or 0,
        "cpu_shares": body.CpuShares or 0,
        "cpu_period": body.CpuPeriod or 0,
        "cpu_quota": body.CpuQuota or 0,
        "cpu_realtime_period": body.CpuRealtimePeriod or 0,
        "cpu_realtime_runtime": body.CpuRealtimeRuntime or 0,
        "cpuset_cpus": body.CpusetCpus or "",
        "cpuset_mems": body.CpusetMems or "",
        "blkio_weight": body.BlkioWeight or 0,
    }


#: What is fixed when a container is created: Docker drops these from an update without a word.
_FIXED = (
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CgroupParent",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "OomKillDisable",
    "Ulimits",
)


def update_of(body: UpdateBody) -> Resources | None:
    """The limits that an update sets, None when it sets none. `PidsLimit` 0 or less takes that limit away."""
    _refuse_windows(body)
    for name in _FIXED:
        if getattr(body, name):
            raise InvalidInput(
                f"cannot update {name} of a container", hint="it is fixed when a container is created"
            )
    if _swappiness(body.MemorySwappiness) is not None:
        raise InvalidInput(
            "cannot update MemorySwappiness of a container", hint="it is fixed when a container is created"
        )
    pids = None if body.PidsLimit is None else max(body.PidsLimit, 0)
    found = Resources(**_plain_limits(body), pids_limit=pids)
    return None if found == Resources() else found


def _device_limits_json(limits: Iterable[DeviceLimit], name: str) -> list[dict[str, object]]:
    return [{"Path": limit.path, name: limit.value} for limit in limits]


def resources_json(resources: Resources) -> dict[str, object]:
    """The limits in HostConfig, complete; the fields of Windows at their defaults."""
    r = resources
    return {
        "CpuShares": r.cpu_shares,
        "Memory": r.memory,
        "NanoCpus": r.nano_cpus,
        "BlkioWeight": r.blkio_weight,
        "BlkioWeightDevice": _device_limits_json(r.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": _device_limits_json(r.blkio_device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": _device_limits_json(r.blkio_device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": _device_limits_json(r.blkio_device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": _device_limits_json(r.blkio_device_write_iops, "Rate"),
        "CpuPeriod": r.cpu_period,
        "CpuQuota": r.cpu_quota,
        "CpuRealtimePeriod": r.cpu_realtime_period,
        "CpuRealtimeRuntime": r.cpu_realtime_runtime,
        "CpusetCpus": r.cpuset_cpus,
        "CpusetMems": r.cpuset_mems,
        "Devices": [
            {
                "PathOnHost": d.path_on_host,
                "PathInContainer": d.path_in_container,
                "CgroupPermissions": d.cgroup_permissions,
            }
            for d in r.devices
        ],
        "DeviceCgroupRules": list(r.device_cgroup_rules) or None,
        "DeviceRequests": None,
        "MemoryReservation": r.memory_reservation,
        "MemorySwap": r.memory_and_swap,
        "MemorySwappiness": r.memory_swappiness,
        "OomKillDisable": r.oom_kill_disable,
        "PidsLimit": r.pids_limit,
        "Ulimits": [{"Name": u.name, "Hard": u.hard, "Soft": u.soft} for u in r.ulimits],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    }
