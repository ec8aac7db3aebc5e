"""Messages between daemon, launcher, shim and child: JSON objects and fds in packets of SOCK_SEQPACKET sockets.

One packet is one message. A message that is too long for a packet travels in a memfd, as the last fd of a packet that
says so: a bundle with its seccomp program may be longer than the kernel lets a packet be. Standard library only.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import os
from _json import encode_basestring_ascii, make_encoder, make_scanner
from struct import pack, unpack

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

Message = dict[str, "Any"]

PACKET = 64 * 1024  # bytes: the most that is read or written at once
_INLINE = 48 * 1024
_MAX_MESSAGE = 16 * 1024 * 1024
_MAX_FDS = 16
_IN_MEMFD = b"@memfd"
_FD_SPACE = socket.CMSG_SPACE(_MAX_FDS * 4)
_INT = 4  # bytes of a descriptor in SCM_RIGHTS
_CLOEXEC = 0x40000000  # MSG_CMSG_CLOEXEC: received fds must not leak into a program that is started meanwhile

STDIN, STDOUT, STDERR, CLOSE_STDIN = b"\x00", b"\x01", b"\x02", b"\x03"


class Closed(Exception):  # noqa: N818 - what happened, not a fault: the peer is gone
    """The other side has closed its end."""


class _Rules:
    """What the C scanner asks its decoder for (`json.decoder.JSONDecoder`)."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"cannot send a {type(value).__name__}")


# The C coders alone, without json's Python around them: every page that a shim touches becomes its own.
_chunks = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)
_scan = make_scanner(_Rules)  # type: ignore[arg-type]  # typeshed means the decoder


def encode(message: Mapping[str, Any]) -> str:
    """An object as JSON, ASCII only, in one line."""
    return "".join(_chunks(message, 0))


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message. BlockingIOError when the peer does not read, BrokenPipeError when it is gone."""
    body = encode(message).encode()
    if len(body) <= _INLINE:
        _sendmsg(sock, body, fds)
        return
    memfd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(memfd, view) :]
        _sendmsg(sock, _IN_MEMFD, [*fds, memfd])
    finally:
        os.close(memfd)


def _sendmsg(sock: socket.socket, body: bytes, fds: Sequence[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the fds that came with it, which the caller owns. Closed at the end of the stream."""
    body, ancillary, _, _ = sock.recvmsg(PACKET + 1, _FD_SPACE, _CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += unpack(f"{len(data) // _INT}i", data[: len(data) - len(data) % _INT])
    if not body:
        close_all(fds)
        raise Closed
    return body, fds


def decode(body: bytes, fds: list[int]) -> Message:
    """The message of a packet; takes the memfd, if any, off the end of `fds`."""
    if body == _IN_MEMFD and fds:
        memfd = fds.pop()
        try:
            size = os.fstat(memfd).st_size
            if size > _MAX_MESSAGE:
                raise ValueError(f"cannot take a message of {size} bytes")
            body = os.pread(memfd, size, 0)
        finally:
            os.close(memfd)
    try:
        message, end = _scan(body.decode(), 0)
    except (StopIteration, SystemError, ImportError) as error:
        # The last two are the scanner's, when there is no json.decoder to take JSONDecodeError from: in the launcher.
        raise ValueError("cannot take a message that is not JSON") from error
    if not isinstance(message, dict) or end != len(body):
        raise ValueError("cannot take a message that is not an object")
    return message


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """One message and its fds, which the caller owns. Closed when the peer is gone, ValueError for garbage."""
    try:
        body, fds = receive_packet(sock)
    except ConnectionResetError as error:
        raise Closed from error
    try:
        return decode(body, fds), fds
    except ValueError:
        close_all(fds)
        raise


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass  # not open: nothing to close
