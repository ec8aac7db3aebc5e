"""Connections of the log drivers to where they send: messages in, OSError when the other end does not take them. asyncio.

A sender connects when it first has something to send, and again after an error. What was sent before an error and may
not have arrived is sent once more by the caller: at least once, in order.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pystack.engine.logdrivers.options import Target, boolean
from pystack.engine.logdrivers.packing import msgpack

if TYPE_CHECKING:
    import ssl

_TIMEOUT = 10.0  # seconds to connect, and for the other end to take a batch
JOURNAL = "/run/systemd/journal/socket"


class Sender(Protocol):
    async def connect(self) -> None: ...

    async def send(self, messages: Sequence[bytes]) -> None:
        """Return when all are on their way (with acknowledgements: when they have arrived)."""
        ...

    def close(self) -> None: ...


def tls_context(options: Mapping[str, str], prefix: str) -> ssl.SSLContext:
    """OSError when a file of it cannot be read."""
    import ssl

    context = ssl.create_default_context(cafile=options.get(f"{prefix}-ca-cert") or None)
    if boolean(options, f"{prefix}-skip-verify", False):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get(f"{prefix}-cert"):
        context.load_cert_chain(options[f"{prefix}-cert"], options.get(f"{prefix}-key") or None)
    return context


class StreamSender:
    """TCP, TLS and unix streams. With `acknowledged` every message is waited for (fluentd's option `chunk`)."""

    def __init__(
        self,
        target: Target,
        tls: Mapping[str, str] | None = None,
        *,
        acknowledged: bool = False,
        wait: float = 0,
    ) -> None:
        self._target, self._tls, self._acknowledged = target, tls, acknowledged
        self._wait = wait or _TIMEOUT
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> None:
        if self._streams is not None:
            reader, writer = self._streams
            if not (writer.is_closing() or reader.at_eof()):
                return
            self.close()
        target = self._target
        async with asyncio.timeout(_TIMEOUT):
            if target.kind == "unix":
                self._streams = await asyncio.open_unix_connection(target.path)
            elif target.kind == "tls":
                context = tls_context(self._tls or {}, "syslog-tls")
                self._streams = await asyncio.open_connection(target.host, target.port, ssl=context)
            else:
                self._streams = await asyncio.open_connection(target.host, target.port)

    async def send(self, messages: Sequence[bytes]) -> None:
        await self.connect()
        assert self._streams is not None
        reader, writer = self._streams
        try:
            async with asyncio.timeout(self._wait):
                if self._acknowledged:
                    for message in messages:
                        await _exchange(reader, writer, message)
                else:
                    writer.write(b"".join(messages))
                    await writer.drain()
                    # An end that was closed is told only after the next write: look before it counts as sent.
                    await asyncio.sleep(0)
                    if reader.at_eof() or writer.is_closing():
                        raise ConnectionResetError(
                            errno.ECONNRESET, "the log server has closed the connection"
                        )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> None:
    """Send one message of the forward protocol and wait for the acknowledgement of its chunk."""
    library = msgpack()
    wanted = library.unpackb(message)[3]["chunk"]
    writer.write(message)
    await writer.drain()
    unpacker = library.Unpacker()
    while True:
        data = await reader.read(4096)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the log server has closed the connection")
        unpacker.feed(data)
        for answer in unpacker:
            if isinstance(answer, dict) and answer.get("ack") == wanted:
                return


class DatagramSender:
    """UDP and unix datagrams; to the journal, what is too big for one goes as a sealed file (its native protocol)."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sock: socket.socket | None = None

    async def connect(self) -> None:
        if self._sock is not None:
            return
        if self._target.kind == "unixgram":
            self._sock = await self._open(socket.AF_UNIX, self._target.path)
            return
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_TIMEOUT):
            found = await loop.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_DGRAM)
        self._sock = await self._open(found[0][0], found[0][4])

    async def _open(self, family: int, address: object) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address)  # type: ignore[arg-type]  # whatever the family has
        except BaseException:
            sock.close()
            raise
        return sock

    async def send(self, messages: Sequence[bytes]) -> None:
        await self.connect()
        assert self._sock is not None
        try:
            async with asyncio.timeout(_TIMEOUT):
                for message in messages:
                    await self._send(self._sock, message)
        except BaseException:
            self.close()
            raise

    async def _send(self, sock: socket.socket, message: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(sock, message)
        except ConnectionRefusedError:
            if self._target.kind == "unixgram":
                raise
            # UDP: an ICMP answer to an earlier datagram. Nobody listens now, and nobody promised to.
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS} or self._target.path != JOURNAL:
                raise
            _send_file(sock, message)

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def _send_file(sock: socket.socket, message: bytes) -> None:
    import fcntl

    fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(message)
        while view:
            view = view[os.write(fd, view) :]
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        sock.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)
