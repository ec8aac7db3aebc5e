"""The network service: networks, and the network life of each container from `prepare` to `release`.

NetworkSpecs and SandboxRequests in; kernel objects, NetworkViews and Sandboxes out. Every step is short and is not
interrupted by the event loop, so nothing here needs a lock but creation and removal, which wait for the disk.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from pystack.kernel import netns
from pystack.kernel.failpoints import failpoint
from pystack.kernel.nftables import Nft
from pystack.model.container import EndpointSpec, NetworkSpec
from pystack.model.documents import Documents
from pystack.model.errors import Conflict, EngineError, Forbidden, NotFound, PystackError
from pystack.model.names import Instance
from pystack.model.observed import NetworkView
from pystack.model.settings import AddressPool
from pystack.network import bridge, endpoints, forwarding, publishing
from pystack.network.bridge import Bridges
from pystack.network.dns import DnsServer, open_sockets
from pystack.network.firewall import Firewall
from pystack.network.forwarding import Forwarder
from pystack.network.hosts import HostResolver
from pystack.network.ipam import DEFAULT_POOLS, Network, subnetted
from pystack.network.mending import Mender
from pystack.network.ports import HostPorts
from pystack.network.records import Attachment, Sandbox, SandboxRequest
from pystack.network.registry import NetworkRegistry, NetworkState, check_removable, matches
from pystack.network.retirement import Retirement
from pystack.network.sandboxes import Builder
from pystack.network.watch import Watch
from pystack.network.zones import Zones

__all__ = ["CreatedNetwork", "NetworkService", "Sandbox", "SandboxRequest"]

log = logging.getLogger(__name__)

Publish = Callable[[str, str, str, Mapping[str, str]], object]


def _nothing() -> None:
    """What is opened in the namespace of a container without embedded DNS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedNetwork:
    id: str
    warnings: tuple[str, ...] = ()


class NetworkService:
    """All networking of one engine. `publish(type, action, id, attributes)` takes its events."""

    def __init__(self, instance: Instance, documents: Documents, publish: Publish) -> None:
        self._instance, self._documents, self._publish_event = instance, documents, publish
        self._nft = Nft()
        self._bridges = Bridges()
        self._resolver = HostResolver()
        self._registry = NetworkRegistry(instance, documents, self._taken)
        self._firewall = Firewall(instance.nft_table, self._nft)
        self._zones = Zones()
        self._dns = DnsServer(self._zones, lambda: self._resolver.conf.servers)
        self._ports = HostPorts(self._name_of)
        self._forwarder = Forwarder(documents)
        self._sandboxes: dict[str, Sandbox] = {}
        self._builder = Builder(instance, self._registry, self._resolver, self._sandboxes, self.ensure_bridge)
        self._mender = Mender(self._registry, self._bridges, self._firewall, self._forwarder, self._sandboxes)
        self._watch = Watch(self._mender, self._firewall, self._repaired, self._tidy)
        self._retirement = Retirement(self._registry, self._bridges, self._firewall, self._sandboxes)
        self._changing = asyncio.Lock()
        self._unsaved: set[str] = set()  # predefined networks whose subnet was chosen but is not durable yet

    # -- life of the service ---------------------------------------------------------------------------------------

    def set_default_pools(self, pools: Sequence[AddressPool]) -> None:
        """Where networks without a subnet of their own get one from; without any, Docker's pools."""
        self._registry.default_pools = subnetted(pools) or DEFAULT_POOLS

    async def open(self) -> None:
        """Load the records. The kernel is left as it is until `recover`, or the first network."""
        self._registry.load()
        self._forwarder.load()
        self._firewall.set_uplinks(self._forwarder.uplinks)
        for state in self._registry:
            self._enter_zone(state)

    async def recover(self, live: Sequence[tuple[Sandbox, int]]) -> None:
        """After a start of the daemon: take over running containers, remove what no record owns, mend the rest.

        `live` pairs each running container's sandbox with an fd of its network namespace (borrowed; -1 with the host's
        network). A fault with one container is logged and does not stop the others.
        """
        known = self._bridges.links()
        owned = {state.record.bridge for state in self._registry if state.pools}
        owned |= {a.link for sandbox, _ in live for a in sandbox.attachments}
        stray = re.compile(re.escape(self._instance.link_prefix) + "[bv][0-9a-f]{7}$")
        self._bridges.remove(
            [link.name for link in known if stray.match(link.name) and link.name not in owned]
        )
        for sandbox, _ in live:
            self._adopt(sandbox)
        rules = [state.rules() for state in self._registry if state.pools]
        forwards = {sandbox.container_id: publishing.forwards(sandbox) for sandbox, _ in live}
        self._firewall.restore(rules, forwards)
        if rules or self._has_table():
            self._firewall.assert_all()
        for state in self._registry:
            if state.pools:
                self._mender.mend(state)
        for sandbox, netns_fd in live:
            self._ports.reclaim(sandbox.container_id, sandbox.ports)
            try:
                self._bind_dns(sandbox, netns_fd)
            except EngineError as error:
                log.warning("container %s has no name resolution: %s", sandbox.name, error)
        await self._wind_down()
        failpoint("network.recovered")

    def watch(self) -> None:
        """From now on mend what something else takes away. After `recover`; `close` ends it."""
        self._watch.start()

    async def close(self) -> None:
        """Let go of sockets; containers keep their network."""
        await self._watch.stop()
        await self._retirement.finished()
        self._dns.close()
        self._ports.close()
        self._bridges.close()
        self._nft.close()

    async def destroy(self) -> None:
        """Remove everything of this engine from the kernel: bridges, table, and forwarding if it was turned on here."""
        await self._watch.stop()
        await self._retirement.finished()
        for container_id in tuple(self._sandboxes):
            await self.release(container_id)
        prefix = self._instance.link_prefix
        links = self._bridges.links()
        named = {state.record.bridge for state in self._registry if state.record.bridge}
        mine = [link.name for link in links if link.name.startswith(prefix) or link.name in named]
        self._bridges.remove(mine)
        self._firewall.restore([], {})
        self._firewall.destroy()
        # Any other bridge may belong to an engine that found forwarding on and relies on it.
        if not any(link.kind == "bridge" and link.name not in mine for link in links):
            await self._forwarder.restore()

    # -- networks --------------------------------------------------------------------------------------------------

    async def create(self, spec: NetworkSpec) -> CreatedNetwork:
        """A bridge network, ready for use when this returns. InvalidInput, Conflict, Forbidden as Docker."""
        async with self._changing:
            state: NetworkState | None = None
            try:
                with bridge.choosing_subnets():
                    state, warnings = self._registry.draft(spec)
                    self._registry.add(state)
                    self._mender.ensure(state)
                await self._forwarder.keep()
                await self._registry.keep(state)
            except BaseException:
                if state is not None:
                    await self._undo(state)
                raise
            failpoint("network.created")
        self._enter_zone(state)
        self._event("create", state)
        return CreatedNetwork(id=state.id, warnings=warnings)

    async def remove(self, ref: str) -> None:
        """NotFound, or Forbidden when predefined or in use."""
        async with self._changing:
            state = self._registry.get(ref)
            check_removable(state)
            self._registry.discard(state)
            try:
                await self._registry.forget(state)
            except BaseException:
                self._registry.add(state)
                raise
            failpoint("network.forgotten")
            self._bridges.forget(state.record.bridge)
            await asyncio.to_thread(bridge.delete_bridge, state.record.bridge)
            self._firewall.remove_bridge(state.record.bridge)
            await self._wind_down()
        self._zones.remove_network(state.id)
        self._event("destroy", state)

    async def inspect(self, ref: str) -> NetworkView:
        await self._retirement.finished()
        state = self._registry.get(ref)
        if state.record.bridge and not state.pools:
            self.ensure_bridge(state)
            await self._keep_bridge(state)
        return state.view(self._names())

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[NetworkView]:
        names = self._names()
        return [state.view(names) for state in self._registry if matches(state, filters or {})]

    async def prune(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, in_use: frozenset[str] = frozenset()
    ) -> builtins.list[str]:
        """Remove unused networks; their names. `in_use`: names or ids that stopped containers still want."""
        removed = []
        for state in self._registry:
            wanted = state.endpoints or state.record.predefined or {state.id, state.name} & in_use
            if not wanted and matches(state, filters or {}):
                await self.remove(state.id)
                removed.append(state.name)
        return removed

    # -- containers ------------------------------------------------------------------------------------------------

    async def prepare(self, request: SandboxRequest) -> Sandbox:
        """Validate, allocate addresses, reserve host ports, and write the three files' texts. All or nothing.

        NotFound for a network, Forbidden or Conflict for an address, EngineError for a taken port.
        """
        self._watch.started_a_container()
        await self.release(request.container_id)
        await self._retirement.finished()
        sandbox = self._builder.build(request)
        self._remember(sandbox)
        try:
            if sandbox.bindings:
                sandbox = publishing.reserve(self._ports, sandbox)
                self._remember(sandbox)
            for attachment in sandbox.attachments:
                await self._keep_bridge(self._registry.get(attachment.view.network_id))
        except BaseException:
            await self.release(request.container_id)
            raise
        failpoint("network.sandbox.prepared")
        return sandbox

    async def wire(self, sandbox: Sandbox, netns_fd: int) -> None:
        """Make the prepared network real in the container's fresh namespace (borrowed fd). Nothing for mode host."""
        if sandbox.mode == "host":
            return
        sockets = endpoints.wire(
            self._bridges,
            sandbox.attachments,
            netns_fd,
            hairpin=forwarding.frames_are_filtered(),
            then=open_sockets if sandbox.embedded_dns else _nothing,
        )
        if sockets is not None:
            self._dns.serve(sandbox.container_id, sockets, netns_fd, sandbox.dns)
        self._zones.add(sandbox)
        await self._firewall.publish(sandbox.container_id, publishing.forwards(sandbox))
        for attachment in sandbox.attachments:
            self._endpoint_event("connect", attachment, sandbox.container_id)
        failpoint("network.sandbox.wired")

    async def release(self, container_id: str) -> None:
        """Give back ports, names and addresses (idempotent). Links end with the namespace, which this lets go of."""
        await self._firewall.unpublish(container_id)
        self._dns.unbind(container_id)
        self._zones.remove(container_id)
        self._ports.release(container_id)
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is None:
            return
        for view in sandbox.endpoints:
            self._leave(container_id, view.network_id)
        for attachment in sandbox.attachments:
            self._release_attachment(attachment, container_id)
            self._endpoint_event("disconnect", attachment, container_id)
        failpoint("network.sandbox.released")

    async def connect(
        self, container_id: str, endpoint: EndpointSpec, netns_fd: int | None
    ) -> Sandbox | None:
        """Join a network: a running container (its namespace's fd) at once, and its new sandbox is returned.

        For one that does not run (None) the endpoint is only checked. The caller writes the sandbox's texts.
        """
        await self._retirement.finished()
        state = self._registry.get(endpoint.network)
        self._builder.check(state, endpoint)
        if netns_fd is None:
            return None
        sandbox = self._sandbox(container_id)
        if container_id in state.endpoints:
            raise Forbidden(f"endpoint with name {sandbox.name} already exists in network {state.name}")
        if sandbox.mode == "host":
            raise Forbidden(
                "cannot connect container to host network - container must be created in host network mode"
            )
        attachment = self._builder.attach(sandbox, state, endpoint)
        wider = self._builder.with_attachments(sandbox, (*sandbox.attachments, attachment))
        self._remember(wider)
        try:
            self._plug(sandbox, wider, attachment, netns_fd)
            await self._keep_bridge(state)
        except (OSError, PystackError) as error:
            self._remember(sandbox)
            self._release_attachment(attachment, container_id)
            await asyncio.to_thread(endpoints.remove_link, attachment)
            if isinstance(error, PystackError):
                raise
            raise EngineError(f"cannot connect {sandbox.name} to network {state.name}: {error}") from error
        return await self._republish(sandbox, wider, attachment, "connect")

    async def disconnect(self, container_id: str, ref: str, netns_fd: int | None) -> Sandbox | None:
        """Leave a network; the new sandbox of a running container. NotFound when it is not on it."""
        state = self._registry.get(ref)
        if netns_fd is None:
            return None
        sandbox = self._sandbox(container_id)
        attachment = next((a for a in sandbox.attachments if a.view.network_id == state.id), None)
        if attachment is None:
            raise NotFound(f"container {container_id} is not connected to network {state.name}")
        rest = tuple(a for a in sandbox.attachments if a is not attachment)
        narrower = self._builder.with_attachments(sandbox, rest)
        self._remember(narrower)
        self._release_attachment(attachment, container_id)
        before, after = endpoints.gateway_of(sandbox.attachments), endpoints.gateway_of(rest)
        await asyncio.to_thread(endpoints.remove_link, attachment)
        if before is not after and after is not None:
            netns.run_in(netns_fd, lambda: endpoints.move_default_route(None, after))
        self._bind_dns(narrower, netns_fd)
        return await self._republish(sandbox, narrower, attachment, "disconnect")

    def rename(self, container_id: str, name: str) -> Sandbox | None:
        """A container got another name; its new sandbox when it runs."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            return None
        renamed = self._builder.renamed(sandbox, name)
        self._remember(renamed)
        self._zones.add(renamed)
        return renamed

    # -- parts -----------------------------------------------------------------------------------------------------

    def ensure_bridge(self, state: NetworkState) -> None:
        """The network's bridge and rules are in the kernel; a predefined one gets its subnet now."""
        if self._bridges.is_up(state.record.bridge):
            return
        with bridge.choosing_subnets():
            if not state.pools:
                self._registry.choose_subnet(state)
                self._unsaved.add(state.id)
            self._mender.ensure(state)

    async def _undo(self, state: NetworkState) -> None:
        """Take a network that could not be created out of memory and kernel (idempotent)."""
        self._registry.discard(state)
        self._bridges.remove([state.record.bridge])
        self._firewall.remove_bridge(state.record.bridge)
        await self._wind_down()

    async def _wind_down(self) -> None:
        """With the last bridge go the table and the forwarding that was turned on for it; they come with the next one.

        Forwarding stays while any other bridge may rely on it, and the table with it: it keeps the host from forwarding
        what it did not forward before.
        """
        await self._forwarder.keep()
        if self._firewall.has_bridges:
            return
        if self._forwarder.turned_on:
            if any(link.kind == "bridge" for link in self._bridges.links()):
                return
            await self._forwarder.restore()
        # Somebody may have made a bridge meanwhile, and turned forwarding on again.
        if not self._firewall.has_bridges and self._firewall.made:
            self._firewall.destroy()
            self._firewall.set_uplinks(())
            failpoint("network.table.removed")

    async def _tidy(self) -> None:
        """At each look of the watch: what nobody uses any more goes."""
        await self._retirement.look()
        await self._wind_down()

    async def _keep_bridge(self, state: NetworkState) -> None:
        """Make a predefined bridge's subnet durable before anybody is told of it."""
        if state.id in self._unsaved:
            self._unsaved.discard(state.id)
            await self._forwarder.keep()
            await self._registry.keep(state)

    def _taken(self) -> builtins.list[Network]:
        return [*self._bridges.host_networks(), *bridge.nameserver_networks(self._resolver.conf.servers)]

    def _enter_zone(self, state: NetworkState) -> None:
        if state.record.embedded_dns:
            self._zones.add_network(state.id, state.name, state.subnets)

    def _has_table(self) -> bool:
        return f"table inet {self._instance.nft_table}\n" in self._nft.run("list tables inet")

    def _name_of(self, container_id: str) -> str:
        sandbox = self._sandboxes.get(container_id)
        return sandbox.name if sandbox else container_id[:12]

    def _names(self) -> dict[str, str]:
        return {key: sandbox.name for key, sandbox in self._sandboxes.items()}

    def _sandbox(self, container_id: str) -> Sandbox:
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            raise Conflict(f"container {container_id} is not running")
        return sandbox

    def _remember(self, sandbox: Sandbox) -> None:
        """Make it the container's sandbox; its networks list it."""
        self._sandboxes[sandbox.container_id] = sandbox
        for view in sandbox.endpoints:
            state = self._registry.find(view.network_id)
            if state is not None:
                state.endpoints[sandbox.container_id] = view

    def _adopt(self, sandbox: Sandbox) -> None:
        """A running container of before: its addresses are taken, its names resolve."""
        self._remember(sandbox)
        for view in sandbox.endpoints:
            state = self._registry.find(view.network_id)
            for text in filter(None, (view.ipv4_address, view.ipv6_address)):
                address = ip_address(text)
                pool = state.pool(address.version) if state else None
                if pool is None or not pool.seed(address):
                    log.error(
                        "address %s of container %s is not free on network %s",
                        text,
                        sandbox.name,
                        view.network,
                    )
        self._zones.add(sandbox)

    def _leave(self, container_id: str, network_id: str) -> None:
        state = self._registry.find(network_id)
        if state is not None:
            state.endpoints.pop(container_id, None)

    def _release_attachment(self, attachment: Attachment, container_id: str) -> None:
        self._builder.give_back(attachment)
        self._leave(container_id, attachment.view.network_id)

    def _bind_dns(self, sandbox: Sandbox, netns_fd: int) -> None:
        """Serve names to a container of which any network has them; a fault is the container's own, and raised."""
        if sandbox.embedded_dns and not self._dns.is_bound(sandbox.container_id):
            self._dns.bind(sandbox.container_id, netns_fd, sandbox.dns)
        elif not sandbox.embedded_dns:
            self._dns.unbind(sandbox.container_id)

    def _plug(self, before: Sandbox, after: Sandbox, attachment: Attachment, netns_fd: int) -> None:
        """Wire one more endpoint of a running container, and lead its default route where it belongs now."""
        old, new = endpoints.gateway_of(before.attachments), endpoints.gateway_of(after.attachments)
        endpoints.add_links(self._bridges, [attachment], netns_fd, hairpin=forwarding.frames_are_filtered())

        def inside() -> None:
            endpoints.configure([attachment], gateway=None, first=False)
            if new is not old:
                endpoints.move_default_route(old, new)

        netns.run_in(netns_fd, inside)
        self._bind_dns(after, netns_fd)

    async def _republish(
        self, before: Sandbox, after: Sandbox, attachment: Attachment, action: str
    ) -> Sandbox:
        """Names and published ports as they follow from the new endpoints."""
        had, has = (endpoints.gateway_of(sandbox.attachments) for sandbox in (before, after))
        if has is None:
            self._ports.release(after.container_id)
            after = replace(after, ports=())
        elif had is None:
            after = publishing.reserve(self._ports, after)
        self._remember(after)
        self._zones.add(after)
        await self._firewall.publish(after.container_id, publishing.forwards(after))
        self._endpoint_event(action, attachment, after.container_id)
        return after

    def _event(self, action: str, state: NetworkState) -> None:
        attributes = {"name": state.name, "type": state.record.spec.driver}
        self._publish_event("network", action, state.id, attributes)

    def _repaired(self, actor: str, name: str, what: str) -> None:
        self._publish_event("network", "repair", actor, {"name": name, "what": what})

    def _endpoint_event(self, action: str, attachment: Attachment, container_id: str) -> None:
        view = attachment.view
        attributes = {"container": container_id, "name": view.network, "type": "bridge"}
        self._publish_event("network", action, view.network_id, attributes)
