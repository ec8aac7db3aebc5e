"""The user's terminal joined to a container: raw mode, window size, and bytes both ways over an upgraded connection."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import tty as raw
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pystack.cli.client import ApiError, Client, EngineUnreachable


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """The terminal passes every key on, until the end."""
    before = termios.tcgetattr(fd)
    raw.setraw(fd, termios.TCSANOW)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def window_size() -> list[int]:
    """[rows, columns] of the user's terminal, as the API's ConsoleSize; [0, 0] without one."""
    if not sys.stdin.isatty():
        return [0, 0]
    size = os.get_terminal_size(sys.stdin.fileno())
    return [size.lines, size.columns]


def watch_size(resize: Callable[[int, int], None]) -> None:
    """Call `resize(rows, columns)` whenever the window changes; the first size goes with the request to start."""

    def changed(*_: object) -> None:
        size = os.get_terminal_size(sys.stdin.fileno())
        try:
            resize(size.lines, size.columns)
        except (OSError, EngineUnreachable, ApiError):
            return  # the program has ended, or the engine has: the main stream tells

    signal.signal(signal.SIGWINCH, changed)


def join(sock: socket.socket, early: bytes, *, stdin: bool, tty: bool) -> None:
    """Copy stdin to the connection and its output to stdout and stderr until the output ends."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if stdin:
        poll.register(sys.stdin.fileno(), select.POLLIN)
    out = _Demux(tty=tty)
    out.feed(early)
    while True:
        for fd, _ in poll.poll():
            if fd == sock.fileno():
                data = sock.recv(65536)
                if not data:
                    return
                out.feed(data)
            else:
                data = os.read(fd, 65536)
                if data:
                    sock.sendall(data)
                else:
                    poll.unregister(fd)
                    sock.shutdown(socket.SHUT_WR)


class _Demux:
    """Docker's multiplexed stream to stdout and stderr; with a tty everything is stdout."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        if self._tty:
            _write(1, data)
            return
        self._buffer += data
        while len(self._buffer) >= 8:
            size = int.from_bytes(self._buffer[4:8], "big")
            if len(self._buffer) < 8 + size:
                return
            _write(2 if self._buffer[0] in {2, 3} else 1, self._buffer[8 : 8 + size])
            self._buffer = self._buffer[8 + size :]


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def attached(
    client: Client,
    path: str,
    body: object,
    *,
    stdin: bool,
    tty: bool,
    resize: str,
    started: Callable[[], None],
) -> None:
    """Open an attach or exec stream, call `started`, and stay joined to it until it ends. `resize` is the route for sizes."""
    response = client.request("POST", path, body, upgrade=True)
    sock, early = response.upgraded()
    started()
    try:
        if tty and sys.stdin.isatty():
            with raw_mode(sys.stdin.fileno()):
                watch_size(lambda rows, columns: client.post(resize, query={"h": rows, "w": columns}))
                join(sock, early, stdin=stdin, tty=tty)
        else:
            join(sock, early, stdin=stdin, tty=tty)
    finally:
        sock.close()
