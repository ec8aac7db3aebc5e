"""Live streams of a container or an exec on the daemon's side: fds in, an `AttachSession` out. asyncio, no threads."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import socket
import termios
from dataclasses import dataclass, field

from pystack.engine.interface import StreamName
from pystack.engine.runtime import wire
from pystack.engine.runtime.rootfs import window_size
from pystack.model.errors import StartError

_READ = 64 * 1024
_STDIN_PACKET = 32 * 1024
_GRACE = 2.0  # seconds for output that outlives an exec: background processes may hold its pipes for ever
_NAMES: dict[bytes, StreamName] = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}


class AttachStream:
    """An attach session through the shim's socket."""

    def __init__(self, sock: socket.socket, *, tty: bool) -> None:
        self.tty = tty
        self._sock = sock
        self._receiving = False

    async def receive(self) -> tuple[StreamName, bytes] | None:
        if self._sock.fileno() < 0:
            return None
        self._receiving = True
        try:
            packet = await asyncio.get_running_loop().sock_recv(self._sock, wire.PACKET + 1)
        except OSError:
            packet = b""
        finally:
            self._receiving = False
        if not packet:
            self._sock.close()
            return None
        return _NAMES[packet[:1]], packet[1:]

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            chunk, view = view[:_STDIN_PACKET], view[_STDIN_PACKET:]
            await self._send(wire.STDIN + chunk)

    async def close_stdin(self) -> None:
        await self._send(wire.CLOSE_STDIN)

    async def _send(self, packet: bytes) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, packet)
        except OSError:
            pass  # the container has ended: its input is dropped, `receive` tells

    async def close(self) -> None:
        """A `receive` that waits ends with None; it closes the socket, whose fd the loop still knows."""
        if self._receiving:
            self._sock.shutdown(socket.SHUT_RDWR)
        else:
            self._sock.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(slots=True, kw_only=True)
class Pipes:
    """Standard streams of an exec without a terminal: the ends that the daemon keeps, and those it gives away."""

    stdin: int = -1
    outputs: dict[int, StreamName] = field(default_factory=dict)
    theirs: list[int] = field(default_factory=list)

    @classmethod
    def none(cls) -> Pipes:
        return cls()

    @classmethod
    def make(cls, *, stdin: bool) -> Pipes:
        pipes = cls()
        if stdin:
            read, pipes.stdin = os.pipe()
            os.set_blocking(pipes.stdin, False)
        else:
            read = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        pipes.theirs.append(read)
        names: tuple[StreamName, ...] = ("stdout", "stderr")
        for name in names:
            read, write = os.pipe()
            os.set_blocking(read, False)
            pipes.outputs[read] = name
            pipes.theirs.append(write)
        return pipes

    def close(self) -> None:
        wire.close_all([fd for fd in (self.stdin, *self.outputs) if fd >= 0])
        self.stdin = -1
        self.outputs = {}


class ExecProcess:
    """One exec: its events and its streams. An `AttachSession`; the process goes on when it is closed."""

    def __init__(self, control: socket.socket, pipes: Pipes, *, tty: bool) -> None:
        loop = asyncio.get_running_loop()
        self.tty = tty
        self.pid = 0
        self._pidfd = -1
        self.exited: asyncio.Future[int] = loop.create_future()
        self._pipes = pipes
        self._control = control
        self._decided = asyncio.Event()
        self._failure: StartError | None = None
        self._loop = loop
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._closed = False
        loop.add_reader(control.fileno(), self._on_event)

    async def wait_started(self) -> None:
        await self._decided.wait()
        if self._failure:
            raise self._failure

    def signal(self, number: int) -> None:
        """Signal the process; nothing when it has ended."""
        if self._pidfd >= 0 and not self.exited.done():
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass  # it has just ended: `exited` tells

    def resize(self, *, rows: int, columns: int) -> None:
        """Size of the terminal; nothing without one."""
        for fd in self._pipes.outputs if self.tty else ():
            fcntl.ioctl(fd, termios.TIOCSWINSZ, window_size(rows, columns))

    async def receive(self) -> tuple[StreamName, bytes] | None:
        while self._pipes.outputs:
            for fd, name in list(self._pipes.outputs.items()):
                try:
                    data = os.read(fd, _READ)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno != errno.EIO:  # EIO: the last process has closed the terminal
                        raise
                    data = b""
                if data:
                    return name, data
                del self._pipes.outputs[fd]
                if fd != self._pipes.stdin:
                    os.close(fd)
            if self._pipes.outputs and not await self._wait_readable():
                return None
        if not self._closed and not self.exited.done():
            await self._wait_ended()
        return None

    async def _wait_ended(self) -> None:
        """A client asks for the exit code as soon as the output ends: it must be known then."""
        done = self._reading = self._loop.create_future()

        def wake(*_: object) -> None:
            _resolve(done)

        self.exited.add_done_callback(wake)
        try:
            await done
        finally:
            self._reading = None
            self.exited.remove_done_callback(wake)

    async def _wait_readable(self) -> bool:
        """False when the process has ended and what holds its output has kept silent for the grace time."""
        done = self._reading = self._loop.create_future()

        def wake(*_: object) -> None:
            _resolve(done)

        fds = list(self._pipes.outputs)
        for fd in fds:
            self._loop.add_reader(fd, wake)
        ended = self.exited.done()
        if not ended:
            self.exited.add_done_callback(wake)
        try:
            async with asyncio.timeout(_GRACE if ended else None):
                await done
        except TimeoutError:
            return False
        finally:
            self._reading = None
            self.exited.remove_done_callback(wake)
            for fd in (
                self._pipes.outputs
            ):  # those that `close` closed are out of the loop, their numbers in other hands
                self._loop.remove_reader(fd)
        return True

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._pipes.stdin >= 0:
            try:
                view = view[os.write(self._pipes.stdin, view) :]
            except BlockingIOError:
                await self._wait_writable()
            except OSError:
                return  # EPIPE, EIO: the process does not read any more; `receive` tells the rest

    async def _wait_writable(self) -> None:
        done = self._writing = self._loop.create_future()
        self._loop.add_writer(self._pipes.stdin, _resolve, done)
        try:
            await done
        finally:
            self._writing = None
            if self._pipes.stdin >= 0:
                self._loop.remove_writer(self._pipes.stdin)

    def _forget_stdin(self) -> None:
        if self._pipes.stdin >= 0:
            self._loop.remove_writer(self._pipes.stdin)
        if self._writing:
            _resolve(self._writing)

    async def close_stdin(self) -> None:
        if self._pipes.stdin >= 0 and not self.tty:
            self._forget_stdin()
            os.close(self._pipes.stdin)
            self._pipes.stdin = -1

    async def close(self) -> None:
        """Release the streams; `exited` still comes. A `receive` or `send` that waits ends."""
        self._closed = True
        self._forget_stdin()
        for fd in self._pipes.outputs:
            self._loop.remove_reader(fd)
        if self._reading:
            _resolve(self._reading)
        if self.tty:
            self._pipes.stdin = -1  # the same fd as the output
        self._pipes.close()

    def _on_event(self) -> None:
        try:
            while True:
                event, fds = wire.receive(self._control)
                self._handle(event, fds)
        except BlockingIOError:
            return
        except (wire.Closed, OSError):
            self._finish(137)  # the shim was killed, and the exec with it
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    def _handle(self, event: wire.Message, fds: list[int]) -> None:
        kind = event["event"]
        if kind == "pty":
            master = fds.pop()
            os.set_blocking(master, False)
            self._pipes.outputs = {master: "stdout"}
            self._pipes.stdin = master
        elif kind == "started":
            self.pid = event["pid"]
            self._pidfd = fds.pop()
            self._decided.set()
        elif kind == "failed":
            self._failure = StartError(event["message"], exit_code=event["exit_code"])
            self._finish(event["exit_code"])
        elif kind == "exited":
            self._finish(event["exit_code"])
        wire.close_all(fds)

    def _finish(self, exit_code: int) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if not self.exited.done():
            self.exited.set_result(exit_code)
        if not self._decided.is_set() and not self._failure:
            self._failure = StartError("cannot exec in the container: it has ended", exit_code=126)
        self._decided.set()
