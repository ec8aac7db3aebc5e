"""A service as container, network and volume specs: what the engine is asked for.

In comes a service of a resolved stack, out goes the `ContainerSpec` of one of its containers. Namespace modes that
name a service become `container:<ref>`; the caller says which container that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pystack.model.container import (
    SECOND,
    ContainerSpec,
    EndpointSpec,
    FileContent,
    Mount,
    NetworkSpec,
    PortBinding,
    RestartPolicy,
    VolumeSpec,
)
from pystack.model.desired import Dependency, Service, ServiceNetwork, Stack, StackNetwork, StackVolume
from pystack.model.errors import InvalidInput
from pystack.model.names import ID
from pystack.model.observed import ContainerView
from pystack.planner import labels
from pystack.planner.hashing import digest, network_hash, service_document


def container_name(stack: Stack, service: Service, number: int) -> str:
    return service.container_name or f"{stack.name}-{service.name}-{number}"


def dependencies(service: Service) -> tuple[Dependency, ...]:
    """`depends_on` and what the namespace modes imply: started before, restarted with (compose-go `normalize.go`)."""
    known = {item.service for item in service.depends_on}
    implied = {
        mode.removeprefix("service:")
        for mode in (service.network_mode, service.ipc, service.pid)
        if mode.startswith("service:")
    }
    return service.depends_on + tuple(
        Dependency(service=name, restart=True) for name in sorted(implied - known)
    )


def namespace_parents(service: Service) -> tuple[str, ...]:
    """Services whose network, IPC or PID namespace the service shares."""
    modes = (service.network_mode, service.ipc, service.pid)
    return tuple(sorted({mode.removeprefix("service:") for mode in modes if mode.startswith("service:")}))


def joined_networks(service: Service) -> tuple[ServiceNetwork, ...]:
    """The networks of a service, the primary one first: by priority, then by key. The default one if it names none."""
    if service.network_mode:
        return ()
    joined = service.networks or (ServiceNetwork(network="default"),)
    return tuple(sorted(joined, key=lambda item: (-item.priority, item.network)))


def stack_network(stack: Stack, key: str) -> StackNetwork:
    """A network by its key; the default one exists unsaid."""
    if key in stack.networks:
        return stack.networks[key]
    if key == "default":
        return StackNetwork(key="default", name=f"{stack.name}_default")
    raise InvalidInput(f"cannot use network {key!r}: the stack does not define it")


def network_spec(stack: Stack, network: StackNetwork) -> NetworkSpec:
    spec = NetworkSpec(
        name=network.name,
        driver=network.driver,
        internal=network.internal,
        attachable=network.attachable,
        enable_ipv6=network.enable_ipv6,
        ipam_pools=network.ipam_pools,
        options=network.options,
    )
    return replace(
        spec,
        labels={
            **network.labels,
            **labels.of_project(stack),
            labels.NETWORK: network.key,
            labels.CONFIG_HASH: network_hash(spec),
        },
    )


def volume_spec(stack: Stack, volume: StackVolume) -> VolumeSpec:
    return VolumeSpec(
        name=volume.name,
        driver=volume.driver,
        driver_options=volume.driver_options,
        labels={**volume.labels, **labels.of_project(stack), labels.VOLUME: volume.key},
    )


def _mount(stack: Stack, mount: Mount) -> Mount:
    if mount.type != "volume" or not mount.source:
        return mount
    if mount.source not in stack.volumes:
        raise InvalidInput(f"cannot mount volume {mount.source!r}: the stack does not define it")
    return replace(mount, source=stack.volumes[mount.source].name)


def _files(stack: Stack, service: Service) -> tuple[FileContent, ...]:
    found = []
    for item in service.files:
        source = (stack.secrets if item.kind == "secret" else stack.configs).get(item.source)
        if source is None:
            raise InvalidInput(
                f"service {service.name!r} cannot use {item.kind} {item.source!r}: it is not defined"
            )
        found.append(
            FileContent(
                target=item.target, content=source.content, uid=item.uid, gid=item.gid, mode=item.mode
            )
        )
    return tuple(found)


def _exposed(service: Service) -> tuple[str, ...]:
    ports = [item if "/" in item else f"{item}/tcp" for item in service.expose]
    ports += [f"{port.container_port}/{port.protocol}" for port in service.ports]
    return tuple(dict.fromkeys(ports))


def _environment(values: Mapping[str, str | None]) -> tuple[str, ...]:
    return tuple(key if value is None else f"{key}={value}" for key, value in values.items())


def _endpoints(stack: Stack, service: Service, *, aliases: bool) -> tuple[EndpointSpec, ...]:
    return tuple(
        EndpointSpec(
            network=stack_network(stack, item.network).name,
            aliases=tuple(dict.fromkeys((service.name, *item.aliases))) if aliases else (),
            ipv4_address=item.ipv4_address if aliases else "",
            ipv6_address=item.ipv6_address if aliases else "",
            mac_address=item.mac_address if aliases else "",
            gateway_priority=item.gateway_priority,
        )
        for item in joined_networks(service)
    )


def _mode(text: str, parents: Mapping[str, str]) -> str:
    if text.startswith("service:"):
        return f"container:{parents[text.removeprefix('service:')]}"
    return text


def service_hash(stack: Stack, service: Service) -> str:
    return digest(service_document(stack, service))


def container_spec(
    stack: Stack,
    service: Service,
    number: int,
    *,
    config_hash: str,
    image_id: str,
    parents: Mapping[str, str],
) -> ContainerSpec:
    """The spec of one replica. `parents` maps a service whose namespace is shared to its container (id or name).

    `image_id` goes into a label; "" when the image is not here yet. Raises InvalidInput for what the stack lacks.
    """
    named = labels.of_container(
        stack, service, number, config_hash=config_hash, depends_on=dependencies(service)
    )
    if image_id:
        named[labels.IMAGE] = image_id
    endpoints = _endpoints(stack, service, aliases=True)
    grace = service.stop_grace_period
    return ContainerSpec(
        image=service.image,
        hostname=service.hostname,
        domainname=service.domainname,
        user=service.user,
        attach_stdout=True,
        attach_stderr=True,
        tty=service.tty,
        open_stdin=service.stdin_open,
        env=_environment(service.environment),
        command=service.command,
        entrypoint=service.entrypoint,
        healthcheck=service.healthcheck,
        working_dir=service.working_dir,
        labels=named,
        stop_signal=service.stop_signal,
        stop_timeout=None if grace is None else -(-grace // SECOND),
        exposed_ports=_exposed(service),
        mounts=tuple(_mount(stack, item) for item in service.mounts),
        files=_files(stack, service),
        ports=service.ports,
        restart=service.restart,
        network_mode=_mode(service.network_mode, parents) or endpoints[0].network,
        ipc_mode=_mode(service.ipc, parents) or "private",
        pid_mode=_mode(service.pid, parents),
        uts_mode=service.uts,
        cgroupns_mode=service.cgroup,
        cgroup_parent=service.cgroup_parent,
        userns_mode=service.userns_mode,
        oom_score_adj=service.oom_score_adj,
        annotations=service.annotations,
        privileged=service.privileged,
        cap_add=service.cap_add,
        cap_drop=service.cap_drop,
        group_add=service.group_add,
        security_opt=service.security_opt,
        read_only_rootfs=service.read_only,
        init=service.init,
        shm_size=service.shm_size,
        sysctls=service.sysctls,
        dns=service.dns,
        dns_search=service.dns_search,
        dns_options=service.dns_options,
        extra_hosts=service.extra_hosts,
        resources=service.resources,
        log=service.log,
        endpoints=endpoints,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOff:
    """What `run` changes of a service. None leaves the service's own value. `slug` makes the name unique: 12 hex digits."""

    slug: str
    name: str = ""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[str, ...] = ()  # "K=V"; "K" alone removes K
    user: str | None = None
    working_dir: str | None = None
    mounts: tuple[Mount, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    remove: bool = False
    tty: bool = False
    stdin: bool = False
    use_aliases: bool = False

    def container_name(self, stack: Stack, service: Service) -> str:
        return self.name or f"{stack.name}-{service.name}-run-{self.slug}"


def oneoff_spec(
    stack: Stack, service: Service, chosen: OneOff, *, image_id: str, parents: Mapping[str, str]
) -> ContainerSpec:
    """The spec of a one-off container: no published ports, aliases or restarts of the service's, but its networks."""
    taken = {mount.target for mount in chosen.mounts}
    bare = replace(
        service,
        restart=RestartPolicy(),
        ports=chosen.ports,
        mounts=tuple(mount for mount in service.mounts if mount.target not in taken),
        # an entrypoint of one's own drops the service's command, which was written for another program
        command=chosen.command if chosen.command or chosen.entrypoint is not None else service.command,
    )
    spec = container_spec(stack, bare, 1, config_hash="", image_id=image_id, parents=parents)
    own = {key: value for key, value in spec.labels.items() if key != labels.CONFIG_HASH}
    variables = dict(item.partition("=")[::2] if "=" in item else (item, None) for item in chosen.environment)
    return replace(
        spec,
        labels={**own, labels.ONEOFF: "True", labels.SLUG: chosen.slug},
        env=_environment({**service.environment, **variables}),
        entrypoint=chosen.entrypoint if chosen.entrypoint is not None else service.entrypoint,
        user=service.user if chosen.user is None else chosen.user,
        working_dir=service.working_dir if chosen.working_dir is None else chosen.working_dir,
        mounts=(*spec.mounts, *chosen.mounts),
        endpoints=spec.endpoints if chosen.use_aliases else _endpoints(stack, service, aliases=False),
        auto_remove=chosen.remove,
        tty=chosen.tty,
        attach_stdin=chosen.stdin,
        open_stdin=chosen.stdin,
        stdin_once=chosen.stdin,
    )


def inherit_volumes(spec: ContainerSpec, old: ContainerView) -> ContainerSpec:
    """The spec with the old container's anonymous volumes mounted where the new one would get fresh ones."""
    fixed = {mount.target for mount in spec.mounts if mount.type != "volume" or mount.source}
    anonymous = {mount.target for mount in spec.mounts if mount.type == "volume" and not mount.source}
    declared = anonymous | set(spec.volumes) | set(old.spec.volumes)
    kept = {
        mount.destination: mount.name
        for mount in old.mounts
        if mount.type == "volume" and ID.match(mount.name)
        if mount.destination in declared and mount.destination not in fixed
    }
    mounts = [
        replace(mount, source=kept[mount.target])
        if mount.target in anonymous and mount.target in kept
        else mount
        for mount in spec.mounts
    ]
    mounts += [
        Mount(type="volume", source=name, target=target)
        for target, name in sorted(kept.items())
        if target not in anonymous
    ]
    return replace(spec, mounts=tuple(mounts))
