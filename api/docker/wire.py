"""Bodies of Docker's requests as pydantic models, field by field as in the Engine API v1.50 (`swagger`).

Go decodes `null` as "not given", so every field is optional. Fields that this engine has no use for are left out:
unknown ones are ignored, as Docker ignores those of other versions.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pystack.api.jsons import Wire

Strings = dict[str, str]
#: Rows or columns of a terminal: what struct winsize holds, ioctl_tty(2).
Dimension = Annotated[int, Field(ge=0, le=2**16 - 1)]


class HealthConfig(Wire):
    Test: list[str] | None = None
    Interval: int | None = None
    Timeout: int | None = None
    StartPeriod: int | None = None
    StartInterval: int | None = None
    Retries: int | None = None


class WeightDeviceBody(Wire):
    Path: str | None = None
    Weight: int | None = None


class ThrottleDeviceBody(Wire):
    Path: str | None = None
    Rate: int | None = None


class PortBindingBody(Wire):
    HostIp: str | None = None
    HostPort: str | None = None


class RestartPolicyBody(Wire):
    Name: str | None = None
    MaximumRetryCount: int | None = None


class UlimitBody(Wire):
    Name: str = ""
    Soft: int = 0
    Hard: int = 0


class DeviceBody(Wire):
    PathOnHost: str | None = None
    PathInContainer: str | None = None
    CgroupPermissions: str | None = None


class LogConfigBody(Wire):
    Type: str | None = None
    Config: Strings | None = None


class DriverBody(Wire):
    Name: str | None = None
    Options: Strings | None = None


class BindOptionsBody(Wire):
    Propagation: str | None = None
    NonRecursive: bool | None = None
    CreateMountpoint: bool | None = None
    ReadOnlyNonRecursive: bool | None = None
    ReadOnlyForceRecursive: bool | None = None


class VolumeOptionsBody(Wire):
    NoCopy: bool | None = None
    Labels: Strings | None = None
    Subpath: str | None = None
    DriverConfig: DriverBody | None = None


class TmpfsOptionsBody(Wire):
    SizeBytes: int | None = None
    Mode: int | None = None
    Options: list[list[str]] | None = None


class ImageOptionsBody(Wire):
    Subpath: str | None = None


class MountBody(Wire):
    Type: str | None = None
    Source: str | None = None
    Target: str | None = None
    ReadOnly: bool | None = None
    Consistency: str | None = None
    BindOptions: BindOptionsBody | None = None
    VolumeOptions: VolumeOptionsBody | None = None
    TmpfsOptions: TmpfsOptionsBody | None = None
    ImageOptions: ImageOptionsBody | None = None


class DeviceRequestBody(Wire):
    Driver: str | None = None
    Count: int | None = None
    DeviceIDs: list[str] | None = None
    Capabilities: list[list[str]] | None = None
    Options: Strings | None = None


class ResourcesBody(Wire):
    """Limits: part of HostConfig, and the body of an update."""

    CpuShares: int | None = None
    Memory: int | None = None
    NanoCpus: int | None = None
    CgroupParent: str | None = None
    BlkioWeight: int | None = None
    BlkioWeightDevice: list[WeightDeviceBody] | None = None
    BlkioDeviceReadBps: list[ThrottleDeviceBody] | None = None
    BlkioDeviceWriteBps: list[ThrottleDeviceBody] | None = None
    BlkioDeviceReadIOps: list[ThrottleDeviceBody] | None = None
    BlkioDeviceWriteIOps: list[ThrottleDeviceBody] | None = None
    CpuCount: int | None = None
    CpuPercent: int | None = None
    CpuPeriod: int | None = None
    CpuQuota: int | None = None
    CpuRealtimePeriod: int | None = None
    CpuRealtimeRuntime: int | None = None
    CpusetCpus: str | None = None
    CpusetMems: str | None = None
    Devices: list[DeviceBody] | None = None
    DeviceCgroupRules: list[str] | None = None
    DeviceRequests: list[DeviceRequestBody] | None = None
    IOMaximumBandwidth: int | None = None
    IOMaximumIOps: int | None = None
    KernelMemory: int | None = None
    MemoryReservation: int | None = None
    MemorySwap: int | None = None
    MemorySwappiness: int | None = None
    OomKillDisable: bool | None = None
    PidsLimit: int | None = None
    Ulimits: list[UlimitBody] | None = None


class UpdateBody(ResourcesBody):
    RestartPolicy: RestartPolicyBody | None = None


class HostConfigBody(ResourcesBody):
    Binds: list[str] | None = None
    LogConfig: LogConfigBody | None = None
    NetworkMode: str | None = None
    PortBindings: dict[str, list[PortBindingBody] | None] | None = None
    RestartPolicy: RestartPolicyBody | None = None
    AutoRemove: bool | None = None
    VolumeDriver: str | None = None
    VolumesFrom: list[str] | None = None
    Mounts: list[MountBody] | None = None
    ConsoleSize: list[Dimension] | None = None
    Annotations: Strings | None = None
    CapAdd: list[str] | None = None
    CapDrop: list[str] | None = None
    CgroupnsMode: str | None = None
    Dns: list[str] | None = None
    DnsOptions: list[str] | None = None
    DnsSearch: list[str] | None = None
    ExtraHosts: list[str] | None = None
    GroupAdd: list[str] | None = None
    IpcMode: str | None = None
    Isolation: str | None = None
    Links: list[str] | None = None
    OomScoreAdj: int | None = None
    PidMode: str | None = None
    Privileged: bool | None = None
    PublishAllPorts: bool | None = None
    ReadonlyRootfs: bool | None = None
    SecurityOpt: list[str] | None = None
    StorageOpt: Strings | None = None
    Tmpfs: Strings | None = None
    UTSMode: str | None = None
    UsernsMode: str | None = None
    ShmSize: int | None = None
    Sysctls: Strings | None = None
    Runtime: str | None = None
    MaskedPaths: list[str] | None = None
    ReadonlyPaths: list[str] | None = None
    Init: bool | None = None


class EndpointIpamBody(Wire):
    IPv4Address: str | None = None
    IPv6Address: str | None = None


class EndpointBody(Wire):
    IPAMConfig: EndpointIpamBody | None = None
    Links: list[str] | None = None
    Aliases: list[str] | None = None
    MacAddress: str | None = None
    DriverOpts: Strings | None = None
    GwPriority: int | None = None


class NetworkingBody(Wire):
    EndpointsConfig: dict[str, EndpointBody | None] | None = None


class ContainerBody(Wire):
    """POST /containers/create: Docker's Config with HostConfig and NetworkingConfig inside."""

    Hostname: str | None = None
    Domainname: str | None = None
    User: str | None = None
    AttachStdin: bool | None = None
    AttachStdout: bool | None = None
    AttachStderr: bool | None = None
    ExposedPorts: dict[str, Any] | None = None
    Tty: bool | None = None
    OpenStdin: bool | None = None
    StdinOnce: bool | None = None
    Env: list[str] | None = None
    Cmd: list[str] | str | None = None
    Entrypoint: list[str] | str | None = None
    Healthcheck: HealthConfig | None = None
    Image: str | None = None
    Volumes: dict[str, Any] | None = None
    WorkingDir: str | None = None
    NetworkDisabled: bool | None = None
    MacAddress: str | None = None
    Labels: Strings | None = None
    StopSignal: str | None = None
    StopTimeout: int | None = None
    HostConfig: HostConfigBody | None = None
    NetworkingConfig: NetworkingBody | None = None


class ImageConfigBody(Wire):
    """POST /commit: the part of a container's Config that an image keeps."""

    User: str | None = None
    ExposedPorts: dict[str, Any] | None = None
    Env: list[str] | None = None
    Cmd: list[str] | str | None = None
    Entrypoint: list[str] | str | None = None
    Healthcheck: HealthConfig | None = None
    Volumes: dict[str, Any] | None = None
    WorkingDir: str | None = None
    Labels: Strings | None = None
    StopSignal: str | None = None
    OnBuild: list[str] | None = None
    Shell: list[str] | None = None


class ExecBody(Wire):
    User: str | None = None
    Privileged: bool | None = None
    Tty: bool | None = None
    ConsoleSize: list[Dimension] | None = None
    AttachStdin: bool | None = None
    AttachStdout: bool | None = None
    AttachStderr: bool | None = None
    DetachKeys: str | None = None
    Env: list[str] | None = None
    WorkingDir: str | None = None
    Cmd: list[str] | str | None = None


class ExecStartBody(Wire):
    Detach: bool | None = None
    Tty: bool | None = None
    ConsoleSize: list[Dimension] | None = None


class IpamPoolBody(Wire):
    Subnet: str | None = None
    IPRange: str | None = None
    Gateway: str | None = None
    AuxiliaryAddresses: Strings | None = None


class IpamBody(Wire):
    Driver: str | None = None
    Config: list[IpamPoolBody] | None = None
    Options: Strings | None = None


class NetworkBody(Wire):
    Name: str | None = None
    Driver: str | None = None
    Scope: str | None = None
    Internal: bool | None = None
    Attachable: bool | None = None
    Ingress: bool | None = None
    ConfigOnly: bool | None = None
    EnableIPv4: bool | None = None
    EnableIPv6: bool | None = None
    IPAM: IpamBody | None = None
    Options: Strings | None = None
    Labels: Strings | None = None


class ConnectBody(Wire):
    Container: str | None = None
    EndpointConfig: EndpointBody | None = None


class DisconnectBody(Wire):
    Container: str | None = None
    Force: bool | None = None


class VolumeBody(Wire):
    Name: str | None = None
    Driver: str | None = None
    DriverOpts: Strings | None = None
    Labels: Strings | None = None
    ClusterVolumeSpec: Any | None = None
