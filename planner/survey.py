"""The observed state of a stack, indexed the way the planner asks for it. Nothing that is not the stack's own is in it."""

from __future__ import annotations

from collections import defaultdict

from pystack.model.observed import ContainerView, NetworkView, ObservedStack, VolumeView
from pystack.planner import labels


class Survey:
    """Containers by service, networks and volumes by name; `owned_*` are those that bear the stack's label."""

    def __init__(self, observed: ObservedStack) -> None:
        self.name = observed.name
        self.images = observed.images
        self.recorded = observed.recorded
        own = [item for item in observed.containers if item.spec.labels.get(labels.PROJECT) == observed.name]
        self.containers: tuple[ContainerView, ...] = tuple(sorted(own, key=lambda item: item.name))
        self.by_service: dict[str, list[ContainerView]] = defaultdict(list)
        for item in self.containers:
            if not labels.is_oneoff(item) and labels.service_of(item):
                self.by_service[labels.service_of(item)].append(item)
        self.networks: dict[str, NetworkView] = {item.name: item for item in observed.networks}
        self.volumes: dict[str, VolumeView] = {item.name: item for item in observed.volumes}

    def owns(self, item: NetworkView | VolumeView) -> bool:
        return item.labels.get(labels.PROJECT) == self.name

    def owned_networks(self) -> list[NetworkView]:
        return sorted(filter(self.owns, self.networks.values()), key=lambda item: item.name)

    def owned_volumes(self) -> list[VolumeView]:
        return sorted(filter(self.owns, self.volumes.values()), key=lambda item: item.name)

    def attached(self, network: str) -> list[ContainerView]:
        """The stack's containers on a network, running or not."""
        return [item for item in self.containers if any(e.network == network for e in item.endpoints)]
