"""Who is at the other end of the socket, and loading stack files with that user's rights instead of the daemon's."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from pystack.kernel.fsuser import file_access_of

T = TypeVar("T")

#: asm-generic/socket.h; Python does not name it.
_SO_PEERGROUPS = 59
_MOST_GROUPS = 65536  # NGROUPS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def is_daemon(self) -> bool:
        """Whether the caller's rights are the daemon's own."""
        return self.uid == os.geteuid()


def caller_of(request: web.Request) -> Caller:
    """The peer of a unix socket as the kernel knows it; somebody without rights when it is no unix socket."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        return Caller(uid=65534, gid=65534)
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid == os.geteuid():
        return Caller(uid=uid, gid=gid)
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    return Caller(uid=uid, gid=gid, groups=struct.unpack(f"{len(raw) // 4}I", raw))


async def with_rights_of(caller: Caller, work: Callable[[], T]) -> T:
    """Run blocking work in a thread with the caller's rights to files."""
    if caller.is_daemon:
        return await asyncio.to_thread(work)
    return await _own_thread(caller, work)


async def _own_thread(caller: Caller, work: Callable[[], T]) -> T:
    """A thread that took on another user's rights never goes back to a pool."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None

    def run() -> None:
        try:
            with file_access_of(caller.uid, caller.gid, list(caller.groups)):
                result = work()
        except BaseException as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=run, name=f"load as {caller.uid}", daemon=True).start()
    return await future
