"""The schema of a stack file in long form: one pydantic model for each mapping of it.

In: plain values of a merged document. Out: frozen models; `Parts` holds those of one file. Source: Compose Specification,
`schema/compose-spec.json`; what the engine does not carry out is refused by `support`, not here. `validate` turns errors
into diagnostics.
"""

from __future__ import annotations

from typing import (
    Annotated,
)

from pystack.stackfile.parts import (
    BlkioPart,
    BuildPart,
    CredentialSpec,
    DependsOn,
    Deploy,
    Develop,
    DevicePart,
    EnvFile,
    ExtendsPart,
    GpuPart,
    Granted,
    HealthcheckPart,
    HookPart,
    JoinedNetwork,
    Logging,
    ModelPart,
    Part,
    Port,
    PreStartPart,
    ProviderPart,
    RolloutPart,
    ServiceVolume,
    UlimitPart,
    UsedModel,
    WatchPart,
)
from pystack.stackfile.types import (
    Duration,
    Flag,
    LooseText,
    LooseTexts,
    Microseconds,
    Number,
    Size,
    Text,
    TextMap,
    Texts,
    UniqueLoose,
    UniqueTexts,
    Whole,
    one_of,
)

#: What other modules use; the smaller models live in `parts`.
__all__ = [
    "BuildPart",
    "ConfigPart",
    "ContentPart",
    "DependsOn",
    "EnvFile",
    "GpuPart",
    "Granted",
    "HookPart",
    "IncludePart",
    "ModelPart",
    "NetworkPart",
    "Part",
    "Parts",
    "RolloutPart",
    "SecretPart",
    "ServicePart",
    "ServiceVolume",
    "UlimitPart",
    "VolumePart",
    "WatchPart",
]


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
