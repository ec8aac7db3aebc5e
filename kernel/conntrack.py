"""Forget tracked UDP flows: a published port's old flows would go on to where they went before it changed.

Ports in, number of flows out. A flow keeps the translation it began with for as long as packets come, so a client that
keeps sending would never reach a new container. Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

from __future__ import annotations

import errno
import socket
import struct

from pystack.kernel import nfnetlink
from pystack.kernel.nfnetlink import attributes

_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_TUPLE_ORIG, _TUPLE_PROTO, _PROTO_NUM, _DST_PORT, _ZONE = 1, 2, 1, 3, 18


def _matching(netlink: socket.socket, family: int, ports: frozenset[int]) -> list[bytes]:
    """The CTA_TUPLE_ORIG of every UDP flow to one of `ports`."""
    found: list[bytes] = []
    netlink.send(nfnetlink.request(_GET, nfnetlink.DUMP, family))
    for body in nfnetlink.answers(netlink, "conntrack"):
        parts = dict(attributes(body))
        original = parts.get(_TUPLE_ORIG, b"")
        protocol = dict(attributes(dict(attributes(original)).get(_TUPLE_PROTO, b"")))
        if protocol.get(_PROTO_NUM) == bytes((socket.IPPROTO_UDP,)) and _ZONE not in parts:
            (port,) = struct.unpack("!H", protocol[_DST_PORT])
            if port in ports:
                found.append(original)
    return found


def forget_udp(ports: frozenset[int]) -> int:
    """Delete the UDP flows that were opened to one of the host's `ports`; how many there were."""
    count = 0
    with nfnetlink.connect() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            for original in _matching(netlink, family, ports):
                flow = nfnetlink.attribute(_TUPLE_ORIG | nfnetlink.NESTED, original)
                netlink.send(nfnetlink.request(_DELETE, nfnetlink.ACK, family, flow))
                try:
                    list(nfnetlink.answers(netlink, "conntrack"))
                    count += 1
                except OSError as error:
                    if error.errno != errno.ENOENT:  # it ended by itself meanwhile
                        raise
    return count
