"""Requests about containers: Docker's bodies go in, the engine's specs come out. Raises InvalidInput with Docker's texts."""

from __future__ import annotations

import posixpath
from typing import Any, Literal, cast

from pystack.api.docker.mounts import mounts_of
from pystack.api.docker.ports import bindings_of, exposed_of
from pystack.api.docker.resources import resources_of
from pystack.api.docker.wire import (
    ContainerBody,
    EndpointBody,
    ExecBody,
    HealthConfig,
    HostConfigBody,
    RestartPolicyBody,
)
from pystack.model.container import (
    ContainerSpec,
    EndpointSpec,
    ExecSpec,
    Healthcheck,
    LogConfig,
    RestartPolicy,
)
from pystack.model.errors import InvalidInput, Unsupported

_RESTART = {"", "no", "always", "on-failure", "unless-stopped"}


def words(value: list[str] | str | None) -> tuple[str, ...] | None:
    """A command: Docker takes a list or one string; an empty one is as good as none."""
    if not value:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def health_of(body: HealthConfig | None) -> Healthcheck | None:
    if body is None:
        return None
    test = tuple(body.Test or ())
    if test and test[0] not in {"", "NONE", "CMD", "CMD-SHELL"}:
        raise InvalidInput(f"invalid healthcheck: unknown type {test[0][:40]!r}")
    for name in ("Interval", "Timeout", "StartPeriod", "StartInterval"):
        value = getattr(body, name) or 0
        if value < 0 or 0 < value < 1_000_000:
            raise InvalidInput(f"{name} in Healthcheck cannot be less than 1ms")
    if (body.Retries or 0) < 0:
        raise InvalidInput("Retries in Healthcheck cannot be negative")
    return Healthcheck(
        test=test,
        interval=body.Interval or 0,
        timeout=body.Timeout or 0,
        start_period=body.StartPeriod or 0,
        start_interval=body.StartInterval or 0,
        retries=body.Retries or 0,
    )


def restart_of(body: RestartPolicyBody | None) -> RestartPolicy:
    name = (body.Name or "") if body else ""
    count = (body.MaximumRetryCount or 0) if body else 0
    if name not in _RESTART:
        raise InvalidInput(
            f"invalid restart policy: unknown policy '{name[:40]}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    policy = cast("Literal['no', 'always', 'unless-stopped', 'on-failure']", name or "no")
    return RestartPolicy(name=policy, maximum_retry_count=count)


def endpoint_of(network: str, body: EndpointBody | None) -> EndpointSpec:
    body = body or EndpointBody()
    if body.Links:
        raise _no_links()
    ipam = body.IPAMConfig
    return EndpointSpec(
        network="bridge" if network == "default" else network,
        aliases=tuple(body.Aliases or ()),
        ipv4_address=(ipam.IPv4Address or "") if ipam else "",
        ipv6_address=(ipam.IPv6Address or "") if ipam else "",
        mac_address=body.MacAddress or "",
        driver_options=body.DriverOpts or {},
        gateway_priority=body.GwPriority or 0,
    )


def _no_links() -> Unsupported:
    return Unsupported(
        "cannot link containers: links are not supported",
        hint="put both containers on one user-defined network: they find each other by name there",
    )


def network_of(body: ContainerBody, host: HostConfigBody) -> tuple[str, tuple[EndpointSpec, ...]]:
    """(network mode, endpoints). The container's own MacAddress goes to the network of its mode."""
    mode = host.NetworkMode or "default"
    if body.NetworkDisabled:
        mode = "none"
    if mode == "default":
        mode = "bridge"
    given = (body.NetworkingConfig.EndpointsConfig or {}) if body.NetworkingConfig else {}
    endpoints = {e.network: e for e in (endpoint_of(name, value) for name, value in given.items())}
    if mode in {"none", "host"} or mode.startswith("container:"):
        if any(name != mode for name in endpoints):
            raise InvalidInput(
                f"conflicting options: cannot attach a container with network mode {mode!r} to other networks"
            )
        if body.Hostname and mode.startswith("container:"):
            raise InvalidInput("conflicting options: hostname and the network mode")
        return mode, ()
    if body.MacAddress:
        own = endpoints.get(mode) or EndpointSpec(network=mode)
        if own.mac_address and own.mac_address != body.MacAddress:
            raise InvalidInput("conflicting options: mac-address and the endpoint's mac address")
        endpoints[mode] = endpoint_of(
            mode, (given.get(mode) or EndpointBody()).model_copy(update={"MacAddress": body.MacAddress})
        )
    return mode, tuple(endpoints.values())


def spec_of(body: ContainerBody) -> ContainerSpec:
    """The spec of a create request."""
    host = body.HostConfig or HostConfigBody()
    if not body.Image and not body.Cmd and not body.Entrypoint and body.HostConfig is None:
        raise InvalidInput("config cannot be empty in order to create a container")
    _refuse(body, host)
    mode, endpoints = network_of(body, host)
    size = host.ConsoleSize or []
    return ContainerSpec(
        **_config_fields(body),
        mounts=mounts_of(host),
        ports=bindings_of(host.PortBindings or {}),
        publish_all_ports=bool(host.PublishAllPorts),
        restart=restart_of(host.RestartPolicy),
        auto_remove=bool(host.AutoRemove),
        network_mode=mode,
        endpoints=endpoints,
        ipc_mode=host.IpcMode or "private",
        pid_mode=host.PidMode or "",
        uts_mode=host.UTSMode or "",
        cgroupns_mode=host.CgroupnsMode or "",
        cgroup_parent=host.CgroupParent or "",
        userns_mode=host.UsernsMode or "",
        privileged=bool(host.Privileged),
        cap_add=tuple(host.CapAdd or ()),
        cap_drop=tuple(host.CapDrop or ()),
        group_add=tuple(host.GroupAdd or ()),
        security_opt=tuple(host.SecurityOpt or ()),
        masked_paths=None if host.MaskedPaths is None else tuple(host.MaskedPaths),
        readonly_paths=None if host.ReadonlyPaths is None else tuple(host.ReadonlyPaths),
        read_only_rootfs=bool(host.ReadonlyRootfs),
        init=host.Init,
        shm_size=host.ShmSize or 0,
        sysctls=host.Sysctls or {},
        oom_score_adj=host.OomScoreAdj or 0,
        storage_opt=host.StorageOpt or {},
        dns=tuple(host.Dns or ()),
        dns_search=tuple(host.DnsSearch or ()),
        dns_options=tuple(host.DnsOptions or ()),
        extra_hosts=tuple(host.ExtraHosts or ()),
        resources=resources_of(host),
        log=_log_of(host),
        annotations=host.Annotations or {},
        volumes_from=tuple(host.VolumesFrom or ()),
        runtime="" if host.Runtime == "runc" else host.Runtime or "",
        console_size=(size[0], size[1]) if len(size) == 2 else (0, 0),
    )


def _config_fields(body: ContainerBody) -> dict[str, Any]:
    """The part of the spec that Docker calls Config."""
    for entry in body.Env or ():
        if not entry or entry.startswith("="):
            raise InvalidInput("invalid environment variable: it has no name")
        if "\0" in entry:
            raise InvalidInput("invalid environment variable: it holds a NUL byte")
    return {
        "image": body.Image or "",
        "hostname": body.Hostname or "",
        "domainname": body.Domainname or "",
        "user": body.User or "",
        "attach_stdin": bool(body.AttachStdin),
        "attach_stdout": bool(body.AttachStdout),
        "attach_stderr": bool(body.AttachStderr),
        "tty": bool(body.Tty),
        "open_stdin": bool(body.OpenStdin),
        "stdin_once": bool(body.StdinOnce),
        "env": tuple(body.Env or ()),
        "command": words(body.Cmd),
        "entrypoint": words(body.Entrypoint),
        "healthcheck": health_of(body.Healthcheck),
        "working_dir": posixpath.normpath(body.WorkingDir) if body.WorkingDir else "",
        "labels": body.Labels or {},
        "stop_signal": body.StopSignal or "",
        "stop_timeout": body.StopTimeout,
        "exposed_ports": exposed_of(body.ExposedPorts or ()),
        "volumes": tuple(body.Volumes or ()),
    }


def _log_of(host: HostConfigBody) -> LogConfig:
    log = host.LogConfig
    return LogConfig(driver=(log.Type or "") if log else "", options=(log.Config or {}) if log else {})


def _refuse(body: ContainerBody, host: HostConfigBody) -> None:
    """What cannot be said in a spec; what a spec says is checked by the engine."""
    if not body.Image:
        raise InvalidInput("cannot create the container: no image specified")
    if host.Links:
        raise _no_links()
    if (host.Isolation or "default").lower() != "default":
        raise InvalidInput(
            f"invalid isolation ({(host.Isolation or '')[:40]}): linux only supports 'default'"
        )
    if (host.ShmSize or 0) < 0:
        raise InvalidInput("SHM size can not be less than 0")


def exec_of(body: ExecBody) -> ExecSpec:
    command = words(body.Cmd)
    if not command:
        raise InvalidInput("No exec command specified")
    size = body.ConsoleSize or []
    return ExecSpec(
        command=command,
        user=body.User or "",
        tty=bool(body.Tty),
        attach_stdin=bool(body.AttachStdin),
        attach_stdout=bool(body.AttachStdout),
        attach_stderr=bool(body.AttachStderr),
        env=tuple(body.Env or ()),
        working_dir=body.WorkingDir or "",
        privileged=bool(body.Privileged),
        detach_keys=body.DetachKeys or "",
        console_size=(size[0], size[1]) if len(size) == 2 else (0, 0),
    )
