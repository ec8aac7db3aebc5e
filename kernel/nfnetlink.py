"""nfnetlink: the netlink family of conntrack and nftables, as far as it is spoken here without a library.

Requests in (bytes), bodies of answers out. The kernel answers during send(2), so nothing waits. Sources: netlink(7),
`include/uapi/linux/netfilter/nfnetlink.h`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
NESTED = 0x8000
_NETLINK_NETFILTER = 12
_ERROR, _DONE = 2, 3


def connect() -> socket.socket:
    """A socket of the calling thread's network namespace; the caller closes it."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    made.bind((0, 0))
    return made


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + b"\0" * (-length % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, data) of each attribute."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def request(kind: int, flags: int, family: int, body: bytes = b"") -> bytes:
    """A message of `kind` (subsystem << 8 | message) with a nfgenmsg header for `family`."""
    head = struct.pack("=IHHIIBBH", 20 + len(body), kind, REQUEST | flags, 1, 0, family, 0, 0)
    return head + body


def answers(netlink: socket.socket, what: str) -> Iterator[bytes]:
    """Attributes of each message of a dump, or of one acknowledged request. OSError when the kernel refuses."""
    while True:
        data = netlink.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, offset)
            body = data[offset + 16 : offset + length]
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code), what)
                return
            if kind == _DONE:
                return
            yield body[4:]
            offset += (length + 3) & ~3
