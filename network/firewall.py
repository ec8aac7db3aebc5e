"""The engine's nftables table: bridges and published ports in, one atomic transaction out. Default closed.

The rules are written once; sets and maps carry what changes. The whole table can be rendered from memory at any time,
so a flush by someone else is mended by one call; published ports that are asked for in one turn of the event loop are
one transaction. Only traffic from, to or published for the engine's own bridges is
judged, with two exceptions that protect loopback addresses and a host on which the engine turned forwarding on.
Source: nft(8), https://wiki.nftables.org (netfilter hooks and priorities).
"""

from __future__ import annotations

import asyncio
import logging
import re
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


_SET_NAMES = tuple(re.findall(r"^(?:set|map) (\w+) ", _sets(), re.MULTILINE))
#: chain -> how many rules it has
_RULE_COUNTS = {
    name: sum(1 for line in body.splitlines() if line.startswith("  "))
    for name, body in re.findall(r"^chain (\w+) \{(.*?)^\}", _CHAINS, re.MULTILINE | re.DOTALL)
}
_Key = tuple[str, str]  # (map, key)


class Firewall:
    """One table of the engine. Every change is applied to the kernel and remembered, or neither."""

    def __init__(self, table: str, nft: Nft) -> None:
        self._table, self._nft = table, nft
        self._bridges: dict[str, BridgeRules] = {}
        self._forwards: dict[str, tuple[Forward, ...]] = {}  # by container id
        self._uplinks: tuple[str, ...] = ()
        self._made = False
        self._led: dict[_Key, str] = {}  # the ports that the kernel has
        self._asked: dict[
            _Key, str
        ] = {}  # what shall change at the end of this turn of the loop, "" = end it
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def table(self) -> str:
        return self._table

    @property
    def made(self) -> bool:
        """Whether the kernel has the table, as far as this engine knows."""
        return self._made

    @property
    def has_bridges(self) -> bool:
        return bool(self._bridges)

    def assert_all(self) -> None:
        """Make the kernel's table exactly what is remembered, in one transaction, whatever it is now."""
        self._made = False
        self._nft.run(self.render())
        self._made = True
        self._led = {(name, key): data for f in self._all_forwards() for name, key, data in (f.element(),)}
        self._asked.clear()

    def render(self) -> str:
        """The whole table as a transaction that replaces it."""
        table = f"inet {self._table}"
        # `add` before `delete`: deleting a table that does not exist would fail the transaction.
        parts = [f"add table {table}", f"delete table {table}", f"table {table} {{\n{_sets()}\n{_CHAINS}}}"]
        parts += self._commands("add", self._elements())
        return "\n".join(parts)

    def is_intact(self) -> bool:
        """Whether the kernel's table has every rule and element, by number. Cheap while nobody changes any table."""
        if not self._made:
            return not self._bridges
        expected = dict.fromkeys(_SET_NAMES, 0) | {"uplinks": len(self._uplinks)}
        for rules in self._bridges.values():
            for name, _ in _bridge_elements(rules):
                expected[name] += 1
        for name, _ in self._led:
            expected[name] += 1
        return self._nft.counts_are(self._table, _RULE_COUNTS, expected)

    def destroy(self) -> None:
        """Remove the table (idempotent)."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")
        self._made = False
        self._led.clear()

    def add_bridge(self, rules: BridgeRules) -> None:
        """Before the bridge has ports: until then its containers would be open."""
        self._bridges[rules.bridge] = rules
        try:
            self._commit(self._commands("add", _bridge_elements(rules)))
        except (EngineError, OSError):
            del self._bridges[rules.bridge]
            raise

    def remove_bridge(self, bridge: str) -> None:
        """After the bridge is gone (idempotent)."""
        rules = self._bridges.pop(bridge, None)
        if rules is not None:
            self._commit(self._commands("delete", _bridge_elements(rules)))

    async def publish(self, container_id: str, forwards: Sequence[Forward]) -> None:
        """Lead host ports to a container; replaces what it had. Returns when the kernel does so."""
        had, has = self._forwards.pop(container_id, ()), tuple(forwards)
        if has:
            self._forwards[container_id] = has
        if had == has:
            return
        self._ask(had, has)
        try:
            await self._end_of_turn()
        except EngineError:
            self._forwards.pop(container_id, None)
            self._ask(has, ())
            raise
        self._forget((*had, *has))

    async def unpublish(self, container_id: str) -> None:
        """Idempotent."""
        await self.publish(container_id, ())

    def restore(self, bridges: Iterable[BridgeRules], forwards: dict[str, tuple[Forward, ...]]) -> None:
        """Take over what a daemon before this one had made; `assert_all` brings it to the kernel."""
        self._bridges = {rules.bridge: rules for rules in bridges}
        self._forwards = {key: value for key, value in forwards.items() if value}

    def set_uplinks(self, names: Iterable[str]) -> None:
        """Interfaces between which nothing is forwarded; in the kernel when there is a table."""
        had, self._uplinks = self._uplinks, tuple(names)
        gone = [("uplinks", f'"{name}"') for name in had if name not in self._uplinks]
        come = [("uplinks", f'"{name}"') for name in self._uplinks if name not in had]
        if self._made and (gone or come):
            self._commit([*self._commands("delete", gone), *self._commands("add", come)])

    @staticmethod
    def _forget(forwards: Sequence[Forward]) -> None:
        """UDP flows have no end: those of before go on to where the port led then, unless they are forgotten."""
        udp = frozenset(forward.port.host_port for forward in forwards if forward.port.protocol == "udp")
        try:
            if udp:
                conntrack.forget_udp(udp)
        except OSError as error:
            log.warning("cannot forget old UDP flows to ports %s: %s", sorted(udp), error)

    # -- one transaction for all ports of a turn ---------------------------------------------------------------------

    def _ask(self, had: Iterable[Forward], has: Iterable[Forward]) -> None:
        for forward in had:
            name, key, _ = forward.element()
            self._asked[name, key] = ""
        for forward in has:
            name, key, data = forward.element()
            self._asked[name, key] = data

    async def _end_of_turn(self) -> None:
        """Wait until all that was asked for is in the kernel. EngineError when it cannot be."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        # A future each: whoever is cancelled does not take the others along.
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        failed: Exception | None = None
        try:
            self._apply_asked()
        except Exception as error:  # whatever it is, whoever waits must hear of it
            failed = error
            self._made = False  # the kernel may have any of it: the next change writes the whole table
        for waiter in waiting:
            if waiter.done():
                continue
            if failed is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(_as_engine_error(failed))

    def _apply_asked(self) -> None:
        asked, self._asked = self._asked, {}
        if not self._made and not self._bridges:
            return  # the table is gone, and the ports with it
        now = {at: self._led.get(at, "") for at in asked}
        gone = [(name, key) for (name, key), data in now.items() if data and data != asked[name, key]]
        come = [
            (name, f"{key} : {data}")
            for (name, key), data in asked.items()
            if data and data != now[name, key]
        ]
        if gone or come:
            self._commit([*self._commands("delete", gone), *self._commands("add", come)])
        for at, data in asked.items():
            if data:
                self._led[at] = data
            else:
                self._led.pop(at, None)

    def _commit(self, commands: list[str]) -> None:
        """Carry out changes; if the table is not as remembered, all of it is made anew."""
        if not self._made:
            self.assert_all()
            return
        try:
            self._nft.run("\n".join(commands))
        except EngineError as error:
            log.warning("the firewall table was changed by someone else, writing it anew: %s", error)
            self.assert_all()

    def _commands(self, verb: str, elements: Iterable[tuple[str, str]]) -> list[str]:
        grouped: dict[str, list[str]] = {}
        for name, element in elements:
            grouped.setdefault(name, []).append(element)
        return [
            f"{verb} element inet {self._table} {name} {{ {', '.join(items)} }}"
            for name, items in grouped.items()
        ]

    def _all_forwards(self) -> Iterable[Forward]:
        return (forward for forwards in self._forwards.values() for forward in forwards)

    def _elements(self) -> list[tuple[str, str]]:
        """(set or map, element in nft's words) of everything remembered."""
        elements = [element for rules in self._bridges.values() for element in _bridge_elements(rules)]
        elements += [("uplinks", f'"{name}"') for name in self._uplinks]
        for forward in self._all_forwards():
            name, key, data = forward.element()
            elements.append((name, f"{key} : {data}"))
        return elements


def _as_engine_error(error: Exception) -> EngineError:
    """A new one for each that waits: an exception that is raised in two places mixes their tracebacks."""
    if isinstance(error, EngineError):
        return EngineError(str(error), hint=error.hint)
    return EngineError(f"cannot change the firewall: {error}")


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
