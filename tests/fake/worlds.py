"""Observed worlds for the planner's tests: a stack's networks, volumes and containers as they are after `up`, and `SHOP`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fake.stacks import after, service, stack

from pystack.model.container import Mount
from pystack.model.desired import Service, Stack
from pystack.model.observed import ContainerView, EndpointView, NetworkView, ObservedStack, VolumeView
from pystack.model.plan import Plan, PlanOptions
from pystack.model.states import ContainerState
from pystack.planner.hashing import digest, service_document
from pystack.planner.plan import plan
from pystack.planner.specs import (
    container_spec,
    dependencies,
    network_spec,
    stack_network,
    volume_spec,
)

IMAGE = "sha256:" + "1" * 64


def network(wanted: Stack, key: str = "default", **changes: Any) -> NetworkView:
    spec = network_spec(wanted, stack_network(wanted, key))
    values = {
        "id": f"id-{spec.name}",
        "name": spec.name,
        "created": "",
        "driver": spec.driver,
        "internal": spec.internal,
        "attachable": spec.attachable,
        "enable_ipv4": True,
        "enable_ipv6": spec.enable_ipv6,
        "ipam_driver": "default",
        "ipam_pools": (),
        "ipam_options": {},
        "options": spec.options,
        "labels": spec.labels,
    }
    return NetworkView(**{**values, **changes})


def volume(wanted: Stack, key: str, **changes: Any) -> VolumeView:
    spec = volume_spec(wanted, wanted.volumes[key])
    values = {"name": spec.name, "driver": "local", "mountpoint": "", "created": "", "options": {}}
    return VolumeView(**{**values, "labels": spec.labels, **changes})


def view(wanted: Stack, of: Service, number: int = 1, **changes: Any) -> ContainerView:
    """The container of a replica as it is after `up`, running."""
    config_hash = digest(service_document(wanted, of))
    parents = {item.service: f"{item.service}-id".ljust(64, "0") for item in dependencies(of)}
    spec = container_spec(wanted, of, number, config_hash=config_hash, image_id=IMAGE, parents=parents)
    name = of.container_name or f"{wanted.name}-{of.name}-{number}"
    values = {
        "id": name.encode().hex().ljust(64, "0")[:64],
        "name": name,
        "created": "",
        "spec": spec,
        "image": of.image,
        "image_id": IMAGE,
        "state": ContainerState.RUNNING,
        "endpoints": tuple(
            EndpointView(network=item.network, network_id=f"id-{item.network}") for item in spec.endpoints
        ),
    }
    return ContainerView(**{**values, **changes})


def observed(wanted: Stack, *views: ContainerView, **changes: Any) -> ObservedStack:
    """A world in which the networks and volumes are there, and the image."""
    keys = {joined.network for item in wanted.services.values() for joined in item.networks} or {"default"}
    parts = {
        "networks": tuple(network(wanted, key) for key in sorted(keys)),
        "volumes": tuple(volume(wanted, key) for key in wanted.volumes),
        "images": {"busybox": IMAGE},
        "recorded": {
            digest(service_document(wanted, item)): service_document(wanted, item)
            for item in wanted.services.values()
        },
    }
    return ObservedStack(name=wanted.name, containers=views, **{**parts, **changes})


def everything(wanted: Stack) -> ObservedStack:
    views = [view(wanted, item, n + 1) for item in wanted.services.values() for n in range(item.replicas)]
    return observed(wanted, *views)


def up(wanted: Stack, seen: ObservedStack, *targets: str, **options: Any) -> Plan:
    return plan(wanted, seen, PlanOptions(**options), targets=targets)


def changed(wanted: Stack, name: str, **changes: Any) -> Stack:
    return replace(wanted, services={**wanted.services, name: replace(wanted.services[name], **changes)})


SHOP = stack(
    service("db", mounts=(Mount(type="volume", source="data", target="/data"),)),
    service("migrate", depends_on=after("db:healthy")),
    service("web", replicas=2, depends_on=(*after("migrate:done"), *after("db"))),
)
