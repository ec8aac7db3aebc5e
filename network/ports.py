"""Host ports: reserve them by really bound sockets, so that a conflict with any program of the host is found.

Port bindings in, published ports and the sockets behind them out. The sockets carry no data: nftables leads the
traffic to the container before it reaches them. They end with the daemon; `HostPorts.reclaim` binds them again.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from pystack.kernel import sysctl
from pystack.kernel.failpoints import failpoint
from pystack.model.container import PortBinding
from pystack.model.errors import EngineError, InvalidInput, Unsupported
from pystack.model.observed import PublishedPort

log = logging.getLogger(__name__)

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "sctp": socket.SOCK_STREAM}
_IPPROTO_SCTP = 132


def expand(bindings: Iterable[PortBinding], exposed: Iterable[str]) -> tuple[PortBinding, ...]:
    """The bindings, and an ephemeral one for each of `exposed` ("80/tcp", "8000-8002/udp") that has none.

    InvalidInput when an exposed port is malformed.
    """
    result = list(bindings)
    known = {(binding.container_port, binding.protocol) for binding in result}
    for text in exposed:
        ports, _, protocol = text.partition("/")
        first, _, last = ports.partition("-")
        protocol = protocol or "tcp"
        if protocol not in _KINDS or not first.isdecimal() or not (last or first).isdecimal():
            raise InvalidInput(f"invalid containerPort: {text}")
        result += (
            PortBinding(container_port=port, protocol=protocol)  # type: ignore[arg-type]
            for port in range(int(first), int(last or first) + 1)
            if (port, protocol) not in known
        )
    return tuple(result)


def check(binding: PortBinding) -> None:
    """InvalidInput for a binding that can mean nothing."""
    last = binding.host_port_end or binding.host_port
    if not 0 < binding.container_port < 65536 or not 0 <= binding.host_port <= last < 65536:
        raise InvalidInput(f"invalid port: {binding.host_port}:{binding.container_port}/{binding.protocol}")
    if binding.host_ip:
        try:
            ip_address(binding.host_ip)
        except ValueError as error:
            raise InvalidInput(f"invalid IP address: {binding.host_ip}") from error


def _bind(port: PublishedPort) -> socket.socket:
    """A bound socket. OSError with the kernel's errno when it cannot be."""
    family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
    protocol = _IPPROTO_SCTP if port.protocol == "sctp" else 0
    made = socket.socket(family, _KINDS[port.protocol] | socket.SOCK_CLOEXEC, protocol)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "udp":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # nobody reads: keep the least
        elif family == socket.AF_INET:
            # With SO_REUSEADDR old connections in TIME_WAIT are no conflict, and listening makes every other bind one.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((port.host_ip, port.host_port))
        if port.protocol == "tcp" and family == socket.AF_INET:
            made.listen(1)
    except BaseException:
        made.close()
        raise
    # IPv6 is bound but does not listen: [::1] cannot be led to a container, and a client must fail over at once.
    return made


class HostPorts:
    """The host ports of all containers. `who` gives a container's name for messages."""

    def __init__(self, who: Callable[[str], str]) -> None:
        self._held: dict[str, dict[PublishedPort, socket.socket]] = {}
        self._who = who
        self._cursor = 0

    def reserve(
        self, container_id: str, bindings: Iterable[PortBinding], families: frozenset[int]
    ) -> tuple[PublishedPort, ...]:
        """Bind all of them, or none. EngineError with Docker's text when one is taken.

        `families` are the IP versions that the container can be reached by; a binding without address uses each.
        """
        held = self._held.setdefault(container_id, {})
        before = set(held)
        try:
            for binding in bindings:
                check(binding)
                addresses = _addresses(binding, families)
                if addresses:
                    held.update(self._choose(binding, addresses))
        except BaseException:
            for port in set(held) - before:
                held.pop(port).close()
            raise
        failpoint("network.ports.reserved")
        return tuple(held)

    def reclaim(self, container_id: str, ports: Iterable[PublishedPort]) -> None:
        """Bind the ports of a running container again. One that was taken meanwhile is logged: its traffic is still led."""
        held = self._held.setdefault(container_id, {})
        for port in ports:
            if port not in held:
                try:
                    held[port] = _bind(port)
                except OSError as error:
                    log.warning(
                        "cannot hold port %s of %s again: %s", _show(port), self._who(container_id), error
                    )

    def release(self, container_id: str) -> None:
        """Idempotent."""
        for holder in self._held.pop(container_id, {}).values():
            holder.close()

    def close(self) -> None:
        """Let go of every socket; containers keep their traffic."""
        for container_id in tuple(self._held):
            self.release(container_id)

    def _choose(self, binding: PortBinding, addresses: tuple[str, ...]) -> dict[PublishedPort, socket.socket]:
        """The first port of the binding's candidates that is free on all `addresses`."""
        for candidate in self._candidates(binding):
            ports = [
                PublishedPort(
                    container_port=binding.container_port,
                    protocol=binding.protocol,
                    host_ip=address,
                    host_port=candidate,
                )
                for address in addresses
            ]
            made: dict[PublishedPort, socket.socket] = {}
            try:
                for port in ports:
                    made[port] = _bind(port)
            except OSError as error:
                for holder in made.values():
                    holder.close()
                if error.errno != errno.EADDRINUSE:
                    raise self._refusal(port, error) from error
                last = port, error
            else:
                return made
        raise self._refusal(*last) from last[1]

    def _candidates(self, binding: PortBinding) -> Iterable[int]:
        if binding.host_port:
            return range(binding.host_port, (binding.host_port_end or binding.host_port) + 1)
        low, high = (int(word) for word in sysctl.get("ipv4/ip_local_port_range", "32768 60999").split())
        # Go on after the last one given, so that a released port rests as long as it can.
        start = max(low, self._cursor)
        order = [*range(start, high + 1), *range(low, start)]
        return self._remember(order)

    def _remember(self, order: list[int]) -> Iterable[int]:
        for candidate in order:
            self._cursor = candidate + 1
            yield candidate

    def _refusal(self, port: PublishedPort, error: OSError) -> EngineError | Unsupported:
        if error.errno in {errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}:
            return Unsupported(f"cannot publish {_show(port)}: the kernel has no {port.protocol.upper()}")
        if error.errno != errno.EADDRINUSE:
            return EngineError(f"failed to bind host port for {_show(port)}: {error.strerror}")
        return EngineError(
            f"Bind for {_show(port)} failed: port is already allocated", hint=self._holder(port)
        )

    def _holder(self, wanted: PublishedPort) -> str:
        for container_id, held in self._held.items():
            if any(p.host_port == wanted.host_port and p.protocol == wanted.protocol for p in held):
                return f"container {self._who(container_id)} publishes it"
        return f"another program of the host has it: ss -lnp 'sport = :{wanted.host_port}'"


def _addresses(binding: PortBinding, families: frozenset[int]) -> tuple[str, ...]:
    """Host addresses to bind for one binding."""
    if binding.host_ip:
        return (binding.host_ip,) if ip_address(binding.host_ip).version in families else ()
    return tuple(text for family, text in ((4, "0.0.0.0"), (6, "::")) if family in families)


def _show(port: PublishedPort) -> str:
    return f"[{port.host_ip}]:{port.host_port}" if ":" in port.host_ip else f"{port.host_ip}:{port.host_port}"
