"""The engine's nftables table: bridges and published ports in, one atomic transaction out. Default closed.

The rules are written once; sets and maps carry what changes. The whole table can be rendered from memory at any time,
so a flush by someone else is mended by one call. Only traffic from, to or published for the engine's own bridges is
judged, with two exceptions that protect loopback addresses and a host on which the engine turned forwarding on.
Source: nft(8), https://wiki.nftables.org (netfilter hooks and priorities).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pystack.kernel import conntrack
from pystack.kernel.nftables import Nft
from pystack.model.errors import EngineError
from pystack.model.observed import PublishedPort

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRules:
    """What the table knows of one network: its bridge, subnets, and what its containers may do."""

    bridge: str
    subnets: tuple[str, ...]
    internal: bool = False
    masquerade: bool = True
    icc: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One published port and the container's address behind it ("" in `host_ip`: every address of that family)."""

    port: PublishedPort
    target: str

    @property
    def family(self) -> int:
        return ip_address(self.target).version

    def element(self) -> tuple[str, str, str]:
        """(map, key, data) in nft's words."""
        key = f"{_PROTOCOLS[self.port.protocol]} . {self.port.host_port}"
        data = f"{self.target} . {self.port.container_port}"
        if self.port.host_ip in {"", "0.0.0.0", "::"}:
            return f"open{self.family}", key, data
        return f"bound{self.family}", f"{self.port.host_ip} . {key}", data


def _sets() -> str:
    lines = [f"set {name} {{ type ifname; }}" for name in ("bridges", "internals", "uplinks")]
    lines.append("set same { type ifname . ifname; }")
    for family, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
        lines += [
            f"set own{family} {{ type {kind}; flags interval; }}",
            f"set masq{family} {{ type {kind}; flags interval; }}",
            f"set home{family} {{ type ifname . {kind}; flags interval; }}",
            f"map bound{family} {{ type {kind} . inet_proto . inet_service : {kind} . inet_service; }}",
            f"map open{family} {{ type inet_proto . inet_service : {kind} . inet_service; }}",
        ]
    return "\n".join(lines)


#: IP protocol numbers (IANA): 1 is ICMP, 58 is ICMPv6.
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

# guard: after conntrack, before NAT. Nothing from a wire may use a loopback address: bridges have route_localnet, and
# DNAT would otherwise lead a neighbour's packet for 127.0.0.1 to a port published on loopback. Nobody but the bridge's
# own containers reaches a container's address unless the port was published (moby 28.0 "direct routing").
# foreign: what the host did not forward before the engine turned forwarding on, it does not forward now.
# Protocols are numbers: libnftables looks names up in /etc/protocols, which a minimal system does not have.
_CHAINS = """
chain guard { type filter hook prerouting priority mangle; policy accept;
  iifname != "lo" ip daddr 127.0.0.0/8 drop
  iifname != "lo" ip saddr 127.0.0.0/8 drop
  ct state established,related accept
  ip daddr @own4 iifname . ip daddr != @home4 fib daddr type != local drop
  ip6 daddr @own6 iifname . ip6 daddr != @home6 fib daddr type != local drop
}
chain publish {
  dnat ip to ip daddr . meta l4proto . th dport map @bound4
  dnat ip to meta l4proto . th dport map @open4
  ip6 daddr ::1 return
  dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound6
  dnat ip6 to meta l4proto . th dport map @open6
}
chain arriving { type nat hook prerouting priority dstnat; policy accept;
  fib daddr type local meta l4proto { 6, 17, 132 } jump publish
}
chain local { type nat hook output priority -100; policy accept;
  fib daddr type local meta l4proto { 6, 17, 132 } jump publish
}
chain leaving { type nat hook postrouting priority srcnat; policy accept;
  oifname @bridges ip saddr 127.0.0.0/8 masquerade
  ct status dnat oifname . ip saddr @home4 masquerade
  ct status dnat oifname . ip6 saddr @home6 masquerade
  ip saddr @masq4 oifname . ip saddr != @home4 masquerade
  ip6 saddr @masq6 oifname . ip6 saddr != @home6 masquerade
}
chain foreign {
  iifname @uplinks oifname @uplinks drop
}
chain passing { type filter hook forward priority filter; policy accept;
  iifname != @bridges oifname != @bridges goto foreign
  ct state established,related accept
  iifname . oifname @same accept
  iifname @internals drop
  oifname @internals drop
  oifname @bridges ct status dnat accept
  oifname @bridges drop
}
chain entering { type filter hook input priority filter; policy accept;
  iifname != @bridges accept
  ct state established,related accept
  meta l4proto { 1, 58 } accept
  meta l4proto 6 reject with tcp reset
  meta l4proto 17 reject with icmpx type port-unreachable
  drop
}
"""


class Firewall:
    """One table of the engine. Every change is applied to the kernel and remembered, or neither."""

    def __init__(self, table: str, nft: Nft) -> None:
        self._table, self._nft = table, nft
        self._bridges: dict[str, BridgeRules] = {}
        self._forwards: dict[str, tuple[Forward, ...]] = {}  # by container id
        self._uplinks: tuple[str, ...] = ()
        self._made = False

    @property
    def made(self) -> bool:
        return self._made

    def assert_all(self) -> None:
        """Make the kernel's table exactly what is remembered, in one transaction, whatever it is now."""
        self._nft.run(self.render())
        self._made = True

    def render(self) -> str:
        """The whole table as a transaction that replaces it."""
        table = f"inet {self._table}"
        # `add` before `delete`: deleting a table that does not exist would fail the transaction.
        parts = [f"add table {table}", f"delete table {table}", f"table {table} {{\n{_sets()}\n{_CHAINS}}}"]
        elements: list[tuple[str, str]] = []
        for rules in self._bridges.values():
            elements += _bridge_elements(rules)
        elements += [("uplinks", f'"{name}"') for name in self._uplinks]
        for forwards in self._forwards.values():
            elements += _port_elements(forwards)
        parts += self._commands("add", elements)
        return "\n".join(parts)

    def destroy(self) -> None:
        """Remove the table (idempotent)."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")
        self._made = False

    def add_bridge(self, rules: BridgeRules) -> None:
        """Before the bridge has ports: until then its containers would be open."""
        self._bridges[rules.bridge] = rules
        try:
            self._change("add", _bridge_elements(rules))
        except EngineError:
            del self._bridges[rules.bridge]
            raise

    def remove_bridge(self, bridge: str) -> None:
        """After the bridge is gone (idempotent)."""
        rules = self._bridges.pop(bridge, None)
        if rules is not None:
            self._change("delete", _bridge_elements(rules))

    def publish(self, container_id: str, forwards: Sequence[Forward]) -> None:
        """Lead host ports to a container; replaces what it had."""
        self.unpublish(container_id)
        if not forwards:
            return
        self._forwards[container_id] = tuple(forwards)
        try:
            self._change("add", _port_elements(forwards))
        except EngineError:
            del self._forwards[container_id]
            raise
        self._forget(forwards)

    def unpublish(self, container_id: str) -> None:
        """Idempotent."""
        forwards = self._forwards.pop(container_id, ())
        if forwards:
            self._change("delete", _port_elements(forwards))
            self._forget(forwards)

    def restore(self, bridges: Iterable[BridgeRules], forwards: dict[str, tuple[Forward, ...]]) -> None:
        """Take over what a daemon before this one had made; `assert_all` brings it to the kernel."""
        self._bridges = {rules.bridge: rules for rules in bridges}
        self._forwards = {key: value for key, value in forwards.items() if value}

    def set_uplinks(self, names: Iterable[str]) -> None:
        """Interfaces between which nothing is forwarded. Takes effect with the next `assert_all`."""
        self._uplinks = tuple(names)

    @staticmethod
    def _forget(forwards: Sequence[Forward]) -> None:
        """UDP flows have no end: those of before go on to where the port led then, unless they are forgotten."""
        udp = frozenset(forward.port.host_port for forward in forwards if forward.port.protocol == "udp")
        try:
            if udp:
                conntrack.forget_udp(udp)
        except OSError as error:
            log.warning("cannot forget old UDP flows to ports %s: %s", sorted(udp), error)

    def _change(self, verb: str, elements: list[tuple[str, str]]) -> None:
        """Add or delete elements; if the table is not as remembered, all of it is made anew."""
        if not self._made:
            self.assert_all()
            return
        try:
            self._nft.run("\n".join(self._commands(verb, elements)))
        except EngineError as error:
            log.warning("the firewall table was changed by someone else, writing it anew: %s", error)
            self.assert_all()

    def _commands(self, verb: str, elements: Iterable[tuple[str, str]]) -> list[str]:
        grouped: dict[str, list[str]] = {}
        for name, element in elements:
            if verb == "delete":
                element = element.partition(" : ")[0]  # noqa: PLW2901 - a key is enough
            grouped.setdefault(name, []).append(element)
        return [
            f"{verb} element inet {self._table} {name} {{ {', '.join(items)} }}"
            for name, items in grouped.items()
        ]


def _bridge_elements(rules: BridgeRules) -> list[tuple[str, str]]:
    name = f'"{rules.bridge}"'
    elements = [("bridges", name)]
    if rules.internal:
        elements.append(("internals", name))
    if rules.icc:
        elements.append(("same", f"{name} . {name}"))
    for subnet in rules.subnets:
        family = 6 if ":" in subnet else 4
        elements += [(f"own{family}", subnet), (f"home{family}", f"{name} . {subnet}")]
        if rules.masquerade and not rules.internal:
            elements.append((f"masq{family}", subnet))
    return elements


def _port_elements(forwards: Iterable[Forward]) -> list[tuple[str, str]]:
    return [(name, f"{key} : {data}") for name, key, data in (forward.element() for forward in forwards)]
