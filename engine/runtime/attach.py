"""Attach sessions in the shim: a container's output fanned out to clients, their input fed to its stdin.

Packets to a client: STDOUT or STDERR and data; from a client: STDIN and data, or CLOSE_STDIN. What a client has not
taken yet is kept for it, up to a bound: then the shim stops reading the container's output, so nothing is lost and the
container waits, as it would on a full pipe. One that holds up others in this way is dropped. Standard library only.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import os
import select
import time

from pystack.engine.runtime import wire

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    Handler = Callable[[], None]
else:
    from _collections import deque  # the package around it is 0.4 MB

HIGH_WATER = 1024 * 1024  # bytes kept for one client before output is held back
STUCK_AFTER = 60.0  # seconds without taking anything, after which a client is dropped
PATIENCE = 1.0  # seconds that a full client may hold up others, after which it is dropped
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Poller:
    """epoll with a handler for each fd."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}

    def watch(self, fd: int, handler: Handler, mask: int = _IN) -> None:
        self._handlers[fd] = handler
        self._masks[fd] = mask
        self._epoll.register(fd, mask)

    def change(self, fd: int, handler: Handler, mask: int) -> None:
        """Watch for `mask` from now on. With 0 the fd leaves the set: epoll would report a hang-up for ever."""
        if not mask:
            self.forget(fd)
        elif fd not in self._masks:
            self.watch(fd, handler, mask)
        elif self._masks[fd] != mask:
            self._masks[fd] = mask
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching; before the fd is closed, because its number will be used again."""
        if self._handlers.pop(fd, None):
            del self._masks[fd]
            self._epoll.unregister(fd)

    def run_once(self, timeout: float) -> None:
        """Wait at most `timeout` seconds (negative: for ever), call the handlers of what is ready."""
        for fd, _ in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)  # an earlier handler may have forgotten it
            if handler:
                handler()


class Input:
    """The container's stdin: bytes wait here while the pipe or terminal is full."""

    def __init__(self, poller: Poller, fd: int, *, is_terminal: bool) -> None:
        self._poller = poller
        self._fd = fd
        self._is_terminal = is_terminal
        self._buffer = bytearray()
        self._closing = False
        self.on_drained: Handler = lambda: None
        if fd >= 0:
            os.set_blocking(fd, False)

    @property
    def is_full(self) -> bool:
        return len(self._buffer) >= wire.PACKET

    def write(self, data: bytes) -> None:
        if self._fd < 0 or self._closing:
            return
        was_empty = not self._buffer
        self._buffer += data
        if was_empty and not self._flush():
            self._poller.watch(self._fd, self._on_writable, _OUT)

    def close(self) -> None:
        """End of file for the process, once all is written. A terminal stays: the process may read on from others."""
        if self._is_terminal or self._closing:
            return
        self._closing = True
        if not self._buffer:
            self.abort()

    def abort(self) -> None:
        if self._fd >= 0:
            self._poller.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._buffer.clear()

    def _flush(self) -> bool:
        """True when nothing is left to write."""
        try:
            while self._buffer:
                del self._buffer[: os.write(self._fd, self._buffer)]
        except BlockingIOError:
            return False
        except OSError:  # EPIPE, EIO: nobody reads any more
            self.abort()
        return True

    def _on_writable(self) -> None:
        if self._flush():
            if self._fd >= 0:
                self._poller.forget(self._fd)
            if self._closing:
                self.abort()
        if not self.is_full:
            self.on_drained()


class Client:
    """One attach session."""

    def __init__(self, hub: Hub, sock: socket.socket, *, streams: frozenset[str], stdin: bool) -> None:
        self._hub = hub
        self._sock = sock
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._blocked_since = 0.0
        self._full_since = 0.0
        self.streams = streams
        self.stdin = stdin
        self.ended = False

    @property
    def is_full(self) -> bool:
        return self._queued >= HIGH_WATER

    @property
    def is_drained(self) -> bool:
        return not self._queue

    def open(self) -> None:
        self._hub.poller.watch(self._sock.fileno(), self._on_ready)

    def send(self, packet: bytes) -> None:
        self._queue.append(packet)
        self._queued += len(packet)
        if self.is_full:
            self._full_since = self._full_since or time.monotonic()
        if len(self._queue) == 1:
            self.flush()

    def flush(self) -> None:
        try:
            while self._queue:
                self._sock.send(self._queue[0], socket.MSG_NOSIGNAL)
                self._queued -= len(self._queue.popleft())
                self._blocked_since = 0.0
            self._full_since = 0.0
        except BlockingIOError:
            self._blocked_since = self._blocked_since or time.monotonic()
        except OSError:
            self.drop()
            return
        self.update()

    def update(self) -> None:
        """Watch for what can be done now: take input unless stdin is full, send what is queued."""
        if self.ended:
            return
        mask = _OUT if self._queue else 0
        if not (self.stdin and self._hub.input.is_full):
            mask |= _IN
        self._hub.poller.change(self._sock.fileno(), self._on_ready, mask)

    def is_stuck(self, now: float, *, alone: bool) -> bool:
        if self._full_since and not alone and now - self._full_since > PATIENCE:
            return True
        return bool(self._blocked_since) and now - self._blocked_since > STUCK_AFTER

    def drop(self) -> None:
        if not self.ended:
            self.ended = True
            self._queue.clear()
            self._queued = 0
            self._hub.poller.forget(self._sock.fileno())
            self._sock.close()
            self._hub.on_client_ended(self)

    def _on_ready(self) -> None:
        if self._queue:
            self.flush()
        if self.ended or (self.stdin and self._hub.input.is_full):
            return
        try:
            packet = self._sock.recv(wire.PACKET + 1)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.drop()
        elif self.stdin and packet[:1] == wire.STDIN:
            self._hub.input.write(packet[1:])
            self.update()
        elif self.stdin and packet[:1] == wire.CLOSE_STDIN:
            self._hub.on_stdin_ended(self)


class Hub:
    """All attach sessions of a container."""

    def __init__(self, poller: Poller, *, stdin_once: bool) -> None:
        self.poller = poller
        self.input = Input(poller, -1, is_terminal=False)
        self._stdin_once = stdin_once
        self._clients: list[Client] = []

    @property
    def is_full(self) -> bool:
        return any(client.is_full for client in self._clients)

    @property
    def is_drained(self) -> bool:
        return all(client.is_drained for client in self._clients)

    def use_input(self, fd: int, *, is_terminal: bool) -> None:
        self.input = Input(self.poller, fd, is_terminal=is_terminal)
        self.input.on_drained = self._on_input_drained

    def add(self, sock: socket.socket, *, streams: frozenset[str], stdin: bool) -> None:
        client = Client(self, sock, streams=streams, stdin=stdin)
        self._clients.append(client)
        client.open()

    def publish(self, stream: str, data: bytes) -> None:
        packet = (wire.STDOUT if stream == "stdout" else wire.STDERR) + data
        for client in list(self._clients):
            if stream in client.streams:
                client.send(packet)

    def on_stdin_ended(self, client: Client) -> None:
        if client.stdin and self._stdin_once:
            self.input.close()

    def on_client_ended(self, client: Client) -> None:
        self._clients.remove(client)
        self.on_stdin_ended(client)

    def drop_stuck(self) -> None:
        now = time.monotonic()
        for client in list(self._clients):
            alone = all(other is client or other.is_full for other in self._clients)
            if client.is_stuck(now, alone=alone):
                client.drop()

    def close(self) -> None:
        for client in list(self._clients):
            client.drop()

    def _on_input_drained(self) -> None:
        for client in list(self._clients):
            client.update()
