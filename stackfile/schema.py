"""The schema of a stack file in long form: one pydantic model for each mapping of it.

In: plain values of a merged document. Out: frozen models; `Parts` holds those of one file. Source: Compose Specification,
`schema/compose-spec.json`; what the engine does not carry out is refused by `support`, not here. `validate` turns errors
into diagnostics.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pystack.stackfile.types import (
    Count,
    Duration,
    Flag,
    LooseText,
    LooseTexts,
    Microseconds,
    Mode,
    Number,
    OptionMap,
    Size,
    SizeText,
    Text,
    TextMap,
    Texts,
    UniqueLoose,
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
        if not isinstance(value, dict) or not any(isinstance(k, str) and k.startswith("x-") for k in value):
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


class ServicePart(Part):
    """One service, in long form."""

    annotations: TextMap | None = None
    attach: Flag | None = None
    blkio_config: BlkioPart | None = None
    build: BuildPart | None = None
    cap_add: Texts | None = None
    cap_drop: Texts | None = None
    cgroup: Annotated[str, one_of("host", "private")] | None = None
    cgroup_parent: Text | None = None
    command: Texts | None = None
    configs: tuple[Granted, ...] | None = None
    container_name: Text | None = None
    cpu_count: Whole | None = None
    cpu_percent: Number | None = None
    cpu_period: Whole | None = None
    cpu_quota: Whole | None = None
    cpu_rt_period: Microseconds | None = None
    cpu_rt_runtime: Microseconds | None = None
    cpu_shares: Whole | None = None
    cpus: Number | None = None
    cpuset: Text | None = None
    credential_spec: CredentialSpec | None = None
    depends_on: dict[str, DependsOn | None] | None = None
    deploy: Deploy | None = None
    develop: Develop | None = None
    device_cgroup_rules: UniqueTexts | None = None
    devices: tuple[DevicePart, ...] | None = None
    dns: Texts | None = None
    dns_opt: Texts | None = None
    dns_search: Texts | None = None
    domainname: Text | None = None
    entrypoint: Texts | None = None
    env_file: tuple[EnvFile, ...] | None = None
    environment: TextMap | None = None
    expose: LooseTexts | None = None
    extends: ExtendsPart | None = None
    external_links: UniqueTexts | None = None
    extra_hosts: Texts | None = None
    gpus: tuple[GpuPart, ...] | None = None
    group_add: UniqueLoose | None = None
    healthcheck: HealthcheckPart | None = None
    hostname: Text | None = None
    image: Text | None = None
    init: Flag | None = None
    ipc: Text | None = None
    isolation: Text | None = None
    label_file: Texts | None = None
    labels: TextMap | None = None
    links: Texts | None = None
    logging: Logging | None = None
    mac_address: Text | None = None
    mem_limit: Size | None = None
    mem_reservation: Size | None = None
    mem_swappiness: Whole | None = None
    memswap_limit: Size | None = None
    models: dict[str, UsedModel | None] | None = None
    network_mode: Text | None = None
    networks: dict[str, JoinedNetwork | None] | None = None
    oom_kill_disable: Flag | None = None
    oom_score_adj: Whole | None = None
    pid: Text | None = None
    pids_limit: Whole | None = None
    platform: Text | None = None
    ports: tuple[Port, ...] | None = None
    post_start: tuple[HookPart, ...] | None = None
    pre_start: tuple[PreStartPart, ...] | None = None
    pre_stop: tuple[HookPart, ...] | None = None
    privileged: Flag | None = None
    profiles: Texts | None = None
    provider: ProviderPart | None = None
    pull_policy: Text | None = None
    pull_refresh_after: Text | None = None
    read_only: Flag | None = None
    restart: Text | None = None
    runtime: Text | None = None
    scale: Whole | None = None
    secrets: tuple[Granted, ...] | None = None
    security_opt: UniqueTexts | None = None
    shm_size: Size | None = None
    stdin_open: Flag | None = None
    stop_grace_period: Duration | None = None
    stop_signal: Text | None = None
    storage_opt: TextMap | None = None
    sysctls: TextMap | None = None
    tmpfs: Texts | None = None
    tty: Flag | None = None
    ulimits: dict[str, UlimitPart] | None = None
    use_api_socket: Flag | None = None
    user: LooseText | None = None
    userns_mode: Text | None = None
    uts: Text | None = None
    volumes: tuple[ServiceVolume, ...] | None = None
    volumes_from: UniqueTexts | None = None
    working_dir: Text | None = None


class IpamPoolPart(Part):
    aux_addresses: TextMap | None = None
    gateway: Text | None = None
    ip_range: Text | None = None
    subnet: Text | None = None


class Ipam(Part):
    config: tuple[IpamPoolPart, ...] | None = None
    driver: Text | None = None
    options: TextMap | None = None


class NetworkPart(Part):
    attachable: Flag | None = None
    driver: Text | None = None
    driver_opts: TextMap | None = None
    enable_ipv4: Flag | None = None
    enable_ipv6: Flag | None = None
    external: Flag | None = None
    internal: Flag | None = None
    ipam: Ipam | None = None
    labels: TextMap | None = None
    name: Text | None = None


class VolumePart(Part):
    driver: Text | None = None
    driver_opts: TextMap | None = None
    external: Flag | None = None
    labels: TextMap | None = None
    name: Text | None = None


class ContentPart(Part):
    """What a secret and a config have in common."""

    environment: Text | None = None
    external: Flag | None = None
    file: Text | None = None
    labels: TextMap | None = None
    name: Text | None = None
    template_driver: Text | None = None


class SecretPart(ContentPart):
    driver: Text | None = None
    driver_opts: TextMap | None = None


class ConfigPart(ContentPart):
    content: Text | None = None


class IncludePart(Part):
    """An entry of `include`; read before the parts are validated. For the JSON Schema."""

    env_file: Texts | None = None
    path: Texts
    project_directory: Text | None = None


class Parts:
    """The validated parts of a document, by key."""

    __slots__ = ("configs", "models", "networks", "secrets", "services", "volumes")

    def __init__(self) -> None:
        self.models: dict[str, ModelPart] = {}
        self.services: dict[str, ServicePart] = {}
        self.networks: dict[str, NetworkPart] = {}
        self.volumes: dict[str, VolumePart] = {}
        self.secrets: dict[str, SecretPart] = {}
        self.configs: dict[str, ConfigPart] = {}
