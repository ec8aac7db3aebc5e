"""A validated service -> the pieces of its containers: mounts, ports, files, health check, limits, restart policy.

In: a `ServicePart`. Out: the model's dataclasses. Pure; defaults are Docker's and Compose's.
"""

from __future__ import annotations

import posixpath
from typing import Literal, cast

from pystack.model.container import (
    Device,
    DeviceLimit,
    Healthcheck,
    LogConfig,
    Mount,
    PortBinding,
    Protocol,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pystack.model.desired import FileReference
from pystack.stackfile.parts import BlkioPart, RatePart
from pystack.stackfile.portsyntax import port_range
from pystack.stackfile.schema import Granted, ServicePart, ServiceVolume

_NO_BLKIO = BlkioPart()


def replicas(part: ServicePart) -> int:
    if part.scale is not None:
        return part.scale
    if part.deploy and part.deploy.replicas is not None:
        return part.deploy.replicas
    return 1


def port_bindings(part: ServicePart) -> tuple[PortBinding, ...]:
    out: list[PortBinding] = []
    for port in part.ports or ():
        first, last = port_range(port.published, "published port") if port.published else (0, 0)
        out.append(
            PortBinding(
                container_port=port.target,
                protocol=cast("Protocol", port.protocol),
                host_ip=port.host_ip or "",
                host_port=first,
                host_port_end=last if last != first else 0,
            )
        )
    return tuple(out)


def mounts(part: ServicePart) -> tuple[Mount, ...]:
    """`volumes`, then `tmpfs`."""
    out = [_mount(volume) for volume in part.volumes or ()]
    for text in part.tmpfs or ():
        target, _, options = text.partition(":")
        out.append(Mount(type="tmpfs", target=target, tmpfs_options=options))
    return tuple(out)


def _mount(volume: ServiceVolume) -> Mount:
    bind, named, tmpfs, image = volume.bind, volume.volume, volume.tmpfs, volume.image
    return Mount(
        type=cast('Literal["bind"]', volume.type),
        target=volume.target,
        source=posixpath.normpath(volume.source or "") if volume.type == "bind" else volume.source or "",
        read_only=bool(volume.read_only) or bool(bind and bind.recursive == "readonly"),
        propagation=(bind.propagation or "") if bind else "",
        recursive=not (bind and bind.recursive == "disabled"),
        create_host_path=volume.type == "bind" and not (bind and bind.create_host_path is False),
        nocopy=bool(named and named.nocopy),
        subpath=(named.subpath if named else image.subpath if image else None) or "",
        labels={k: v or "" for k, v in ((named.labels if named else None) or {}).items()},
        tmpfs_size=(tmpfs.size or 0) if tmpfs else 0,
        tmpfs_mode=tmpfs.mode if tmpfs else None,
    )


def file_references(part: ServicePart) -> tuple[FileReference, ...]:
    secrets = [_file("secret", grant, "/run/secrets/") for grant in part.secrets or ()]
    return (*secrets, *(_file("config", grant, "/") for grant in part.configs or ()))


def _file(kind: Literal["secret", "config"], grant: Granted, directory: str) -> FileReference:
    target = grant.target or grant.source
    return FileReference(
        kind=kind,
        source=grant.source,
        target=target if target.startswith("/") else directory + target,
        uid=int(grant.uid or 0),
        gid=int(grant.gid or 0),
        mode=0o444 if grant.mode is None else grant.mode,
    )


def healthcheck(part: ServicePart) -> Healthcheck | None:
    health = part.healthcheck
    if health is None:
        return None
    return Healthcheck(
        test=("NONE",) if health.disable else health.test or (),
        interval=health.interval or 0,
        timeout=health.timeout or 0,
        start_period=health.start_period or 0,
        start_interval=health.start_interval or 0,
        retries=health.retries or 0,
    )


def restart_policy(part: ServicePart) -> RestartPolicy:
    """`restart`, else what `deploy.restart_policy` says."""
    if part.restart:
        name, _, count = part.restart.partition(":")
        return RestartPolicy(name=cast('Literal["no"]', name), maximum_retry_count=int(count or 0))
    policy = part.deploy.restart_policy if part.deploy else None
    if policy is None:
        return RestartPolicy()
    condition = {"none": "no", "any": "always"}.get(policy.condition or "any", policy.condition)
    attempts = (policy.max_attempts or 0) if condition == "on-failure" else 0
    return RestartPolicy(name=cast('Literal["no"]', condition), maximum_retry_count=attempts)


def resources(part: ServicePart) -> Resources:
    """The service's own limits with those of `deploy.resources` where it has none."""
    both = part.deploy.resources if part.deploy else None
    limits, reserved = (both.limits, both.reservations) if both else (None, None)
    memory = part.mem_limit or (limits.memory if limits else None) or 0
    cpus = part.cpus or (limits.cpus if limits else None) or 0
    blkio = part.blkio_config or _NO_BLKIO
    pids = part.pids_limit if part.pids_limit is not None else limits.pids if limits else None
    return Resources(
        memory=memory,
        memory_reservation=part.mem_reservation or (reserved.memory if reserved else None) or 0,
        memory_swap=part.memswap_limit or 0,
        memory_swappiness=part.mem_swappiness,
        oom_kill_disable=bool(part.oom_kill_disable),
        nano_cpus=round(cpus * 1_000_000_000),
        cpu_shares=part.cpu_shares or 0,
        cpu_period=part.cpu_period or 0,
        cpu_quota=part.cpu_quota or 0,
        cpuset_cpus=part.cpuset or "",
        pids_limit=pids,
        blkio_weight=blkio.weight or 0,
        blkio_weight_device=tuple(
            DeviceLimit(path=d.path, value=d.weight) for d in blkio.weight_device or ()
        ),
        blkio_device_read_bps=_rates(blkio.device_read_bps),
        blkio_device_write_bps=_rates(blkio.device_write_bps),
        blkio_device_read_iops=_rates(blkio.device_read_iops),
        blkio_device_write_iops=_rates(blkio.device_write_iops),
        ulimits=tuple(Ulimit(name=k, soft=u.soft, hard=u.hard) for k, u in (part.ulimits or {}).items()),
        devices=tuple(
            Device(
                path_on_host=d.source,
                path_in_container=d.target or d.source,
                cgroup_permissions=d.permissions or "rwm",
            )
            for d in part.devices or ()
        ),
        device_cgroup_rules=part.device_cgroup_rules or (),
    )


def _rates(limits: tuple[RatePart, ...] | None) -> tuple[DeviceLimit, ...]:
    return tuple(DeviceLimit(path=limit.path, value=limit.rate) for limit in limits or ())


def log_config(part: ServicePart) -> LogConfig:
    log = part.logging
    if log is None:
        return LogConfig()
    return LogConfig(driver=log.driver or "", options={k: v or "" for k, v in (log.options or {}).items()})
