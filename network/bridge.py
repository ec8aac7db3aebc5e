"""Bridges on the host: make, check, remove; which subnets the host uses.

Network records in, kernel objects out. Messages go straight to rtnetlink: a bridge with its address takes well under
a millisecond.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from pystack.kernel import rtnetlink, sysctl
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError
from pystack.network.ipam import Network, parse_network
from pystack.network.records import Attachment, NetworkRecord

#: Engines side by side choose subnets one at a time, or two could choose the same before either's bridge exists.
_LOCK = "/run/pystack-subnets.lock"
_GONE = frozenset({errno.ENODEV})


class Bridges:
    """The host's side of bridge networks, through one netlink socket of the daemon's own namespace."""

    def __init__(self) -> None:
        self._netlink: rtnetlink.Socket | None = None
        self._index: dict[str, int] = {}  # by interface name

    @property
    def netlink(self) -> rtnetlink.Socket:
        if self._netlink is None:
            self._netlink = rtnetlink.Socket()
        return self._netlink

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def index(self, bridge: str) -> int:
        """Interface index of a bridge that was ensured."""
        return self._index[bridge]

    def is_up(self, bridge: str) -> bool:
        return bridge in self._index

    def links(self) -> list[rtnetlink.Link]:
        return self.netlink.links()

    def host_networks(self) -> list[Network]:
        """Destinations of the host's routes and its name servers: what a new subnet must not overlap."""
        return self.netlink.routes()

    def ensure(self, record: NetworkRecord, existing: Iterable[rtnetlink.Link] | None = None) -> None:
        """Make the bridge with its addresses and settings, or mend it. Idempotent. EngineError when it cannot be."""
        name = record.bridge
        try:
            known = {link.name: link for link in (self.links() if existing is None else existing)}
            found = known.get(name)
            if found is not None and found.kind != "bridge":
                raise EngineError(
                    f"cannot use interface {name} for network {record.spec.name}: it is no bridge"
                )
            if found is None:
                self.netlink.batch([rtnetlink.bridge(name, record.mac, mtu=record.mtu)])
                failpoint("network.bridge.created")
                found = next(link for link in self.links() if link.name == name)
            self._set_up(record, found.index)
        except OSError as error:
            raise EngineError(f"cannot make bridge {name} of network {record.spec.name}: {error}") from error
        self._index[name] = found.index
        failpoint("network.bridge.ready")

    def _set_up(self, record: NetworkRecord, index: int) -> None:
        name = record.bridge
        interfaces = _interfaces(record)
        has_ipv6 = any(interface.version == 6 for interface in interfaces)
        # Settings before the link is up: no router advertisement is heard, no link-local address appears (CVE-2024-32473).
        sysctl.write(f"ipv4/conf/{name}/route_localnet", "1")
        sysctl.write_if_known(f"ipv6/conf/{name}/accept_ra", "0")
        sysctl.write_if_known(f"ipv6/conf/{name}/disable_ipv6", "0" if has_ipv6 else "1")
        messages = [
            rtnetlink.address(index, interface.ip, interface.network.prefixlen) for interface in interfaces
        ]
        self.netlink.batch([*messages, rtnetlink.link_up(index)])

    def loss(self, record: NetworkRecord, links: Mapping[str, rtnetlink.Link]) -> str:
        """What was taken away from a bridge that was ensured, "" when it has everything. `links` are all, by name."""
        name = record.bridge
        link = links.get(name)
        if link is None or link.kind != "bridge":
            return f"bridge {name} was removed"
        if link.index != self._index.get(name):
            return f"bridge {name} was replaced"
        if not link.up:
            return f"bridge {name} was set down"
        there = set(self.netlink.addresses(link.index))
        for interface in _interfaces(record):
            if (interface.ip, interface.network.prefixlen) not in there:
                return f"address {interface} of bridge {name} was removed"
        return ""

    def reattach(self, attachments: Iterable[Attachment], *, hairpin: bool) -> None:
        """Make links of running containers ports of their bridge again, where a bridge was made anew."""
        masters = {link.name: link.master for link in self.links()}
        messages: list[rtnetlink.Message] = []
        for attachment in attachments:
            index = self._index.get(attachment.bridge, 0)
            if not index or masters.get(attachment.link, index) == index:
                continue
            # A port begins without its modes. Down meanwhile: an isolated container is not open for a moment.
            messages += (
                rtnetlink.link_down(attachment.link),
                rtnetlink.set_master(attachment.link, index),
                rtnetlink.bridge_port(attachment.link, hairpin=hairpin, isolated=attachment.isolated),
                rtnetlink.link_up(attachment.link),
            )
        if messages:
            self.netlink.batch(messages, ignore=_GONE)
            failpoint("network.endpoint.reattached")

    def forget(self, name: str) -> None:
        """The bridge is gone, or about to be."""
        self._index.pop(name, None)

    def remove(self, names: Iterable[str]) -> None:
        """Delete links in one batch; those that are gone already are fine."""
        names = list(names)
        if names:
            self.netlink.batch([rtnetlink.delete_link(name) for name in names], ignore=_GONE)
            for name in names:
                self._index.pop(name, None)
            failpoint("network.bridge.removed")


def _interfaces(record: NetworkRecord) -> list[IPv4Interface | IPv6Interface]:
    """The addresses of a network's bridge."""
    return [
        ip_interface(f"{pool.gateway}/{parse_network(pool.subnet).prefixlen}")
        for pool in record.spec.ipam_pools
        if pool.subnet
    ]


def delete_bridge(name: str) -> None:
    """Delete one bridge with a socket of its own. Waits for the kernel (17-50 ms): run it in a thread. Idempotent."""
    with rtnetlink.Socket() as own:
        own.batch([rtnetlink.delete_link(name)], ignore=_GONE)
    failpoint("network.bridge.removed")


@contextmanager
def choosing_subnets() -> Iterator[None]:
    """Holds the host-wide lock under which engines choose subnets and make bridges; held for about a millisecond."""
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def nameserver_networks(servers: Iterable[str]) -> list[Network]:
    """The name servers' addresses as networks: a pool over one would cut the host off from its names."""
    found: list[Network] = []
    for text in servers:
        address = ip_address(text.partition("%")[0])
        found.append(ip_network(f"{address}/{address.max_prefixlen}"))
    return found
