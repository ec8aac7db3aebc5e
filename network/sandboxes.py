"""Building sandboxes: a request in, allocated endpoints and the texts of the container's files out.

Allocates from the networks' pools; touches the kernel only through `ensure` (a predefined bridge's first use).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from pystack.kernel.rtnetlink import mac_bytes
from pystack.model.container import EndpointSpec
from pystack.model.errors import Conflict, Forbidden, InvalidInput
from pystack.model.names import Instance, short_id
from pystack.model.observed import EndpointView
from pystack.network import endpoints, hosts, ports
from pystack.network.hosts import HostResolver, ResolvConf
from pystack.network.ipam import Address, Pool, parse_address
from pystack.network.records import OPTION_HOST_IP, OPTION_ICC, Attachment, Sandbox, SandboxRequest
from pystack.network.registry import NetworkRegistry, NetworkState

_UNATTACHED = frozenset({"host", "none"})


class Builder:
    """`sandboxes` are the live ones, by container id (shared with the service)."""

    def __init__(
        self,
        instance: Instance,
        registry: NetworkRegistry,
        resolver: HostResolver,
        sandboxes: Mapping[str, Sandbox],
        ensure: Callable[[NetworkState], None],
    ) -> None:
        self._instance, self._registry, self._resolver = instance, registry, resolver
        self._sandboxes, self._ensure = sandboxes, ensure

    def build(self, request: SandboxRequest) -> Sandbox:
        """A sandbox with every address allocated; on an error nothing stays allocated."""
        for entry in request.extra_hosts:
            hosts.split_extra_host(entry)
        for server in request.dns:
            parse_address(server.partition("%")[0], "DNS server")
        wanted = self._wanted(request)
        for state, spec in wanted:
            self.check(state, spec)
        sandbox = Sandbox(
            container_id=request.container_id,
            name=request.name,
            mode=request.network_mode,
            hostname=request.hostname or short_id(request.container_id),
            domainname=request.domainname,
            bindings=ports.expand(request.ports, request.exposed if request.publish_all else ()),
            dns=request.dns,
            dns_search=request.dns_search,
            dns_options=request.dns_options,
            extra_hosts=request.extra_hosts,
        )
        if request.network_mode in _UNATTACHED:
            network = self._registry.get(request.network_mode)
            passive = EndpointView(
                network=network.name, network_id=network.id, endpoint_id=os.urandom(32).hex()
            )
            return self._with_texts(replace(sandbox, passive=(passive,)))
        made: list[Attachment] = []
        try:
            for state, spec in wanted:
                made.append(self.attach(replace(sandbox, attachments=tuple(made)), state, spec))
            return self.with_attachments(sandbox, tuple(made))
        except BaseException:
            for attachment in made:
                self.give_back(attachment)
            raise

    def _wanted(self, request: SandboxRequest) -> list[tuple[NetworkState, EndpointSpec]]:
        """The networks to join: that of the mode first, then the others as given; each once."""
        if request.network_mode in _UNATTACHED:
            return []
        mode = self._registry.default_bridge() if request.network_mode == "default" else None
        first = mode or self._registry.get(request.network_mode)
        specs: dict[str, tuple[NetworkState, EndpointSpec]] = {
            first.id: (first, EndpointSpec(network=first.name))
        }
        for spec in request.endpoints:
            state = first if mode and spec.network == "default" else self._registry.get(spec.network)
            specs[state.id] = state, spec
        return list(specs.values())

    def check(self, state: NetworkState, spec: EndpointSpec) -> None:
        """What can be refused before anything is allocated, with Docker's messages."""
        record = state.record
        if not record.bridge:
            raise Forbidden(
                f"container cannot be connected to network endpoints: {state.name}"
                if state.name == "none"
                else "cannot connect container to host network - container must be created in host network mode"
            )
        static = spec.ipv4_address or spec.ipv6_address
        if static and record.predefined:
            raise InvalidInput(
                "invalid config for network bridge: user specified IP address is supported on user defined networks only"
            )
        if static and not record.user_subnet:
            raise InvalidInput(
                f"invalid config for network {state.name}: user specified IP address is supported only when connecting to "
                "networks with user configured subnets"
            )
        if spec.aliases and record.predefined:
            raise InvalidInput(
                "network-scoped alias is supported only for containers in user defined networks"
            )
        if spec.mac_address:
            _check_mac(spec.mac_address)
        for text, version in ((spec.ipv4_address, 4), (spec.ipv6_address, 6)):
            if text and parse_address(text, f"IPv{version} address").version != version:
                raise InvalidInput(f"invalid IPv{version} address: {text}")
        for link in spec.links:
            if not link.partition(":")[0]:
                raise InvalidInput(f"invalid link: {link!r}")

    def attach(self, sandbox: Sandbox, state: NetworkState, spec: EndpointSpec) -> Attachment:
        """Allocate one endpoint. Gives back what it took when it fails."""
        self._ensure(state)
        taken: list[tuple[Pool, Address]] = []
        try:
            ipv4 = self._allocate(state, 4, spec.ipv4_address, taken)
            ipv6 = self._allocate(state, 6, spec.ipv6_address, taken)
        except BaseException:
            for pool, address in taken:
                pool.release(address)
            raise
        endpoint_id = self._new_endpoint_id()
        record = state.record
        gateways = {
            pool.subnet.version: str(pool.gateway) for pool in state.pools if not record.spec.internal
        }
        prefixes = {pool.subnet.version: pool.subnet.prefixlen for pool in state.pools}
        names = (sandbox.name, *spec.aliases, short_id(sandbox.container_id), sandbox.hostname)
        view = EndpointView(
            network=state.name,
            network_id=state.id,
            endpoint_id=endpoint_id,
            gateway=gateways.get(4, ""),
            ipv4_address=str(ipv4 or ""),
            ipv4_prefix=prefixes.get(4, 0) if ipv4 else 0,
            ipv6_gateway=gateways.get(6, ""),
            ipv6_address=str(ipv6 or ""),
            ipv6_prefix=prefixes.get(6, 0) if ipv6 else 0,
            mac_address=spec.mac_address or _mac_of(ipv4, endpoint_id),
            aliases=spec.aliases,
            dns_names=() if record.predefined else tuple(dict.fromkeys(names)),
            ipam_ipv4=spec.ipv4_address,
            ipam_ipv6=spec.ipv6_address,
            gateway_priority=spec.gateway_priority,
        )
        return Attachment(
            view=view,
            interface=endpoints.free_interface(sandbox.attachments),
            link=self._instance.veth(endpoint_id),
            bridge=record.bridge,
            internal=record.spec.internal,
            embedded_dns=record.embedded_dns,
            gateway_priority=spec.gateway_priority,
            mtu=record.mtu,
            isolated=not record.flag(OPTION_ICC),
            host_ip=record.option(OPTION_HOST_IP),
            links=tuple(
                (target, alias or target) for target, _, alias in (link.partition(":") for link in spec.links)
            ),
        )

    def give_back(self, attachment: Attachment) -> None:
        """Release an endpoint's addresses (idempotent)."""
        state = self._registry.find(attachment.view.network_id)
        for text in (attachment.view.ipv4_address, attachment.view.ipv6_address):
            if state is not None and text:
                address = ip_address(text)
                pool = state.pool(address.version)
                if pool is not None:
                    pool.release(address)

    def with_attachments(self, sandbox: Sandbox, attachments: tuple[Attachment, ...]) -> Sandbox:
        """The sandbox with these endpoints, and the texts that follow from them."""
        return self._with_texts(replace(sandbox, attachments=attachments))

    def renamed(self, sandbox: Sandbox, name: str) -> Sandbox:
        """The same sandbox under another name: the old one resolves no more."""
        moved = []
        for attachment in sandbox.attachments:
            view = attachment.view
            names = tuple(name if known == sandbox.name else known for known in view.dns_names)
            moved.append(replace(attachment, view=replace(view, dns_names=names)))
        return replace(sandbox, name=name, attachments=tuple(moved))

    def _allocate(
        self, state: NetworkState, version: int, static: str, taken: list[tuple[Pool, Address]]
    ) -> Address | None:
        pool = state.pool(version)
        if pool is None:
            if static:
                raise InvalidInput(f"no configured subnet or ip-range contain the IP address {static}")
            return None
        if static:
            address = ip_address(static)
            if address not in pool:
                raise InvalidInput(f"no configured subnet or ip-range contain the IP address {static}")
            pool.take(address)
        else:
            found = pool.allocate()
            if found is None:
                raise Conflict(
                    f"no available IPv{version} addresses on this network's address pools: {state.name} ({state.id})"
                )
            address = found
        taken.append((pool, address))
        return address

    def _new_endpoint_id(self) -> str:
        """64 hex digits whose first 7, of which the link's name is made, no live endpoint has."""
        used = {a.link for sandbox in self._sandboxes.values() for a in sandbox.attachments}
        while True:
            candidate = os.urandom(32).hex()
            if self._instance.veth(candidate) not in used:
                return candidate

    # -- texts -----------------------------------------------------------------------------------------------------

    def _with_texts(self, sandbox: Sandbox) -> Sandbox:
        return replace(
            sandbox,
            hosts_text=self._hosts(sandbox),
            resolv_conf_text=self._resolv_conf(sandbox),
            hostname_text=f"{sandbox.hostname}\n",
        )

    def _resolv_conf(self, sandbox: Sandbox) -> str:
        if sandbox.mode == "host":
            if not (sandbox.dns or sandbox.dns_search or sandbox.dns_options):
                return hosts.read_text("/etc/resolv.conf")
            base = self._resolver.conf
        else:
            base = self._resolver.for_containers()
            if sandbox.embedded_dns:
                base = ResolvConf(search=base.search, options=base.options)
        return hosts.resolv_conf_text(
            base,
            embedded=sandbox.embedded_dns,
            dns=sandbox.dns,
            search=sandbox.dns_search,
            options=sandbox.dns_options,
        )

    def _hosts(self, sandbox: Sandbox) -> str:
        extra = [self._extra_host(entry) for entry in sandbox.extra_hosts]
        if sandbox.mode == "host":
            text = hosts.read_text("/etc/hosts")
            if text and not text.endswith("\n"):
                text += "\n"
            return text + "".join(f"{address}\t{name}\n" for name, address in extra)
        views = [attachment.view for attachment in sandbox.attachments]
        return hosts.hosts_text(
            hostname=sandbox.hostname,
            domainname=sandbox.domainname,
            addresses=[a for view in views for a in (view.ipv4_address, view.ipv6_address) if a],
            extra=extra,
            ipv6=True,
            links=self._legacy_links(sandbox),
        )

    def _extra_host(self, entry: str) -> tuple[str, str]:
        name, address = hosts.split_extra_host(entry)
        if address == "host-gateway":
            default = self._registry.default_bridge()
            self._ensure(default)
            address = str(default.pools[0].gateway)
        return name, address

    def _legacy_links(self, sandbox: Sandbox) -> dict[str, str]:
        """Links on the default bridge are lines of /etc/hosts: address -> "alias name"."""
        found: dict[str, str] = {}
        for attachment in sandbox.attachments:
            for target, alias in attachment.links if not attachment.embedded_dns else ():
                address = self._address_of(target, attachment.view.network_id)
                found[address] = " ".join(dict.fromkeys((alias, target)))
        return found

    def _address_of(self, name: str, network_id: str) -> str:
        for other in self._sandboxes.values():
            if name in {other.name, other.container_id, short_id(other.container_id)}:
                for attachment in other.attachments:
                    if attachment.view.network_id == network_id:
                        return attachment.view.ipv4_address or attachment.view.ipv6_address
        raise Conflict(f"cannot link to a non running container: {name}")


def _check_mac(text: str) -> None:
    try:
        data = mac_bytes(text)
    except ValueError as error:
        raise InvalidInput(f"invalid MAC address: {text}") from error
    if data[0] & 1 or not any(data):
        raise InvalidInput(f"invalid MAC address: {text} is not a unicast address")


def _mac_of(ipv4: Address | None, endpoint_id: str) -> str:
    """02:42 and the address: it goes with the address, so no neighbour's ARP entry is ever stale."""
    data = bytes.fromhex("0242") + (
        ipv4.packed if isinstance(ipv4, IPv4Address) else bytes.fromhex(endpoint_id[:8])
    )
    return data.hex(":")
