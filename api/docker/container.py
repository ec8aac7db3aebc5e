"""Containers as Docker shows them: a ContainerView goes in, the JSON of inspect and of `ps` comes out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping

from pystack.api.docker.clock import status_line, unix_seconds
from pystack.api.docker.mounts import binds_json, mounts_json, tmpfs_json
from pystack.api.docker.ports import bindings_json, live_json, summary_json
from pystack.api.docker.resources import resources_json
from pystack.engine.confine import path_lists
from pystack.model.container import ContainerSpec, Healthcheck
from pystack.model.observed import ContainerView, EndpointView, ExecView, MountView
from pystack.model.states import ContainerState, Health

_LIVE = {ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING}


def _listed(values: Iterable[str]) -> list[str] | None:
    return list(values) or None


def _keyed(values: Iterable[str]) -> dict[str, dict[str, str]] | None:
    return {value: {} for value in values} or None


def health_json(check: Healthcheck) -> dict[str, object]:
    times = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    test: dict[str, object] = {"Test": list(check.test)} if check.test else {}
    return test | {name: value for name, value in times.items() if value}


def config_json(spec: ContainerSpec) -> dict[str, object]:
    """Docker's Config."""
    body: dict[str, object] = {
        "Hostname": spec.hostname,
        "Domainname": spec.domainname,
        "User": spec.user,
        "AttachStdin": spec.attach_stdin,
        "AttachStdout": spec.attach_stdout,
        "AttachStderr": spec.attach_stderr,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": list(spec.env),
        "Cmd": None if spec.command is None else list(spec.command),
        "Image": spec.image,
        "Volumes": _keyed(spec.volumes),
        "WorkingDir": spec.working_dir,
        "Entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "OnBuild": None,
        "Labels": dict(spec.labels),
    }
    if spec.exposed_ports:
        body["ExposedPorts"] = _keyed(spec.exposed_ports)
    if spec.healthcheck is not None:
        body["Healthcheck"] = health_json(spec.healthcheck)
    if spec.stop_signal:
        body["StopSignal"] = spec.stop_signal
    if spec.stop_timeout is not None:
        body["StopTimeout"] = spec.stop_timeout
    return body


def host_config_json(spec: ContainerSpec) -> dict[str, object]:
    """Docker's HostConfig, complete."""
    masked, readonly = path_lists(spec)
    body: dict[str, object] = {
        "Binds": binds_json(spec.mounts),
        "ContainerIDFile": "",
        "LogConfig": {"Type": spec.log.driver, "Config": dict(spec.log.options)},
        "NetworkMode": spec.network_mode,
        "PortBindings": bindings_json(spec.ports),
        "RestartPolicy": {"Name": spec.restart.name, "MaximumRetryCount": spec.restart.maximum_retry_count},
        "AutoRemove": spec.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": _listed(spec.volumes_from),
        "ConsoleSize": list(spec.console_size),
        "CapAdd": _listed(spec.cap_add),
        "CapDrop": _listed(spec.cap_drop),
        "CgroupnsMode": spec.cgroupns_mode or "private",
        "Dns": list(spec.dns),
        "DnsOptions": list(spec.dns_options),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": _listed(spec.extra_hosts),
        "GroupAdd": _listed(spec.group_add),
        "IpcMode": spec.ipc_mode,
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": spec.oom_score_adj,
        "PidMode": spec.pid_mode,
        "Privileged": spec.privileged,
        "PublishAllPorts": spec.publish_all_ports,
        "ReadonlyRootfs": spec.read_only_rootfs,
        "SecurityOpt": _listed(spec.security_opt),
        "UTSMode": spec.uts_mode,
        "UsernsMode": spec.userns_mode,
        "ShmSize": spec.shm_size,
        "Runtime": spec.runtime or "runc",
        "Isolation": "",
        "CgroupParent": spec.cgroup_parent,
        "MaskedPaths": (masked or None) if spec.masked_paths is None else list(spec.masked_paths),
        "ReadonlyPaths": (readonly or None) if spec.readonly_paths is None else list(spec.readonly_paths),
        **resources_json(spec.resources),
    }
    if tmpfs := tmpfs_json(spec.mounts):
        body["Tmpfs"] = tmpfs
    if mounts := mounts_json(spec.mounts):
        body["Mounts"] = mounts
    if spec.storage_opt:
        body["StorageOpt"] = dict(spec.storage_opt)
    if spec.sysctls:
        body["Sysctls"] = dict(spec.sysctls)
    if spec.annotations:
        body["Annotations"] = dict(spec.annotations)
    if spec.init is not None:
        body["Init"] = spec.init
    return body


def endpoint_json(view: EndpointView) -> dict[str, object]:
    """EndpointSettings: how a container sits on one network."""
    ipam: dict[str, str] | None = None
    if view.ipam_ipv4 or view.ipam_ipv6:
        ipam = {"IPv4Address": view.ipam_ipv4} if view.ipam_ipv4 else {}
        ipam |= {"IPv6Address": view.ipam_ipv6} if view.ipam_ipv6 else {}
    return {
        "IPAMConfig": ipam,
        "Links": None,
        "Aliases": _listed(view.aliases),
        "MacAddress": view.mac_address,
        "DriverOpts": None,
        "GwPriority": view.gateway_priority,
        "NetworkID": view.network_id,
        "EndpointID": view.endpoint_id,
        "Gateway": view.gateway,
        "IPAddress": view.ipv4_address,
        "IPPrefixLen": view.ipv4_prefix,
        "IPv6Gateway": view.ipv6_gateway,
        "GlobalIPv6Address": view.ipv6_address,
        "GlobalIPv6PrefixLen": view.ipv6_prefix,
        "DNSNames": _listed(view.dns_names),
    }


def networks_json(endpoints: Iterable[EndpointView]) -> dict[str, dict[str, object]]:
    return {endpoint.network: endpoint_json(endpoint) for endpoint in endpoints}


def network_settings_json(view: ContainerView) -> dict[str, object]:
    """With the top-level fields that older clients read: those of the default bridge network."""
    first = next((e for e in view.endpoints if e.network == "bridge"), None)
    live = view.state in _LIVE and view.pid > 0
    return {
        "Bridge": "",
        "SandboxID": view.sandbox_id,
        "SandboxKey": f"/proc/{view.pid}/ns/net" if live else "",
        "Ports": live_json(view.spec.exposed_ports, view.ports) if live else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.endpoint_id if first else "",
        "Gateway": first.gateway if first else "",
        "GlobalIPv6Address": first.ipv6_address if first else "",
        "GlobalIPv6PrefixLen": first.ipv6_prefix if first else 0,
        "IPAddress": first.ipv4_address if first else "",
        "IPPrefixLen": first.ipv4_prefix if first else 0,
        "IPv6Gateway": first.ipv6_gateway if first else "",
        "MacAddress": first.mac_address if first else "",
        "Networks": networks_json(view.endpoints),
    }


def state_json(view: ContainerView) -> dict[str, object]:
    state = view.state
    body: dict[str, object] = {
        "Status": str(state),
        "Running": state in _LIVE,
        "Paused": state is ContainerState.PAUSED,
        "Restarting": state is ContainerState.RESTARTING,
        "OOMKilled": view.oom_killed,
        "Dead": state is ContainerState.DEAD,
        "Pid": view.pid if state in {ContainerState.RUNNING, ContainerState.PAUSED} else 0,
        "ExitCode": view.exit_code,
        "Error": view.error,
        "StartedAt": view.started_at,
        "FinishedAt": view.finished_at,
    }
    if view.health is not Health.NONE:
        body["Health"] = {
            "Status": str(view.health),
            "FailingStreak": view.failing_streak,
            "Log": [
                {"Start": p.start, "End": p.end, "ExitCode": p.exit_code, "Output": p.output}
                for p in view.health_log
            ],
        }
    return body


def mount_json(view: MountView) -> dict[str, object]:
    body: dict[str, object] = {"Type": view.type}
    if view.name:
        body["Name"] = view.name
    body["Source"] = view.source
    body["Destination"] = view.destination
    if view.driver:
        body["Driver"] = view.driver
    body |= {"Mode": view.mode, "RW": view.read_write, "Propagation": view.propagation}
    return body


def _graph_driver(view: ContainerView) -> dict[str, object]:
    upper = view.upper_dir
    base = upper.rpartition("/")[0]
    data = (
        {"ID": view.id, "UpperDir": upper, "WorkDir": f"{base}/w", "MergedDir": f"{base}/m"}
        if upper
        else {"ID": view.id}
    )
    return {"Name": "overlay2", "Data": data}


def inspect_json(view: ContainerView) -> dict[str, object]:
    """GET /containers/{id}/json."""
    return {
        "Id": view.id,
        "Created": view.created,
        "Path": view.path,
        "Args": list(view.args),
        "State": state_json(view),
        "Image": view.image_id,
        "ResolvConfPath": view.resolv_conf_path,
        "HostnamePath": view.hostname_path,
        "HostsPath": view.hosts_path,
        "LogPath": view.log_path,
        "Name": f"/{view.name}",
        "RestartCount": view.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": _listed(view.exec_ids),
        "HostConfig": host_config_json(view.spec),
        "GraphDriver": _graph_driver(view),
        "Mounts": [mount_json(mount) for mount in view.mounts],
        "Config": config_json(view.spec) | {"Image": view.image},
        "NetworkSettings": network_settings_json(view),
    }


def _command_line(view: ContainerView) -> str:
    """The COMMAND column: arguments joined, quoted where they hold blanks."""
    return " ".join(
        shlex.quote(word) if any(c.isspace() for c in word) else word
        for word in (view.path, *view.args)
        if word
    )


def summary(view: ContainerView, now_ns: int | None = None) -> dict[str, object]:
    """One entry of GET /containers/json."""
    live = view.state in _LIVE and view.pid > 0
    now = time.time_ns() if now_ns is None else now_ns
    return {
        "Id": view.id,
        "Names": [f"/{view.name}"],
        "Image": view.image,
        "ImageID": view.image_id,
        "Command": _command_line(view),
        "Created": unix_seconds(view.created),
        "Ports": summary_json(view.spec.exposed_ports, view.ports) if live else [],
        "Labels": dict(view.spec.labels),
        "State": str(view.state),
        "Status": status_line(view, now),
        "HostConfig": {"NetworkMode": view.spec.network_mode},
        "NetworkSettings": {"Networks": networks_json(view.endpoints)},
        "Mounts": [mount_json(mount) for mount in view.mounts],
    }


def exec_json(view: ExecView) -> dict[str, object]:
    """GET /exec/{id}/json."""
    process: Mapping[str, object] = {
        "tty": view.tty,
        "entrypoint": view.command[0] if view.command else "",
        "arguments": list(view.command[1:]),
        "privileged": view.privileged,
        "user": view.user,
    }
    return {
        "ID": view.id,
        "Running": view.running,
        "ExitCode": view.exit_code,
        "ProcessConfig": process,
        "OpenStdin": view.open_stdin,
        "OpenStderr": view.open_stderr,
        "OpenStdout": view.open_stdout,
        "CanRemove": not view.running and view.exit_code is not None,
        "ContainerID": view.container_id,
        "DetachKeys": view.detach_keys,
        "Pid": view.pid,
    }
