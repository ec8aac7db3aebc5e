"""Forget tracked UDP flows: a published port's old flows would go on to where they went before it changed.

Ports in, number of flows out. A flow keeps the translation it began with for as long as packets come, so a client that
keeps sending would never reach a new container. Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_TUPLE_ORIG, _TUPLE_PROTO, _PROTO_NUM, _DST_PORT, _ZONE = 1, 2, 1, 3, 18


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, sequence, 0) + body


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """Bodies of the messages of a dump, or of one acknowledged request. OSError when the kernel refuses."""
    while True:
        data = netlink.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            body = data[offset + 16 : offset + length]
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code), "conntrack")
                return
            if kind == _DONE:
                return
            yield body
            offset += (length + 3) & ~3


def _matching(netlink: socket.socket, family: int, ports: frozenset[int]) -> list[bytes]:
    """The CTA_TUPLE_ORIG of every UDP flow to one of `ports`."""
    found: list[bytes] = []
    netlink.send(_request(_GET, _DUMP, 1, struct.pack("=BBH", family, 0, 0)))
    for body in _answers(netlink):
        attributes = dict(_attributes(body[4:]))
        original = attributes.get(_TUPLE_ORIG, b"")
        protocol = dict(_attributes(dict(_attributes(original)).get(_TUPLE_PROTO, b"")))
        if protocol.get(_PROTO_NUM) == bytes((socket.IPPROTO_UDP,)) and _ZONE not in attributes:
            (port,) = struct.unpack("!H", protocol[_DST_PORT])
            if port in ports:
                found.append(original)
    return found


def forget_udp(ports: frozenset[int]) -> int:
    """Delete the UDP flows that were opened to one of the host's `ports`; how many there were."""
    count = 0
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as netlink:
        netlink.bind((0, 0))
        for family in (socket.AF_INET, socket.AF_INET6):
            for original in _matching(netlink, family, ports):
                length = 4 + len(original)
                tuple_ = struct.pack("=HH", length, _TUPLE_ORIG | 0x8000) + original + b"\0" * (-length % 4)
                netlink.send(_request(_DELETE, _ACK, 2, struct.pack("=BBH", family, 0, 0) + tuple_))
                try:
                    list(_answers(netlink))
                    count += 1
                except OSError as error:
                    if error.errno != errno.ENOENT:  # it ended by itself meanwhile
                        raise
    return count
