"""Networks and volumes as the engine's callers see them: the services below, plus what needs to know of containers."""

from __future__ import annotations

import builtins
from dataclasses import replace

from pystack.engine.container import Container, networks_of
from pystack.engine.filters import one_until
from pystack.engine.interface import Created, Filters
from pystack.engine.services import Services
from pystack.engine.starting import write_network_files
from pystack.model.container import EndpointSpec, NetworkSpec
from pystack.model.errors import Conflict, NotFound
from pystack.model.observed import NetworkView
from pystack.model.states import ContainerState
from pystack.model.turns import OneAtATime
from pystack.network.service import Sandbox


class Networks:
    """`interface.Networks`: connect and disconnect change the container's record, live or for its next start."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._networks = services.networks
        self._pruning = OneAtATime()

    async def create(self, spec: NetworkSpec) -> Created:
        made = await self._networks.create(spec)
        return Created(id=made.id, warnings=made.warnings)

    async def remove(self, ref: str) -> None:
        await self._networks.remove(ref)

    async def inspect(self, ref: str) -> NetworkView:
        return await self._networks.inspect(ref)

    async def list(self, filters: Filters | None = None) -> builtins.list[NetworkView]:
        return await self._networks.list(filters)

    async def prune(self, filters: Filters | None = None) -> builtins.list[str]:
        one_until(filters or {})
        wanted = frozenset(name for c in self._services.registry for name in networks_of(c.config))
        with self._pruning:
            removed = await self._networks.prune(filters, in_use=wanted)
            self._services.events.publish("network", "prune", "", {"reclaimed": "0"})
            return removed

    async def connect(self, ref: str, container: str, endpoint: EndpointSpec) -> None:
        found = self._services.registry.get(container)
        network = await self._networks.inspect(ref)
        async with found.lock:
            if found.record.removing or found.record.state is ContainerState.DEAD:
                raise Conflict(
                    f"Container {found.id} is marked for removal and cannot be connected to networks"
                )
            if found.config.network_mode == "host" or found.config.network_mode.startswith("container:"):
                raise Conflict(
                    "container sharing network namespace with another container or host cannot be connected to any other network"
                )
            if any(e.network in {network.id, network.name} for e in found.config.endpoints):
                raise Conflict(f"endpoint with name {found.name} already exists in network {network.name}")
            spec = replace(endpoint, network=network.name)
            self._take(found, await self._networks.connect(found.id, spec, _netns(found)))
            await self._change(found, (*found.config.endpoints, spec))

    async def disconnect(self, ref: str, container: str, *, force: bool = False) -> None:
        found = self._services.registry.get(container)
        network = await self._networks.inspect(ref)
        async with found.lock:
            names = {network.id, network.name}
            rest = tuple(e for e in found.config.endpoints if e.network not in names)
            joined = len(rest) != len(found.config.endpoints) or found.config.network_mode in names
            if not joined and not force:
                raise Conflict(f"container {found.id} is not connected to network {network.name}")
            try:
                self._take(found, await self._networks.disconnect(found.id, network.id, _netns(found)))
            except NotFound:
                if not force:
                    raise
            mode = found.config.network_mode
            if mode in names:
                mode = rest[0].network if rest else "none"
            await self._change(found, rest, mode)

    def _take(self, container: Container, sandbox: Sandbox | None) -> None:
        """The new network of a running container: what inspect shows, and the files that it has mounted."""
        if sandbox is not None:
            container.endpoints, container.published = sandbox.endpoints, sandbox.ports
            container.record = replace(container.record, sandbox=sandbox.to_json())
            write_network_files(container, sandbox)

    async def _change(
        self, container: Container, endpoints: tuple[EndpointSpec, ...], mode: str | None = None
    ) -> None:
        record = container.record
        config = replace(record.config, endpoints=endpoints, network_mode=mode or record.config.network_mode)
        await self._services.registry.save(container, replace(record, config=config))


def _netns(container: Container) -> int | None:
    """The network namespace of a running container, None for one that does not run."""
    return container.shim.netns_fd if container.running and container.shim is not None else None
