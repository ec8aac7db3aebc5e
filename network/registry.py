"""Networks as objects: records and their address pools; creation, checks, references, views.

NetworkSpecs and references in, `NetworkState` (a record with its pools) out. Records are durable in the documents
table; pools live in memory and are seeded from running containers.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from pystack.model.container import IpamPool, NetworkSpec
from pystack.model.documents import Documents
from pystack.model.errors import Conflict, Forbidden, InvalidInput, NotFound, PystackError, Unsupported
from pystack.model.names import Instance, digest_id, short_id
from pystack.model.observed import EndpointView, NetworkView
from pystack.network import forwarding, records
from pystack.network.firewall import BridgeRules
from pystack.network.ipam import (
    DEFAULT_POOLS,
    Network,
    Pool,
    choose_pool,
    choose_ula,
    find_overlap,
    make_pool,
    parse_network,
)
from pystack.network.records import NetworkRecord, dump_network, load_network

log = logging.getLogger(__name__)

_PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")


@dataclass(slots=True, kw_only=True, eq=False)
class NetworkState:
    """A network in memory: its record, its pools (v4 first), and the live endpoints by container id."""

    record: NetworkRecord
    pools: tuple[Pool, ...] = ()
    endpoints: dict[str, EndpointView] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.spec.name

    @property
    def subnets(self) -> tuple[Network, ...]:
        return tuple(pool.subnet for pool in self.pools)

    def pool(self, version: int) -> Pool | None:
        return next((pool for pool in self.pools if pool.subnet.version == version), None)

    def rules(self) -> BridgeRules:
        record = self.record
        return BridgeRules(
            bridge=record.bridge,
            subnets=tuple(str(subnet) for subnet in self.subnets),
            internal=record.spec.internal,
            masquerade=record.flag(records.OPTION_MASQUERADE),
            icc=record.flag(records.OPTION_ICC),
        )

    def view(self, container_names: Mapping[str, str]) -> NetworkView:
        spec = self.record.spec
        return NetworkView(
            id=self.id,
            name=self.name,
            created=self.record.created,
            driver=spec.driver,
            internal=spec.internal,
            attachable=spec.attachable,
            enable_ipv4=spec.enable_ipv4,
            enable_ipv6=spec.enable_ipv6,
            ipam_driver=spec.ipam_driver,
            ipam_pools=spec.ipam_pools,
            ipam_options=spec.ipam_options,
            options=spec.options,
            labels=spec.labels,
            predefined=self.record.predefined,
            containers=dict(self.endpoints),
            container_names={key: container_names.get(key, "") for key in self.endpoints},
        )


def now() -> str:
    """RFC 3339 with nanoseconds, UTC."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


class NetworkRegistry:
    """All networks of the engine. `taken` gives what the host's routes and name servers occupy."""

    def __init__(self, instance: Instance, documents: Documents, taken: Callable[[], list[Network]]) -> None:
        self._instance, self._documents, self._taken = instance, documents, taken
        self._states: dict[str, NetworkState] = {}
        self.default_pools: Sequence[IPv4Network] = DEFAULT_POOLS

    def __iter__(self) -> Iterator[NetworkState]:
        return iter(tuple(self._states.values()))

    def load(self) -> None:
        """Read the records; one that cannot be read is logged and left alone. Then the predefined networks."""
        for key, text in self._documents.all().items():
            if key == forwarding.KEY:
                continue
            try:
                record = load_network(text)
                self._states[record.id] = NetworkState(record=record, pools=_pools(record.spec))
            except (ValueError, PystackError) as error:
                log.warning("cannot read the record of network %s: %s", key[:12], error)
        for name, driver in _PREDEFINED.items():
            self._predefine(name, driver)

    def _predefine(self, name: str, driver: str) -> None:
        """The same id for the life of the engine. The bridge's subnet is chosen when it is first used."""
        network_id = digest_id(self._instance.root, "network", name)
        if network_id in self._states:
            return
        options = (
            {records.OPTION_DEFAULT: "true", records.OPTION_ICC: "true", records.OPTION_MASQUERADE: "true"}
            if name == "bridge"
            else {}
        )
        record = NetworkRecord(
            id=network_id,
            created=now(),
            spec=NetworkSpec(name=name, driver=driver, options=options),
            bridge=self._instance.bridge(network_id) if name == "bridge" else "",
            mac=_bridge_mac(network_id),
            predefined=True,
        )
        self._states[network_id] = NetworkState(record=record)

    def find(self, ref: str) -> NetworkState | None:
        """By full id, name, or unique id prefix. InvalidInput when a prefix is ambiguous."""
        if ref in self._states:
            return self._states[ref]
        wanted = "bridge" if ref == "default" else ref
        for state in self._states.values():
            if state.name == wanted:
                return state
        hits = [state for state in self._states.values() if ref and state.id.startswith(ref)]
        if len(hits) > 1:
            raise InvalidInput(f"network {ref} is ambiguous ({len(hits)} matches found on id prefix)")
        return hits[0] if hits else None

    def get(self, ref: str) -> NetworkState:
        """NotFound with Docker's message."""
        state = self.find(ref)
        if state is None:
            raise NotFound(f"network {ref} not found")
        return state

    def default_bridge(self) -> NetworkState:
        return self.get(digest_id(self._instance.root, "network", "bridge"))

    def draft(self, spec: NetworkSpec) -> tuple[NetworkState, tuple[str, ...]]:
        """A new network with its subnets, not kept yet, and warnings. The caller holds `choosing_subnets`."""
        self._check(spec)
        warnings = tuple(
            f"network option {name} is not supported and has no effect"
            for name in spec.options
            if name not in records.KNOWN_OPTIONS
        )
        network_id = self._new_id()
        full = replace(spec, ipam_pools=self._complete(spec))
        record = NetworkRecord(
            id=network_id,
            created=now(),
            spec=full,
            bridge=spec.options.get(records.OPTION_NAME) or self._instance.bridge(network_id),
            mac=_bridge_mac(network_id),
            user_subnet=any(pool.subnet for pool in spec.ipam_pools),
        )
        return NetworkState(record=record, pools=_pools(full)), warnings

    def choose_subnet(self, state: NetworkState) -> None:
        """Give a predefined bridge its subnet. The caller holds `choosing_subnets`, and keeps the record."""
        spec = replace(state.record.spec, ipam_pools=self._complete(state.record.spec))
        state.record = replace(state.record, spec=spec)
        state.pools = _pools(spec)

    @staticmethod
    def give_up_subnet(state: NetworkState) -> None:
        """A predefined bridge has none until its next use: others may have it. The caller keeps the record."""
        state.record = replace(state.record, spec=replace(state.record.spec, ipam_pools=()))
        state.pools = ()

    def add(self, state: NetworkState) -> None:
        self._states[state.id] = state

    def discard(self, state: NetworkState) -> None:
        self._states.pop(state.id, None)

    async def keep(self, state: NetworkState) -> None:
        """Return once the record is durable."""
        await self._documents.put(state.id, dump_network(state.record))

    async def forget(self, state: NetworkState) -> None:
        await self._documents.delete(state.id)

    def _new_id(self) -> str:
        """64 hex digits whose first 7, of which interface names are made, no other network has."""
        used = {state.id[:7] for state in self._states.values()}
        while True:
            candidate = os.urandom(32).hex()
            if candidate[:7] not in used and not candidate[:12].isdecimal():
                return candidate

    def _check(self, spec: NetworkSpec) -> None:
        if not spec.name or spec.name != spec.name.strip() or "/" in spec.name:
            raise InvalidInput(f"invalid network name: {spec.name!r}")
        if spec.name in _PREDEFINED or spec.name in {"default", "container"}:
            raise Forbidden(f"operation is not permitted on predefined {spec.name} network")
        if any(state.name == spec.name for state in self._states.values()):
            raise Conflict(f"network with name {spec.name} already exists")
        if spec.driver in {"host", "null", "none"}:
            raise Forbidden(f'only one instance of "{spec.driver}" network is allowed')
        if spec.driver not in {"bridge", "default", ""}:
            raise NotFound(f'plugin "{spec.driver}" not found', hint="the drivers are bridge, host and none")
        if spec.ipam_driver not in {"default", ""}:
            raise Unsupported(
                f"cannot create network {spec.name}: IPAM driver {spec.ipam_driver} is not supported"
            )
        if not spec.enable_ipv4 and not spec.enable_ipv6:
            raise InvalidInput("IPv4 or IPv6 must be enabled")
        self._check_options(spec)

    def _check_options(self, spec: NetworkSpec) -> None:
        bridge = spec.options.get(records.OPTION_NAME, "")
        if bridge:
            # It becomes part of firewall rules and of paths below /proc/sys.
            if not _INTERFACE.match(bridge) or ".." in bridge:
                raise InvalidInput(f"invalid bridge name: {bridge!r}")
            if any(state.record.bridge == bridge for state in self._states.values()):
                raise Conflict(
                    f"cannot create network {spec.name}: bridge {bridge} belongs to another network"
                )
        mtu = spec.options.get(records.OPTION_MTU, "0")
        if not mtu.isdecimal() or not (mtu == "0" or 68 <= int(mtu) <= 65535):
            raise InvalidInput(f"invalid MTU of network {spec.name}: {mtu!r}")

    def _complete(self, spec: NetworkSpec) -> tuple[IpamPool, ...]:
        """The asked pools with their gateways, and chosen ones for each family that has none."""
        mine = [
            (f"network {state.name}", subnet) for state in self._states.values() for subnet in state.subnets
        ]
        host = self._taken()
        pools: list[Pool] = []
        result: list[IpamPool] = []
        for config in spec.ipam_pools:
            if not config.subnet:
                if config.ip_range or config.gateway:
                    raise InvalidInput("invalid network config: a range or gateway needs a subnet")
                continue
            self._check_pool(spec, config, pools, mine, host)
            pool = make_pool(config)
            pools.append(pool)
            result.append(replace(config, subnet=str(pool.subnet), gateway=str(pool.gateway)))
        taken = [*host, *(subnet for _, subnet in mine), *(pool.subnet for pool in pools)]
        for chosen in self._missing(spec, [pool.subnet for pool in pools], taken):
            pool = Pool(chosen)
            result.append(IpamPool(subnet=str(chosen), gateway=str(pool.gateway)))
        return tuple(sorted(result, key=lambda config: parse_network(config.subnet).version))

    def _missing(
        self, spec: NetworkSpec, have: Sequence[Network], taken: Sequence[Network]
    ) -> Iterator[Network]:
        if spec.enable_ipv4 and not any(subnet.version == 4 for subnet in have):
            chosen = choose_pool(taken, self.default_pools)
            if chosen is None:
                raise Conflict(
                    "all predefined address pools have been fully subnetted",
                    hint=f"the host's routes and networks cover all {len(self.default_pools)}: remove unused networks, "
                    "or give the network a subnet",
                )
            yield chosen
        if spec.enable_ipv6 and not any(subnet.version == 6 for subnet in have):
            yield choose_ula(self._instance.root, taken)

    @staticmethod
    def _check_pool(
        spec: NetworkSpec,
        config: IpamPool,
        pools: Iterable[Pool],
        mine: Iterable[tuple[str, Network]],
        host: Iterable[Network],
    ) -> None:
        subnet = parse_network(config.subnet)
        if not (spec.enable_ipv4 if subnet.version == 4 else spec.enable_ipv6):
            raise InvalidInput(
                f"cannot use subnet {subnet}: IPv{subnet.version} is not enabled for network {spec.name}"
            )
        if any(pool.subnet.version == subnet.version for pool in pools):
            raise InvalidInput(f"cannot create network {spec.name}: more than one IPv{subnet.version} subnet")
        if subnet.overlaps(parse_network("127.0.0.0/8" if subnet.version == 4 else "::1/128")):
            raise InvalidInput(f"cannot use subnet {subnet}: it is the loopback network")
        clash = find_overlap(subnet, mine) or find_overlap(
            subnet, ((f"the host's route to {n}", n) for n in host)
        )
        if clash:
            raise Forbidden(
                f"invalid pool request: Pool overlaps with other one on this address space: {subnet} and {clash}"
            )


def _pools(spec: NetworkSpec) -> tuple[Pool, ...]:
    return tuple(make_pool(config) for config in spec.ipam_pools if config.subnet)


def _bridge_mac(network_id: str) -> str:
    """A locally administered unicast address (IEEE 802: bit 1 of the first byte) that stays the network's."""
    digits = "02" + network_id[:10]
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def check_removable(state: NetworkState) -> None:
    """Forbidden with Docker's messages for a predefined network or one in use."""
    if state.record.predefined:
        raise Forbidden(f"{state.name} is a pre-defined network and cannot be removed")
    if state.endpoints:
        raise Forbidden(
            f"error while removing network: network {state.name} id {state.id} has active endpoints",
            hint="stop or disconnect: " + ", ".join(sorted(short_id(key) for key in state.endpoints)),
        )


def matches(state: NetworkState, filters: Mapping[str, Sequence[str]]) -> bool:
    """Docker's network filters: name and id (parts), driver, label, type, scope, dangling. InvalidInput for others."""
    return all(_matches_one(state, key, values) for key, values in filters.items() if values)


def _matches_one(state: NetworkState, key: str, values: Sequence[str]) -> bool:
    spec = state.record.spec
    match key:
        case "name":
            return any(value in state.name for value in values)
        case "id":
            return any(value in state.id for value in values)
        case "driver":
            return spec.driver in values
        case "label":
            return all(_has_label(spec.labels, value) for value in values)
        case "label!":
            return not any(_has_label(spec.labels, value) for value in values)
        case "type":
            if unknown := set(values) - {"builtin", "custom"}:
                raise InvalidInput(f"invalid filter: 'type'='{min(unknown)}'", hint="builtin or custom")
            return ("builtin" if state.record.predefined else "custom") in values
        case "scope":
            return "local" in values
        case "dangling":
            wanted = values[0].lower() in {"1", "true", "t"}
            return wanted == (not state.endpoints and not state.record.predefined)
        case "until":
            return True  # the engine resolves times before it asks
        case _:
            raise InvalidInput(f"invalid filter '{key}'")


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
