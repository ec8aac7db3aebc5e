"""Watching interfaces: which of some links went down, went away or lost an address. The kernel tells; nobody asks.

Interface indexes in, indexes out. Every container that starts makes a dozen such messages, each of which pyroute2 takes
a quarter of a millisecond to read, so a filter in the kernel lets only those pass that tell a loss of a watched link.
Sources: rtnetlink(7), socket(7) SO_ATTACH_FILTER, `include/uapi/linux/filter.h`.
"""

from __future__ import annotations

import ctypes
import importlib
import socket
import struct
from collections.abc import Collection
from typing import Any

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_NEWLINK, _DELLINK, _DELADDR = 16, 17, 21
_IFF_UP = 1
_SO_ATTACH_FILTER = 26
_LD_WORD, _LD_HALF, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x28, 0x15, 0x45, 0x06
_PASS = 0xFFFFFFFF
_MOST = 2000  # links: a filter has at most 4096 instructions


def load() -> None:
    """Import pyroute2: a tenth of a second of work, so it is done late and in a thread."""
    importlib.import_module("pyroute2")


def _wire16(value: int) -> int:
    """As the filter loads it: netlink is in the host's byte order, filters read big-endian."""
    return int.from_bytes(struct.pack("=H", value), "big")


def _wire32(value: int) -> int:
    return int.from_bytes(struct.pack("=I", value), "big")


def loss_filter(indexes: Collection[int]) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, operand) that pass losses of these links only.

    The offsets are of nlmsghdr (16 bytes: type at 4) and of ifinfomsg and ifaddrmsg, which both have the index at 4.
    """
    program = [
        (_LD_HALF, 0, 0, 4),
        (_JUMP_EQUAL, 6, 0, _wire16(_DELLINK)),
        (_JUMP_EQUAL, 5, 0, _wire16(_DELADDR)),
        (_JUMP_EQUAL, 1, 0, _wire16(_NEWLINK)),
        (_RETURN, 0, 0, 0),
        (_LD_WORD, 0, 0, 24),  # ifinfomsg's flags: a link that is up has lost nothing
        (_JUMP_SET, 0, 1, _wire32(_IFF_UP)),
        (_RETURN, 0, 0, 0),
        (_LD_WORD, 0, 0, 20),
    ]
    for index in sorted(indexes)[:_MOST]:
        program += [(_JUMP_EQUAL, 0, 1, _wire32(index)), (_RETURN, 0, 0, _PASS)]
    return [*program, (_RETURN, 0, 0, 0)]


class LinkWatch:
    """Losses of the watched links of the calling thread's network namespace. `load` first; close it at the end."""

    def __init__(self) -> None:
        # Typed as Any: pyroute2 makes its API at run time.
        pyroute2: Any = importlib.import_module("pyroute2")
        self._netlink: Any = pyroute2.AsyncIPRoute()
        self._error: type[Exception] = pyroute2.NetlinkError

    async def open(self) -> None:
        """Listen; nothing passes until `watch`."""
        self.watch(())
        await self._netlink.bind(groups=_GROUPS)

    def watch(self, indexes: Collection[int]) -> None:
        """From now on these links and no others."""
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in loss_filter(indexes))
        held = ctypes.create_string_buffer(code)
        program = struct.pack("HP", len(code) // 8, ctypes.addressof(held))
        self._netlink.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    async def losses(self) -> list[int]:
        """Wait for messages; the links that they are about. OSError (ENOBUFS) when some were lost: look at all links."""
        try:
            return [message["index"] async for message in self._netlink.get()]
        except self._error as error:
            raise OSError(error.args[0], "cannot read messages about links", "rtnetlink") from error

    def close(self) -> None:
        self._netlink.close()
