"""Who is called what on which network: the names that the embedded DNS answers. Pure; sandboxes in, addresses out.

An asker sees the names of its own networks only. A name that several containers share gives all their addresses.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pystack.network.records import Attachment, Sandbox


@dataclass(slots=True, kw_only=True)
class Zone:
    """The names of one network. `names`: lower-case name -> endpoint ids; `holders`: address -> endpoint id."""

    name: str
    subnets: tuple[IPv4Network | IPv6Network, ...]
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    holders: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, tuple[str, Attachment]] = field(
        default_factory=dict
    )  # id -> (container name, attachment)


class Zones:
    """All networks with embedded DNS, and all running containers on them."""

    def __init__(self) -> None:
        self._zones: dict[str, Zone] = {}
        self._askers: dict[str, Sandbox] = {}

    def add_network(self, network_id: str, name: str, subnets: tuple[IPv4Network | IPv6Network, ...]) -> None:
        self._zones[network_id] = Zone(name=name, subnets=subnets)

    def remove_network(self, network_id: str) -> None:
        self._zones.pop(network_id, None)

    def add(self, sandbox: Sandbox) -> None:
        """Make a container's names resolve; replaces what it had."""
        self.remove(sandbox.container_id)
        self._askers[sandbox.container_id] = sandbox
        for attachment in sandbox.attachments:
            zone = self._zones.get(attachment.view.network_id)
            if zone is None:
                continue
            view = attachment.view
            zone.endpoints[view.endpoint_id] = sandbox.name, attachment
            for name in view.dns_names:
                zone.names[name.lower()].append(view.endpoint_id)
            for address in filter(None, (view.ipv4_address, view.ipv6_address)):
                zone.holders[str(ip_address(address))] = view.endpoint_id

    def remove(self, container_id: str) -> None:
        """Idempotent."""
        sandbox = self._askers.pop(container_id, None)
        for attachment in sandbox.attachments if sandbox else ():
            zone = self._zones.get(attachment.view.network_id)
            if zone is None:
                continue
            view = attachment.view
            zone.endpoints.pop(view.endpoint_id, None)
            for name in view.dns_names:
                self._drop(zone, name.lower(), view.endpoint_id)
            for address in filter(None, (view.ipv4_address, view.ipv6_address)):
                zone.holders.pop(str(ip_address(address)), None)

    @staticmethod
    def _drop(zone: Zone, name: str, endpoint_id: str) -> None:
        left = [known for known in zone.names.get(name, ()) if known != endpoint_id]
        if left:
            zone.names[name] = left
        else:
            zone.names.pop(name, None)

    def _visible(self, container_id: str) -> list[tuple[Zone, Attachment]]:
        asker = self._askers.get(container_id)
        found = []
        for attachment in asker.attachments if asker else ():
            zone = self._zones.get(attachment.view.network_id)
            if zone is not None:
                found.append((zone, attachment))
        return found

    def lookup(self, container_id: str, name: str) -> list[str] | None:
        """Addresses of `name` (lower case) as this container sees it; None when no network of its has the name."""
        for zone, attachment in self._visible(container_id):
            wanted = next(
                (target for target, alias in attachment.links if alias.lower() == name), name
            ).lower()
            suffix = f".{zone.name.lower()}"
            ids = zone.names.get(wanted) or (
                zone.names.get(wanted.removesuffix(suffix)) if wanted.endswith(suffix) else None
            )
            if ids:
                views = [zone.endpoints[endpoint][1].view for endpoint in ids]
                return [address for v in views for address in (v.ipv4_address, v.ipv6_address) if address]
        return None

    def reverse(self, container_id: str, address: IPv4Address | IPv6Address) -> list[str] | None:
        """`container.network` for an address; [] when it is of the asker's networks but nobody's; None when foreign."""
        ours = False
        for zone, _ in self._visible(container_id):
            endpoint = zone.holders.get(str(address))
            if endpoint is not None:
                return [f"{zone.endpoints[endpoint][0]}.{zone.name}"]
            ours = ours or any(address in subnet for subnet in zone.subnets)
        return [] if ours else None

    def may_forward(self, container_id: str) -> bool:
        """Whether questions about other names may leave: only from a container with a way out (CVE-2024-29018)."""
        asker = self._askers.get(container_id)
        return asker is not None and any(not attachment.internal for attachment in asker.attachments)
