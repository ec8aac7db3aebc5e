"""What the engine reports: containers, networks, volumes and images as they are. Plain snapshots, taken once.

The engine makes them, the API renders them as Docker's JSON, the planner compares them with what is desired.
Instants are RFC 3339 strings with nanoseconds in UTC ("0001-01-01T00:00:00Z" for never), as Docker prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pystack.model.container import ContainerSpec, ImageConfig, IpamPool, Protocol
from pystack.model.states import ContainerState, Health

NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthProbe:
    start: str
    end: str
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """A container on a network, live or (addresses "") waiting for the container to start."""

    network: str
    network_id: str
    endpoint_id: str = ""
    gateway: str = ""
    ipv4_address: str = ""
    ipv4_prefix: int = 0
    ipv6_gateway: str = ""
    ipv6_address: str = ""
    ipv6_prefix: int = 0
    mac_address: str = ""
    aliases: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    ipam_ipv4: str = ""  # the static address that was asked for
    ipam_ipv6: str = ""
    gateway_priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    container_port: int
    protocol: Protocol
    host_ip: str
    host_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountView:
    """One mount of a container as Docker's inspect shows it. `source` is the path on the host."""

    type: str
    name: str  # volume name, "" for others
    source: str
    destination: str
    driver: str = ""
    mode: str = ""
    read_write: bool = True
    propagation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerView:
    id: str
    name: str  # without the leading slash
    created: str
    spec: ContainerSpec  # as asked, merged with the image's config
    image: str  # the reference that was asked for
    image_id: str  # sha256:…
    state: ContainerState
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    restart_count: int = 0
    manually_stopped: bool = False
    health: Health = Health.NONE
    failing_streak: int = 0
    health_log: tuple[HealthProbe, ...] = ()
    path: str = ""
    args: tuple[str, ...] = ()
    log_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    mounts: tuple[MountView, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()
    ports: tuple[PublishedPort, ...] = ()  # live ones
    sandbox_id: str = ""
    exec_ids: tuple[str, ...] = ()
    upper_dir: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecView:
    id: str
    container_id: str
    running: bool
    exit_code: int | None
    pid: int
    command: tuple[str, ...]
    user: str
    tty: bool
    privileged: bool
    open_stdin: bool
    open_stdout: bool
    open_stderr: bool
    detach_keys: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    id: str
    name: str
    created: str
    driver: str
    internal: bool
    attachable: bool
    enable_ipv4: bool
    enable_ipv6: bool
    ipam_driver: str
    ipam_pools: tuple[IpamPool, ...]
    ipam_options: Mapping[str, str]
    options: Mapping[str, str]
    labels: Mapping[str, str]
    predefined: bool = False
    containers: Mapping[str, EndpointView] = field(default_factory=dict)  # live ones, by container id
    container_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    name: str
    driver: str
    mountpoint: str
    created: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    anonymous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    id: str  # sha256:<hex of the config>
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    parent: str
    created: str
    size: int
    architecture: str
    os: str
    config: ImageConfig
    layers: tuple[str, ...]  # diff ids
    author: str = ""
    comment: str = ""
    variant: str = ""
    synthetic: str = ""  # why it cannot be saved or pushed; "" for ordinary images


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One engine event. `time_ns` is wall-clock nanoseconds since the epoch."""

    type: str  # container, image, network, volume, daemon, stack
    action: str
    actor_id: str
    attributes: Mapping[str, str]
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStack:
    """Everything of one stack that exists, found by its labels, and the external things that it names."""

    name: str
    containers: tuple[ContainerView, ...] = ()
    networks: tuple[NetworkView, ...] = ()
    volumes: tuple[VolumeView, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)  # reference -> image id, those that are here
    #: configuration hash -> the document that it was made of, from the stack's history (planner.hashing)
    recorded: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
