"""Messages between daemon, launcher, shim and child: JSON objects and fds in packets of SOCK_SEQPACKET sockets.

One packet is one message. A message that is too long for a packet travels in a memfd, as the last fd of a packet that
says so: a bundle with its seccomp program may be longer than the kernel lets a packet be. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Sequence

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from typing import Any

Message = dict[str, "Any"]

PACKET = 64 * 1024  # bytes: the most that is read or written at once
_INLINE = 48 * 1024
_MAX_MESSAGE = 16 * 1024 * 1024
_MAX_FDS = 16
_IN_MEMFD = b"@memfd"
_encode = json.JSONEncoder(separators=(",", ":")).encode
# The C scanner alone, without json's Python around it: every page that a shim touches becomes its own.
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_CLOEXEC = 0x40000000  # MSG_CMSG_CLOEXEC: received fds must not leak into a program that is started meanwhile

STDIN, STDOUT, STDERR, CLOSE_STDIN = b"\x00", b"\x01", b"\x02", b"\x03"


class Closed(Exception):  # noqa: N818 - what happened, not a fault: the peer is gone
    """The other side has closed its end."""


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message. BlockingIOError when the peer does not read, BrokenPipeError when it is gone."""
    body = _encode(message).encode()
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
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the fds that came with it, which the caller owns. Closed at the end of the stream."""
    body, ancillary, _, _ = sock.recvmsg(PACKET + 1, socket.CMSG_SPACE(_MAX_FDS * 4), _CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not body:
        close_all(fds)
        raise Closed
    return body, list(fds)


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
    except StopIteration as error:
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
        with contextlib.suppress(OSError):
            os.close(fd)
