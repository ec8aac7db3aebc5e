"""Address management, pure: which pool a network gets, which address an endpoint gets. No I/O; addresses in and out.

The default pools and the sequential order are Docker's (libnetwork `ipamutils`, `ipam`): a released address is not
handed out again until the pool has been gone through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice

from pystack.model.container import IpamPool
from pystack.model.errors import Forbidden, InvalidInput
from pystack.model.settings import AddressPool

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Docker's default address pools: 15 times /16 below 172, 16 times /20 below 192.168; 31 networks.
DEFAULT_POOLS: tuple[IPv4Network, ...] = (
    *(IPv4Network(f"172.{n}.0.0/16") for n in range(17, 32)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)


#: Of one configured base no more subnets than this are looked at.
_MOST_SUBNETS = 4096


def subnetted(pools: Iterable[AddressPool]) -> tuple[IPv4Network, ...]:
    """The subnets of configured pools, in their order."""
    return tuple(
        subnet
        for pool in pools
        for subnet in islice(IPv4Network(pool.base).subnets(new_prefix=pool.size), _MOST_SUBNETS)
    )


def choose_pool(taken: Iterable[Network], pools: Iterable[IPv4Network] = DEFAULT_POOLS) -> IPv4Network | None:
    """The first default pool that overlaps nothing of `taken`; None when there is none."""
    busy = [network for network in taken if isinstance(network, IPv4Network)]
    return next((pool for pool in pools if not any(pool.overlaps(other) for other in busy)), None)


def choose_ula(seed: str, taken: Iterable[Network]) -> IPv6Network:
    """A /64 of the engine's own ULA prefix (RFC 4193: fd + 40 bits, here from `seed`) that overlaps nothing."""
    busy = [network for network in taken if isinstance(network, IPv6Network)]
    base = int.from_bytes(b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10), "big")
    for number in range(1 << 16):
        candidate = IPv6Network((base + (number << 64), 64))
        if not any(candidate.overlaps(other) for other in busy):
            return candidate
    raise Forbidden("cannot find a free IPv6 subnet: all 65536 of the engine's prefix are in use")


def parse_network(text: str) -> Network:
    """A subnet. InvalidInput when malformed or with host bits set, as Docker."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidInput(f"invalid network config: invalid subnet {text}: {error}") from error


def parse_address(text: str, what: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise InvalidInput(f"invalid {what}: {text!r} is not an IP address") from error


class Pool:
    """The addresses of one subnet. `gateway` and the auxiliary addresses are taken from the start."""

    def __init__(
        self,
        subnet: Network,
        *,
        ip_range: Network | None = None,
        gateway: Address | None = None,
        reserved: Iterable[Address] = (),
    ) -> None:
        self.subnet = subnet
        self._first, self._last = _usable(subnet)
        if self._first > self._last:
            raise InvalidInput(f"cannot use subnet {subnet}: it has no room for a gateway and a container")
        low, high = self._first, self._last
        if ip_range is not None:
            if ip_range.version != subnet.version or not ip_range.subnet_of(subnet):  # type: ignore[arg-type]
                raise InvalidInput(f"invalid network config: no matching subnet for range {ip_range}")
            low = max(low, int(ip_range.network_address))
            high = min(high, int(ip_range.broadcast_address))
        self._low, self._high = low, high
        self._used: set[int] = set()
        for address in reserved:
            self._inside(address)
            self._used.add(int(address))
        self.gateway = gateway if gateway is not None else self._default_gateway()
        self._inside(self.gateway)
        if int(self.gateway) in self._used:
            raise Forbidden(f"cannot use gateway {self.gateway}: it is an auxiliary address")
        self._used.add(int(self.gateway))
        self._next = self._low

    def __contains__(self, address: Address) -> bool:
        return address in self.subnet

    @property
    def used(self) -> int:
        """Addresses that are taken, with the gateway and the auxiliary ones."""
        return len(self._used)

    def is_used(self, address: Address) -> bool:
        return int(address) in self._used

    def allocate(self) -> Address | None:
        """The next free address of the range; None when all are taken."""
        # At most `used` addresses are in the way, so the search ends however large the pool is.
        candidate = self._next
        for _ in range(min(self._high - self._low, len(self._used)) + 1):
            if candidate > self._high:
                candidate = self._low
            if candidate not in self._used:
                self._used.add(candidate)
                self._next = candidate + 1
                return self._address(candidate)
            candidate += 1
        return None

    def take(self, address: Address) -> None:
        """A given address, also outside the range. Forbidden when taken, InvalidInput when not of the subnet."""
        self._inside(address)
        if int(address) in self._used:
            raise Forbidden(f"Address already in use: {address}")
        self._used.add(int(address))

    def seed(self, address: Address) -> bool:
        """Mark an address of a running container as taken; False when it was already, or is not of the subnet."""
        if address not in self.subnet or int(address) in self._used:
            return False
        self._used.add(int(address))
        return True

    def release(self, address: Address) -> None:
        """Give back (idempotent). The gateway stays."""
        if address != self.gateway:
            self._used.discard(int(address))

    def _default_gateway(self) -> Address:
        candidate = self._low
        while candidate in self._used and candidate < self._high:
            candidate += 1
        return self._address(candidate)

    def _address(self, number: int) -> Address:
        return IPv4Address(number) if self.subnet.version == 4 else IPv6Address(number)

    def _inside(self, address: Address) -> None:
        if address.version != self.subnet.version or not self._first <= int(address) <= self._last:
            raise InvalidInput(
                f"cannot use address {address}: it is not a host address of subnet {self.subnet}"
            )


def _usable(subnet: Network) -> tuple[int, int]:
    """First and last host address. IPv6's first is the subnet router's anycast address (RFC 4291)."""
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.version == 6:
        return (first, last) if subnet.prefixlen >= 127 else (first + 1, last)
    return (first, last) if subnet.prefixlen >= 31 else (first + 1, last - 1)


def make_pool(config: IpamPool) -> Pool:
    """The pool of a network's IPAM entry, which has a subnet. InvalidInput for anything that does not fit."""
    subnet = parse_network(config.subnet)
    return Pool(
        subnet,
        ip_range=parse_network(config.ip_range) if config.ip_range else None,
        gateway=parse_address(config.gateway.partition("/")[0], "gateway") if config.gateway else None,
        reserved=[
            parse_address(text, f"auxiliary address {name}") for name, text in config.aux_addresses.items()
        ],
    )


def find_overlap(subnet: Network, others: Iterable[tuple[str, Network]]) -> str | None:
    """The name of the first of `others` that overlaps; None when there is none."""
    return next(
        (name for name, other in others if other.version == subnet.version and subnet.overlaps(other)),
        None,
    )
