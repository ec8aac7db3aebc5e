"""The short syntax of `ports`: text -> long-form mappings.

Grammar (Compose Specification 05-services "ports", docker/go-connections `nat`):
`[[IP:][HOST[-END]]:]CONTAINER[-END][/PROTOCOL]`, an IPv6 address in brackets.
"""

from __future__ import annotations

import ipaddress
import re

#: Ports that one stack may publish, and one service expose, with ranges expanded.
MAX_PORTS = 20_000

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?\Z")
_HINT = 'write "8080:80", "127.0.0.1:8080:80", "8000-8010:8000-8010" or "53:53/udp"'


class PortSyntaxError(ValueError):
    def __init__(self, message: str, hint: str = _HINT) -> None:
        super().__init__(message)
        self.hint = hint


def parse_ports(text: str) -> list[dict[str, str | int]]:
    """Long-form ports of one short-form text: several for a range. PortSyntaxError says what is wrong."""
    address, host, container, protocol = _split(text)
    first, last = port_range(container, f"container port of `{text}`")
    if not host:
        return [_port(address, "", number, protocol) for number in range(first, last + 1)]
    host_first, host_last = port_range(host, f"host port of `{text}`")
    if host_last - host_first == last - first:
        numbers = range(first, last + 1)
        return [_port(address, str(host_first + n - first), n, protocol) for n in numbers]
    if first == last:
        return [_port(address, f"{host_first}-{host_last}", first, protocol)]
    raise PortSyntaxError(
        f"port ranges of `{text}` differ in length: {host_last - host_first + 1} host ports"
        f" for {last - first + 1} container ports"
    )


def port_range(text: str, what: str) -> tuple[int, int]:
    """First and last: `80` -> (80, 80), `80-82` -> (80, 82). PortSyntaxError names `what`."""
    match = _RANGE.match(text)
    if not match:
        raise PortSyntaxError(f"{what} must be a number, not `{text}`")
    first = int(match.group(1))
    last = int(match.group(2) or first)
    if last > 65535:
        raise PortSyntaxError(f"{what} must be at most 65535, not {last}")
    if last < first:
        raise PortSyntaxError(f"{what} ends before it begins: {text}")
    return first, last


def _split(text: str) -> tuple[str, str, str, str]:
    body, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise PortSyntaxError(f"protocol of port `{text}` must be tcp, udp or sctp, not `{protocol}`")
    front, colon, container = body.rpartition(":")
    if not container:
        raise PortSyntaxError(f"port `{text}` names no container port")
    address, host = "", front
    if colon and (":" in front or front.startswith("[")):
        address, _, host = front.rpartition(":")
        if front.endswith("]"):
            address, host = front, ""
    if address:
        address = _address(address, text)
    return address, host, container, protocol


def _address(address: str, text: str) -> str:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise PortSyntaxError(
            f"host address of port `{text}` must be an IP address, not `{address}`"
        ) from None
    return bare


def _port(address: str, published: str, target: int, protocol: str) -> dict[str, str | int]:
    port: dict[str, str | int] = {"mode": "ingress", "target": target, "protocol": protocol}
    if address:
        port["host_ip"] = address
    if published:
        port["published"] = published
    return port
