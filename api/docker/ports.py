"""Ports: Docker's PortBindings and ExposedPorts go in, model bindings come out; and back.

Source: docker/go-connections `nat`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import cast

from pystack.api.docker.wire import PortBindingBody
from pystack.model.container import PortBinding, Protocol
from pystack.model.errors import InvalidInput
from pystack.model.observed import PublishedPort

_SPEC = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)


def _range(text: str, what: str) -> tuple[int, int, Protocol]:
    match = _SPEC.match(text)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    if match is None or not 0 < first <= last < 65536:
        raise InvalidInput(f"invalid {what} {text[:40]!r}")
    return first, last, cast("Protocol", (match[3] or "tcp").lower())


def exposed_of(ports: Iterable[str]) -> tuple[str, ...]:
    """`80`, `80/udp` or `80-82/tcp`: each port as "number/protocol"."""
    found: dict[str, None] = {}
    for text in ports:
        first, last, protocol = _range(text, "exposed port")
        found |= dict.fromkeys(f"{port}/{protocol}" for port in range(first, last + 1))
    return tuple(found)


def bindings_of(ports: Mapping[str, list[PortBindingBody] | None]) -> tuple[PortBinding, ...]:
    found = []
    for text, bindings in ports.items():
        first, last, protocol = _range(text, "port specification")
        if first != last:
            raise InvalidInput(
                f"invalid port specification {text[:40]!r}: one port per entry of PortBindings"
            )
        for binding in bindings or ():
            low, high = 0, 0
            if host := (binding.HostPort or "").strip():
                low, high = (0, 0) if host == "0" else _range(host, "port specification")[:2]
            found.append(
                PortBinding(
                    container_port=first,
                    protocol=protocol,
                    host_ip=_host_ip(binding.HostIp or ""),
                    host_port=low,
                    host_port_end=high if high != low else 0,
                )
            )
    return tuple(found)


def _host_ip(text: str) -> str:
    text = text.strip().removeprefix("[").removesuffix("]")
    if text:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise InvalidInput(f"invalid host address {text[:60]!r} in a port binding") from None
    return text


def bindings_json(ports: Iterable[PortBinding]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        host = str(port.host_port) if port.host_port else ""
        if port.host_port_end:
            host += f"-{port.host_port_end}"
        key = f"{port.container_port}/{port.protocol}"
        found.setdefault(key, []).append({"HostIp": port.host_ip, "HostPort": host})
    return found


def live_json(
    exposed: Iterable[str], published: Iterable[PublishedPort]
) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports: null for what is exposed only."""
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed)
    for port in published:
        key = f"{port.container_port}/{port.protocol}"
        bindings = found.get(key) or []
        bindings.append({"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)})
        found[key] = bindings
    return found


def summary_json(exposed: Iterable[str], published: Iterable[PublishedPort]) -> list[dict[str, object]]:
    """Ports of one line of `ps`."""
    found: list[dict[str, object]] = []
    taken: set[str] = set()
    for port in published:
        taken.add(f"{port.container_port}/{port.protocol}")
        found.append(
            {
                "IP": port.host_ip or "0.0.0.0",
                "PrivatePort": port.container_port,
                "PublicPort": port.host_port,
                "Type": port.protocol,
            }
        )
    for key in exposed:
        if key not in taken:
            number, _, protocol = key.partition("/")
            found.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return found
