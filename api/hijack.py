"""A connection taken over from HTTP: a request for attach or exec comes in, a two-way byte stream goes out.

Docker's clients send `POST …/attach` (mostly with `Upgrade: tcp`), get `101 UPGRADED` (or 200) and then use the
connection as a pipe; closing their half is end of file on stdin and does not end the output. aiohttp's HTTP parser
would swallow bytes that arrive in one segment with such a request, so `Connection` gives the parser exactly the request
and keeps the rest for the stream. (moby `api/server/httputils/httputils.go` HijackConnection; docker CLI `hijack.go`)
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import select
import socket
import sys
import termios
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web

from pystack.api.context import STREAMING

#: Bytes of client input that are held while nobody reads; above, the socket is not read any more.
MAX_HELD = 1 << 20
_MAX_HEAD = 32 << 10

_TARGET = re.compile(rb"POST (?:/v[0-9.]+)?/(?:containers/[^/? ]+/attach|exec/[^/? ]+/start)[? ]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Hijacked(web.Response):
    """What a handler returns after it took the connection: nothing of it is ever sent."""


class Connection(web.RequestHandler):
    """aiohttp's protocol, with bytes behind an attach or exec request held back, and news of the client's leaving."""

    __slots__ = ("_body_left", "_head", "_held", "_holding", "_watchers")

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._head = b""
        self._held = bytearray()
        self._holding = False
        self._body_left = 0
        self._watchers: set[asyncio.Task[object]] = set()

    def _idle(self) -> bool:
        """Whether the next byte begins a request."""
        waiter = self._waiter
        return self._request_count == 0 or (waiter is not None and not waiter.done())

    def data_received(self, data: bytes) -> None:
        if self._body_left:
            part, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(part)
            super().data_received(part)
            if not data:
                return
        if self._holding:
            self._held += data
            if len(self._held) > MAX_HELD and self.transport is not None:
                self.transport.pause_reading()
        elif self._idle():
            self._request_begins(self._head + data)
        else:
            super().data_received(data)

    def _request_begins(self, data: bytes) -> None:
        self._head = b""
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0 and len(data) < _MAX_HEAD:
            self._head = data
            return
        if end >= 0 and _TARGET.match(data) and not _CHUNKED.search(data, 0, end + 2):
            length = _LENGTH.search(data, 0, end + 2)
            stop = end + 4 + (int(length[1]) if length else 0)
            self._holding = True
            self._body_left = max(0, stop - len(data))
            self._held += data[stop:]
            data = data[:stop]
        super().data_received(data)

    def release(self) -> None:
        """The request was answered as HTTP: held bytes are the next request after all."""
        if not self._holding:
            return
        held = self.take()
        if held:
            super().data_received(held)

    def take(self) -> bytes:
        """Give up the held bytes and stop holding."""
        held = bytes(self._held)
        self._held.clear()
        self._holding = False
        if len(held) > MAX_HELD and self.transport is not None:
            self.transport.resume_reading()
        return held

    def watch(self, task: asyncio.Task[object]) -> None:
        """Cancel `task` when the client leaves."""
        self._watchers.add(task)

    def unwatch(self, task: asyncio.Task[object]) -> None:
        self._watchers.discard(task)

    def connection_lost(self, exc: BaseException | None) -> None:
        watchers, self._watchers = self._watchers, set()
        super().connection_lost(exc)
        for task in watchers:
            task.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp says itself (malformed HTTP), in Docker's form."""
        from pystack.api.errors import error_response, incident

        if isinstance(exc, ConnectionError):
            text = "the client has left"  # nobody reads this
        elif status >= 500 and exc is not None:
            text = incident(exc, "the HTTP server")
        else:
            text = f"cannot read the request: {(message or 'malformed HTTP').splitlines()[0]}"
        response = error_response(status, text)
        response.force_close()
        return response


class ClientStream(asyncio.Protocol):
    """Raw bytes to and from a client. Reading is bounded by MAX_HELD, writing by the transport's high-water mark."""

    def __init__(self, http: Connection, transport: asyncio.Transport, early: bytes) -> None:
        self._http = http
        self._transport = transport
        self._chunks: deque[bytes] = deque([early] if early else [])
        self._size = len(early)
        self._eof = False
        self._reading = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self._reading.set()
        if self._size > MAX_HELD and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._reading.set()
        return True  # only the client's half is closed: keep writing

    def connection_lost(self, exc: BaseException | None) -> None:
        self._eof = True
        self.lost.set()
        self._reading.set()
        self._writable.set()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """The next bytes, b"" when the client has closed its half."""
        while not self._chunks:
            if self._eof:
                return b""
            self._reading.clear()
            await self._reading.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size <= MAX_HELD // 2 and not self.lost.is_set():
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send; waits while the client does not read. Dropped once the client has left (see `lost`)."""
        if self.lost.is_set():
            return
        self._transport.write(data)
        await self._writable.wait()

    async def head_was_read(self, limit: float = 0.1) -> None:
        """Until the client has read the reply's head, at most `limit` seconds.

        docker-py reads it through a buffer that it then throws away: output in the same segment would be lost
        (docker/docker-py `_get_raw_response_socket`). SIOCOUTQ counts what the peer has not read yet, unix(7).
        """
        sock = cast("socket.socket | None", self._transport.get_extra_info("socket"))
        deadline = asyncio.get_running_loop().time() + limit
        while sock is not None and not self.lost.is_set():
            unread = int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
            if not unread or asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.0005)

    async def wait_left(self) -> None:
        """Until the client has left. After its half was closed only a hang-up tells, and asyncio watches for none."""
        while not self.lost.is_set():
            if self._eof and not self._chunks and self._hung_up():
                self._transport.abort()
            try:
                async with asyncio.timeout(1):
                    await self.lost.wait()
            except TimeoutError:
                continue

    def _hung_up(self) -> bool:
        sock = cast("socket.socket | None", self._transport.get_extra_info("socket"))
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # POLLHUP and POLLERR are always reported
        return bool(poll.poll(0))

    def close(self) -> None:
        """Send what is buffered, then close."""
        self._transport.close()

    async def wait_closed(self, limit: float = 10.0) -> None:
        """Until everything is sent and the connection is closed; a client that does not read is cut off after `limit` s."""
        try:
            async with asyncio.timeout(limit):
                await self.lost.wait()
        except TimeoutError:
            self._transport.abort()
            await self.lost.wait()


@asynccontextmanager
async def hijacked(request: web.Request, content_type: str) -> AsyncIterator[ClientStream]:
    """Take the connection of a request whose body has been read; on leaving, what was written is sent and it is closed.

    The reply's head goes out at once. Errors can only be told in the stream from then on.
    """
    stream = _take_over(request, content_type)
    try:
        yield stream
    finally:
        stream.close()
    await stream.wait_closed()


def _take_over(request: web.Request, content_type: str) -> ClientStream:
    transport = request.transport
    http = request.protocol
    if transport is None:
        raise ConnectionResetError("the client has left")
    assert isinstance(http, Connection), "the server makes Connections only"
    stream = ClientStream(http, transport, http.take())
    transport.set_protocol(stream)
    if request.headers.get("Upgrade"):
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
    transport.write(head.encode() + _EXTRA + b"\r\n")
    request[STREAMING] = True
    return stream


_EXTRA = (
    b"Api-Version: 1.50\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: Docker/28.2.2 (linux)\r\n"
)
