"""The desired state: a stack file after loading, interpolation, merging, checks and normalisation.

Paths are absolute, durations are nanoseconds, sizes are bytes, names are resolved: `Stack` says what is wanted with no
reference left to where it was written. `stackfile` makes it, `planner` reads it, `reconciler` keeps it as a revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pystack.model.container import (
    Healthcheck,
    IpamPool,
    LogConfig,
    Mount,
    PortBinding,
    Resources,
    RestartPolicy,
)

Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    service: str
    condition: Condition = "service_started"
    restart: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceNetwork:
    """One network that a service joins. `network` is the key below the stack's `networks`."""

    network: str
    aliases: tuple[str, ...] = ()
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    priority: int = 0
    gateway_priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReference:
    """A secret or config granted to a service. `source` is the key below the stack's `secrets` or `configs`."""

    kind: Literal["secret", "config"]
    source: str
    target: str  # absolute path in the container
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    image: str
    replicas: int = 1
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)  # env_file already merged in
    ports: tuple[PortBinding, ...] = ()
    expose: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()  # volume mounts name the key below `volumes`
    networks: tuple[ServiceNetwork, ...] = ()
    network_mode: str = ""  # "", none, host, service:<name>, container:<ref>, bridge
    depends_on: tuple[Dependency, ...] = ()
    healthcheck: Healthcheck | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    resources: Resources = field(default_factory=Resources)
    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    domainname: str = ""
    container_name: str = ""
    init: bool | None = None
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 0
    ipc: str = ""
    pid: str = ""
    uts: str = ""
    cgroup: str = ""  # "", host, private
    cgroup_parent: str = ""
    userns_mode: str = ""
    oom_score_adj: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_grace_period: int | None = None  # ns
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    files: tuple[FileReference, ...] = ()
    log: LogConfig = field(default_factory=LogConfig)
    pull_policy: str = ""
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StackNetwork:
    """A network of the stack. `name` is its name in the engine; an external one must exist and is never changed."""

    key: str
    name: str
    external: bool = False
    driver: str = "bridge"
    internal: bool = False
    attachable: bool = False
    enable_ipv6: bool = False
    ipam_pools: tuple[IpamPool, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackVolume:
    key: str
    name: str
    external: bool = False
    driver: str = "local"
    driver_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFileContent:
    """Content of a secret or config, read when the stack file is loaded (from a file, the environment or inline)."""

    key: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A project. `services` holds the services that the chosen profiles enable."""

    name: str
    working_dir: str
    config_files: tuple[str, ...] = ()
    services: Mapping[str, Service] = field(default_factory=dict)
    networks: Mapping[str, StackNetwork] = field(default_factory=dict)
    volumes: Mapping[str, StackVolume] = field(default_factory=dict)
    secrets: Mapping[str, StackFileContent] = field(default_factory=dict)
    configs: Mapping[str, StackFileContent] = field(default_factory=dict)
