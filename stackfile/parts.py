"""Mappings that stand inside a service, a volume or one another: the smaller models of the schema.

In: plain values of a merged document. Out: frozen models. `schema` has what they are parts of, and is the door to them.
"""

from __future__ import annotations

from typing import (
    Annotated,
    Any,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from pystack.stackfile.types import (
    Count,
    Duration,
    Flag,
    LooseText,
    Mode,
    Number,
    OptionMap,
    Size,
    SizeText,
    Text,
    TextMap,
    Texts,
    UniqueTexts,
    Whole,
    one_of,
    refuse,
)


class Part(BaseModel):
    """A mapping of the stack file. Unknown keys are refused, `x-` keys are kept in `extensions`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    extensions: dict[str, Any] = Field(default_factory=dict, alias="x-")

    @model_validator(mode="before")
    @classmethod
    def _keep_extensions(cls, value: Any) -> Any:
        if value.__class__ is not dict:
            return value
        for key in value:  # keys are text; a loop, since this runs for every mapping
            if key.startswith("x-"):
                break
        else:
            return value
        rest = {k: v for k, v in value.items() if not k.startswith("x-")}
        rest["x-"] = {k: v for k, v in value.items() if k.startswith("x-")}
        return rest


class DependsOn(Part):
    condition: Annotated[
        str, one_of("service_started", "service_healthy", "service_completed_successfully")
    ] = "service_started"
    restart: Flag | None = None
    required: Flag = True


class RatePart(Part):
    path: Text
    rate: Size


class WeightPart(Part):
    path: Text
    weight: Whole


class BlkioPart(Part):
    device_read_bps: tuple[RatePart, ...] | None = None
    device_read_iops: tuple[RatePart, ...] | None = None
    device_write_bps: tuple[RatePart, ...] | None = None
    device_write_iops: tuple[RatePart, ...] | None = None
    weight: Whole | None = None
    weight_device: tuple[WeightPart, ...] | None = None


class CredentialSpec(Part):
    config: Text | None = None
    file: Text | None = None
    registry: Text | None = None


class HookPart(Part):
    """A command that runs in the container."""

    command: Texts | None = None
    environment: TextMap | None = None
    privileged: Flag | None = None
    user: Text | None = None
    working_dir: Text | None = None


class PreStartPart(HookPart):
    image: Text | None = None
    per_replica: Flag | None = None


class WatchPart(Part):
    action: Annotated[str, one_of("rebuild", "sync", "restart", "sync+restart", "sync+exec")]
    exec: HookPart | None = None
    ignore: Texts | None = None
    include: Texts | None = None
    initial_sync: Flag | None = None
    path: Text
    target: Text | None = None


class Develop(Part):
    watch: tuple[WatchPart, ...] | None = None


class ProviderPart(Part):
    options: OptionMap | None = None
    type: Text


class GpuPart(Part):
    capabilities: UniqueTexts | None = None
    count: Count | None = None
    device_ids: UniqueTexts | None = None
    driver: Text | None = None
    options: TextMap | None = None


class ReservedDevice(GpuPart):
    capabilities: UniqueTexts


class DiscreteResource(Part):
    kind: Text | None = None
    value: Number | None = None


class GenericResource(Part):
    discrete_resource_spec: DiscreteResource | None = None


class UsedModel(Part):
    endpoint_var: Text | None = None
    model_var: Text | None = None


class ModelPart(Part):
    """A top-level model."""

    context_size: Whole | None = None
    model: Text
    name: Text | None = None
    runtime_flags: Texts | None = None


class HealthcheckPart(Part):
    disable: Flag | None = None
    interval: Duration | None = None
    retries: Whole | None = None
    start_interval: Duration | None = None
    start_period: Duration | None = None
    test: Texts | None = None
    timeout: Duration | None = None


class Port(Part):
    app_protocol: Text | None = None
    host_ip: Text | None = None
    mode: Annotated[str, one_of("ingress", "host")] = "ingress"
    name: Text | None = None
    protocol: Annotated[str, one_of("tcp", "udp", "sctp")] = "tcp"
    published: LooseText | None = None
    target: Whole


class BindOptions(Part):
    create_host_path: Flag | None = None
    propagation: (
        Annotated[str, one_of("private", "rprivate", "shared", "rshared", "slave", "rslave")] | None
    ) = None
    recursive: Annotated[str, one_of("enabled", "disabled", "writable", "readonly")] | None = None
    selinux: Annotated[str, one_of("z", "Z")] | None = None


class VolumeOptions(Part):
    labels: TextMap | None = None
    nocopy: Flag | None = None
    subpath: Text | None = None


class TmpfsOptions(Part):
    mode: Mode | None = None
    size: Size | None = None


class ImageOptions(Part):
    subpath: Text | None = None


class ServiceVolume(Part):
    type: Annotated[str, one_of("bind", "volume", "tmpfs", "image", "npipe", "cluster")]
    bind: BindOptions | None = None
    consistency: Text | None = None
    image: ImageOptions | None = None
    read_only: Flag | None = None
    source: Text | None = None
    target: Text
    tmpfs: TmpfsOptions | None = None
    volume: VolumeOptions | None = None


class JoinedNetwork(Part):
    aliases: Texts | None = None
    driver_opts: TextMap | None = None
    gw_priority: Whole | None = None
    interface_name: Text | None = None
    ipv4_address: Text | None = None
    ipv6_address: Text | None = None
    link_local_ips: Texts | None = None
    mac_address: Text | None = None
    priority: Whole | None = None


class Granted(Part):
    gid: LooseText | None = None
    mode: Mode | None = None
    source: Text
    target: Text | None = None
    uid: LooseText | None = None


class UlimitPart(Part):
    """Both limits are required, but for the empty mapping that compose prints for two zeros."""

    hard: Whole
    soft: Whole

    @model_validator(mode="before")
    @classmethod
    def _single(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value or {"soft": 0, "hard": 0}
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            raise refuse("a whole number", value)
        return {"soft": value, "hard": value} if isinstance(value, (int, str)) else value


class ExtendsPart(Part):
    file: Text | None = None
    service: Text


class EnvFile(Part):
    format: Annotated[str, one_of("raw")] | None = None
    path: Text
    required: Flag = True


class Logging(Part):
    driver: Text | None = None
    options: TextMap | None = None


class DevicePart(Part):
    permissions: Text | None = None
    source: Text
    target: Text


class Limits(Part):
    cpus: Number | None = None
    memory: SizeText | None = None
    pids: Whole | None = None


class Reservations(Part):
    cpus: Number | None = None
    devices: tuple[ReservedDevice, ...] | None = None
    generic_resources: tuple[GenericResource, ...] | None = None
    memory: SizeText | None = None


class DeployResources(Part):
    limits: Limits | None = None
    reservations: Reservations | None = None


class DeployRestart(Part):
    condition: Annotated[str, one_of("none", "on-failure", "any", "always", "unless-stopped")] | None = None
    delay: Duration | None = None
    max_attempts: Whole | None = None
    window: Duration | None = None


class RolloutPart(Part):
    """`update_config` or `rollback_config`."""

    delay: Duration | None = None
    failure_action: Text | None = None
    max_failure_ratio: Number | None = None
    monitor: Duration | None = None
    order: Annotated[str, one_of("start-first", "stop-first")] | None = None
    parallelism: Whole | None = None


class Spread(Part):
    spread: Text | None = None


class Placement(Part):
    constraints: Texts | None = None
    max_replicas_per_node: Whole | None = None
    preferences: tuple[Spread, ...] | None = None


class Deploy(Part):
    endpoint_mode: Text | None = None
    labels: TextMap | None = None
    mode: Annotated[str, one_of("replicated", "global", "replicated-job", "global-job")] | None = None
    placement: Placement | None = None
    replicas: Whole | None = None
    resources: DeployResources | None = None
    restart_policy: DeployRestart | None = None
    rollback_config: RolloutPart | None = None
    update_config: RolloutPart | None = None


class BuildPart(Part):
    additional_contexts: TextMap | None = None
    args: TextMap | None = None
    cache_from: Texts | None = None
    cache_to: Texts | None = None
    context: Text | None = None
    dockerfile: Text | None = None
    dockerfile_inline: Text | None = None
    entitlements: Texts | None = None
    extra_hosts: Texts | None = None
    isolation: Text | None = None
    labels: TextMap | None = None
    network: Text | None = None
    no_cache: Flag | None = None
    no_cache_filter: Texts | None = None
    platforms: Texts | None = None
    privileged: Flag | None = None
    provenance: LooseText | None = None
    pull: Flag | None = None
    sbom: LooseText | None = None
    secrets: tuple[Granted, ...] | None = None
    shm_size: Size | None = None
    ssh: TextMap | None = None
    tags: Texts | None = None
    target: Text | None = None
    ulimits: dict[str, UlimitPart] | None = None
