"""Checks of a create request before anything is made, with Docker's messages. Pure but for looking at host facts."""

from __future__ import annotations

import re
from ipaddress import ip_address

from pystack.engine import bundles
from pystack.engine.confine import confinement, parse_security_options
from pystack.engine.logdrivers.options import check as check_log
from pystack.engine.logdrivers.tags import Subject, render_tag
from pystack.engine.resources import check_resources, check_restart
from pystack.engine.signals import parse_signal
from pystack.kernel.cgroup_files import Features
from pystack.kernel.host import Host
from pystack.model.container import ContainerSpec, Mount
from pystack.model.errors import InvalidInput

_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?\Z")
_DOMAIN = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?\Z")

_NOBODY = Subject(id="", name="", image="", image_id="", created="", command=(), labels={}, env=())


def check_policy(spec: ContainerSpec) -> None:
    """Restart policy and --rm."""
    check_restart(spec.restart)
    if spec.auto_remove and spec.restart.name != "no":
        raise InvalidInput("can't create 'AutoRemove' container with restart policy")


def check_sysctls(config: ContainerSpec) -> None:
    """Only sysctls that a namespace of the container's own holds: any other would be the host's."""
    for name in config.sysctls:
        if "/" in name or ".." in name:
            raise InvalidInput(f'invalid sysctl "{name}"', hint="write it with dots: net.ipv4.ip_forward")
        if name.startswith("net."):
            if config.network_mode == "host":
                raise InvalidInput(f'sysctl "{name}" not allowed in host network namespace')
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if config.ipc_mode == "host":
                raise InvalidInput(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
        elif name == "kernel.hostname":
            raise InvalidInput(
                f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field',
                hint="--hostname",
            )
        elif name != "kernel.domainname" or config.uts_mode == "host":
            raise InvalidInput(
                f'sysctl "{name}" is not in a separate kernel namespace',
                hint="net.* needs a network of the container's own, kernel.shm* and kernel.msg* its own IPC namespace",
            )


def _of_container(mode: str) -> bool:
    kind, _, ref = mode.partition(":")
    return kind == "container" and bool(ref)


def check_modes(config: ContainerSpec) -> None:
    """Namespace modes and what contradicts them."""
    shared = config.network_mode.startswith("container:")
    if shared and config.ports:
        raise InvalidInput("conflicting options: port publishing and the container type network mode")
    if shared and config.dns:
        raise InvalidInput("conflicting options: dns and the network mode")
    if shared and config.extra_hosts:
        raise InvalidInput("conflicting options: custom host-to-IP mapping and the network mode")
    if config.ipc_mode not in {"private", "none", "shareable", "host"} and not _of_container(config.ipc_mode):
        raise InvalidInput(f"invalid IPC mode: {config.ipc_mode}")
    if config.pid_mode not in {"", "host"} and not _of_container(config.pid_mode):
        raise InvalidInput(f"invalid PID mode: {config.pid_mode}")
    if config.uts_mode == "host" and config.hostname:
        raise InvalidInput("conflicting options: hostname and the UTS mode")
    if config.uts_mode == "host" and config.domainname:
        raise InvalidInput("conflicting options: domainname and the UTS mode")
    if config.uts_mode not in {"", "host"}:
        raise InvalidInput(f"invalid UTS mode: {config.uts_mode}")
    if config.cgroupns_mode not in {"", "host", "private"}:
        raise InvalidInput(f"invalid cgroup namespace mode: {config.cgroupns_mode}")
    if config.userns_mode not in {"", "host"}:
        raise InvalidInput(f"invalid userns mode: {config.userns_mode}")
    if config.runtime not in {"", "runc", "io.containerd.runc.v2", "pystack"}:
        raise InvalidInput(f"unknown or invalid runtime name: {config.runtime}")


def check_mounts(config: ContainerSpec) -> None:
    """Targets: absolute, not the root, not on or below /proc, not twice."""
    seen: set[str] = set()
    for mount in config.mounts:
        target = mount.target.rstrip("/")
        if not mount.target.startswith("/"):
            raise InvalidInput(f"invalid mount path: '{mount.target}' mount path must be absolute")
        if not target:
            raise InvalidInput("invalid specification: destination can't be '/'")
        if target == "/proc" or target.startswith("/proc/"):
            # isolation.md §5: a mount over /proc lets a container lie to the engine about itself (CVE-2019-16884).
            raise InvalidInput(f"cannot mount on {target}: it is inside /proc")
        if target in seen:
            raise InvalidInput(f"Duplicate mount point: {mount.target}")
        seen.add(target)
        if mount.type == "tmpfs":
            bundles.tmpfs_entry(mount)
        _check_subpath(mount)


def _check_subpath(mount: Mount) -> None:
    """A subpath is relative and goes down only, as Go's filepath.IsLocal; links in it are looked at when it is mounted."""
    if not mount.subpath:
        return
    depth = 0
    for part in mount.subpath.split("/"):
        depth += -1 if part == ".." else 0 if part in {"", "."} else 1
        if depth < 0:
            break
    if mount.subpath.startswith("/") or depth < 0 or "\0" in mount.subpath:
        raise InvalidInput(
            f'invalid mount config for type "{mount.type}": subpath must be a relative path within the {mount.type}'
        )
    if mount.type == "volume" and not mount.source:
        raise InvalidInput(
            'invalid mount config for type "volume": must not set Subpath when using anonymous volumes'
        )


def check_names(config: ContainerSpec) -> None:
    """What goes into the container's hosts and resolv.conf: a line break would write lines of its own."""
    if config.hostname and (len(config.hostname) > 63 or not _HOSTNAME.match(config.hostname)):
        raise InvalidInput(f"invalid hostname format: {config.hostname}")
    if config.domainname and (len(config.domainname) > 64 or not _DOMAIN.match(config.domainname)):
        raise InvalidInput(f"invalid domain name: {config.domainname!r}")
    asked = (
        ("dns search domain", config.dns_search),
        ("dns option", config.dns_options),
        ("dns server", config.dns),
    )
    for kind, words in asked:
        for word in words:
            if word.split() != [word]:
                raise InvalidInput(f"invalid {kind}: {word!r}", hint="give one without white space")
    for server in config.dns:
        try:
            ip_address(server)
        except ValueError:
            raise InvalidInput(f"invalid dns server: {server!r}", hint="give an IP address") from None


def _check_writable_cgroups(config: ContainerSpec, host: Host) -> None:
    if not parse_security_options(config.security_opt).writable_cgroups or config.privileged:
        return
    if host.cgroups.mode != "v2":
        raise InvalidInput(
            "cannot use --security-opt writable-cgroups: it needs cgroup v2",
            hint="on cgroup v1 a container with writable cgroups could run programs of its own on the host",
        )
    if config.cgroupns_mode == "host":
        raise InvalidInput("cannot use --security-opt writable-cgroups in the host's cgroup namespace")


def check(config: ContainerSpec, host: Host, features: Features) -> list[str]:
    """Everything about a merged spec. Returns warnings; raises InvalidInput or Unsupported."""
    check_policy(config)
    check_modes(config)
    check_sysctls(config)
    check_mounts(config)
    check_names(config)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    check_log(config.log)
    if tag := config.log.options.get("tag", ""):
        render_tag(tag, _NOBODY)
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidInput(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if not -1000 <= config.oom_score_adj <= 1000:
        raise InvalidInput(f"Invalid value {config.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    confinement(config)
    _check_writable_cgroups(config, host)
    return check_resources(config, host, features)
