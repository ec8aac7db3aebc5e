"""What a container is asked to be: the engine's own form of Docker's Config, HostConfig and NetworkingConfig.

The API converts Docker's JSON to and from these; the planner makes them from a stack's services; the state store
keeps them as JSON. Times are in nanoseconds, sizes in bytes. `None` means "not given", which is not the same as empty:
an image's value shows through only where the request has None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Protocol = Literal["tcp", "udp", "sctp"]

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """A probe. `test` is Docker's form: [] inherit, ["NONE"], ["CMD", arg…], ["CMD-SHELL", line]. Times in ns, 0 = default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBinding:
    """One published port. `host_ip` "" means every address of the host; `host_port` 0 means an ephemeral one."""

    container_port: int
    protocol: Protocol = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0  # last port of a host range to choose from; 0: exactly host_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount of a container. `source` is a host path (bind), a volume's name (volume; "" anonymous) or "" (tmpfs)."""

    type: Literal["bind", "volume", "tmpfs", "image"]
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""  # bind: "" = rprivate
    recursive: bool = True  # bind: include sub-mounts
    read_only_recursive: Literal["", "no", "force"] = (
        ""  # bind, read-only: what is mounted below it; "" = if possible
    )
    create_host_path: bool = False  # bind: make the source directory when it is missing
    nocopy: bool = False  # volume: no copy-up
    subpath: str = ""  # volume, image
    driver: str = ""  # volume: driver used when it must be created
    driver_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    tmpfs_size: int = 0
    tmpfs_mode: int | None = None
    tmpfs_options: str = ""  # raw `--tmpfs /x:rw,size=64m` options


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """A file that the engine writes for the container (a Compose secret or config) and mounts read-only at `target`."""

    target: str
    content: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    name: Literal["no", "always", "unless-stopped", "on-failure"] = "no"
    maximum_retry_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    path_on_host: str
    path_in_container: str
    cgroup_permissions: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimit:
    """A block device of the host and its weight (10..1000), bytes or operations per second."""

    path: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits, 0 (or "" / None) = unlimited. `nano_cpus` is CPUs x 1e9. `memory_swap` -1 = unlimited swap.

    `memory_swap` counts memory and swap; 0 means Docker's default, twice the memory (`memory_and_swap`). Periods, quotas
    and realtime runtimes are in microseconds. `unified` holds files of cgroup v2 that Docker has no field for.
    """

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int | None = None
    blkio_weight: int = 0
    blkio_weight_device: tuple[DeviceLimit, ...] = ()
    blkio_device_read_bps: tuple[DeviceLimit, ...] = ()
    blkio_device_write_bps: tuple[DeviceLimit, ...] = ()
    blkio_device_read_iops: tuple[DeviceLimit, ...] = ()
    blkio_device_write_iops: tuple[DeviceLimit, ...] = ()
    kernel_memory: int = 0  # no kernel has that limit any more: warned of
    unified: Mapping[str, str] = field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()

    @property
    def memory_and_swap(self) -> int:
        """The limit of both together in bytes, with Docker's default; -1 = unlimited, 0 = no limit of either."""
        return self.memory_swap or (2 * self.memory if self.memory > 0 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`driver` "" is the engine's default one."""

    driver: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """How a container joins one network (named or by id)."""

    network: str
    aliases: tuple[str, ...] = ()
    ipv4_address: str = ""
    ipv6_address: str = ""
    mac_address: str = ""
    links: tuple[str, ...] = ()
    driver_options: Mapping[str, str] = field(default_factory=dict)
    gateway_priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything a create request says. Frozen: an update makes a new one."""

    # Docker's Config
    image: str
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()  # "K=V"; "K" alone removes K
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout: int | None = None  # seconds
    exposed_ports: tuple[str, ...] = ()  # "80/tcp"
    volumes: tuple[str, ...] = ()  # anonymous volume targets (Config.Volumes)
    # Docker's HostConfig
    mounts: tuple[Mount, ...] = ()
    files: tuple[FileContent, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    publish_all_ports: bool = False
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    network_mode: str = "default"  # default, bridge, none, host, container:<ref>, or a network's name
    ipc_mode: str = "private"
    pid_mode: str = ""
    uts_mode: str = ""
    cgroupns_mode: str = ""
    cgroup_parent: str = ""
    userns_mode: str = ""
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    read_only_rootfs: bool = False
    init: bool | None = None
    shm_size: int = 0
    sysctls: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int = 0
    storage_opt: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()  # "name:ip"
    resources: Resources = field(default_factory=Resources)
    log: LogConfig = field(default_factory=LogConfig)
    annotations: Mapping[str, str] = field(default_factory=dict)
    volumes_from: tuple[str, ...] = ()
    runtime: str = ""
    console_size: tuple[int, int] = (0, 0)  # rows, columns
    # Docker's NetworkingConfig
    endpoints: tuple[EndpointSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSpec:
    command: tuple[str, ...]
    user: str = ""
    tty: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    env: tuple[str, ...] = ()
    working_dir: str = ""
    privileged: bool = False
    detach_keys: str = ""
    console_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """What a network is asked to be (Docker's NetworkCreateRequest)."""

    name: str
    driver: str = "bridge"
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam_driver: str = "default"
    ipam_pools: tuple[IpamPool, ...] = ()
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpamPool:
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux_addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSpec:
    name: str  # "" = anonymous: 64 hex digits are chosen
    driver: str = "local"
    driver_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The runtime part of an image's config (OCI image-spec `config`), in the engine's words."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
