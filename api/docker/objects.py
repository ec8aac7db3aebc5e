"""Images, networks, volumes and events as Docker shows them; and the specs of networks and volumes from its requests."""

from __future__ import annotations

from pystack.api.docker.clock import unix_seconds
from pystack.api.docker.container import health_json
from pystack.api.docker.wire import NetworkBody, VolumeBody
from pystack.model.container import IpamPool, NetworkSpec, VolumeSpec
from pystack.model.errors import InvalidInput, Unsupported
from pystack.model.observed import Event, ImageView, NetworkView, VolumeView


def image_summary(view: ImageView, containers: int = -1) -> dict[str, object]:
    """One entry of GET /images/json. `containers` -1 = not counted."""
    return {
        "Containers": containers,
        "Created": unix_seconds(view.created),
        "Id": view.id,
        "Labels": dict(view.config.labels) or None,
        "ParentId": view.parent,
        "RepoDigests": list(view.repo_digests),
        "RepoTags": list(view.repo_tags),
        "SharedSize": -1,
        "Size": view.size,
    }


def image_json(view: ImageView) -> dict[str, object]:
    """GET /images/{name}/json."""
    config = view.config
    body: dict[str, object] = {
        "Hostname": "",
        "Domainname": "",
        "User": config.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": list(config.env),
        "Cmd": None if config.command is None else list(config.command),
        "Image": "",
        "Volumes": {path: {} for path in config.volumes} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": None if config.entrypoint is None else list(config.entrypoint),
        "OnBuild": list(config.on_build) or None,
        "Labels": dict(config.labels) or None,
    }
    if config.exposed_ports:
        body["ExposedPorts"] = {port: {} for port in config.exposed_ports}
    if config.healthcheck is not None:
        body["Healthcheck"] = health_json(config.healthcheck)
    if config.stop_signal:
        body["StopSignal"] = config.stop_signal
    if config.shell:
        body["Shell"] = list(config.shell)
    result: dict[str, object] = {
        "Id": view.id,
        "RepoTags": list(view.repo_tags),
        "RepoDigests": list(view.repo_digests),
        "Parent": view.parent,
        "Comment": view.comment,
        "Created": view.created,
        "DockerVersion": "",
        "Author": view.author,
        "Config": body,
        "Architecture": view.architecture,
        "Os": view.os,
        "Size": view.size,
        "GraphDriver": {"Name": "overlay2", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(view.layers)},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }
    return result | ({"Variant": view.variant} if view.variant else {})


def _pool_json(pool: IpamPool) -> dict[str, object]:
    body: dict[str, object] = {"Subnet": pool.subnet}
    if pool.ip_range:
        body["IPRange"] = pool.ip_range
    if pool.gateway:
        body["Gateway"] = pool.gateway
    if pool.aux_addresses:
        body["AuxiliaryAddresses"] = dict(pool.aux_addresses)
    return body


def network_json(view: NetworkView, *, containers: bool = True) -> dict[str, object]:
    """GET /networks/{id}; in lists Docker leaves `Containers` empty."""
    return {
        "Name": view.name,
        "Id": view.id,
        "Created": view.created,
        "Scope": "local",
        "Driver": view.driver,
        "EnableIPv4": view.enable_ipv4,
        "EnableIPv6": view.enable_ipv6,
        "IPAM": {
            "Driver": view.ipam_driver,
            "Options": dict(view.ipam_options) or None,
            "Config": [_pool_json(pool) for pool in view.ipam_pools],
        },
        "Internal": view.internal,
        "Attachable": view.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            identifier: {
                "Name": view.container_names.get(identifier, ""),
                "EndpointID": endpoint.endpoint_id,
                "MacAddress": endpoint.mac_address,
                "IPv4Address": f"{endpoint.ipv4_address}/{endpoint.ipv4_prefix}"
                if endpoint.ipv4_address
                else "",
                "IPv6Address": f"{endpoint.ipv6_address}/{endpoint.ipv6_prefix}"
                if endpoint.ipv6_address
                else "",
            }
            for identifier, endpoint in view.containers.items()
        }
        if containers
        else {},
        "Options": dict(view.options),
        "Labels": dict(view.labels),
    }


def network_spec(body: NetworkBody) -> NetworkSpec:
    if not body.Name:
        raise InvalidInput("cannot create the network: it has no name")
    if body.ConfigOnly or body.Ingress or body.Scope not in {None, "", "local"}:
        raise Unsupported(
            f"cannot create network {body.Name}: config-only, ingress and swarm networks need a swarm"
        )
    ipam = body.IPAM
    return NetworkSpec(
        name=body.Name,
        driver=body.Driver or "bridge",
        internal=bool(body.Internal),
        attachable=bool(body.Attachable),
        enable_ipv4=body.EnableIPv4 is not False,
        enable_ipv6=bool(body.EnableIPv6),
        ipam_driver=(ipam.Driver or "default") if ipam else "default",
        ipam_pools=tuple(
            IpamPool(
                subnet=pool.Subnet or "",
                ip_range=pool.IPRange or "",
                gateway=pool.Gateway or "",
                aux_addresses=pool.AuxiliaryAddresses or {},
            )
            for pool in (ipam.Config or () if ipam else ())
        ),
        ipam_options=(ipam.Options or {}) if ipam else {},
        options=body.Options or {},
        labels=body.Labels or {},
    )


def volume_json(view: VolumeView) -> dict[str, object]:
    return {
        "CreatedAt": view.created,
        "Driver": view.driver,
        "Labels": dict(view.labels) or None,
        "Mountpoint": view.mountpoint,
        "Name": view.name,
        "Options": dict(view.options) or None,
        "Scope": "local",
    }


def volume_spec(body: VolumeBody) -> VolumeSpec:
    if body.ClusterVolumeSpec:
        raise Unsupported("cannot create a cluster volume: this node is not a swarm manager")
    return VolumeSpec(
        name=body.Name or "",
        driver=body.Driver or "local",
        driver_options=body.DriverOpts or {},
        labels=body.Labels or {},
    )


def event_json(event: Event) -> dict[str, object]:
    """One document of GET /events, with the fields of before 1.22 for containers and images, as Docker sends them."""
    body: dict[str, object] = {}
    if event.type == "container":
        body = {"status": event.action, "id": event.actor_id, "from": event.attributes.get("image", "")}
    elif event.type == "image":
        body = {"status": event.action, "id": event.actor_id}
    return body | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_ns // 10**9,
        "timeNano": event.time_ns,
    }
