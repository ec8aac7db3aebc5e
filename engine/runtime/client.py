"""The daemon's side of the runtime: bundles and fds in; running containers, their events and streams out. asyncio.

`Launcher` keeps the launcher process; `ShimProcess` is one container's shim, launched or found again by its socket.
Nothing here forks, starts a thread or blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

import pystack
from pystack.engine.runtime import launcher, record, wire
from pystack.engine.runtime.bundle import Bundle, ExitRecord, Process
from pystack.engine.runtime.streams import AttachStream, ExecProcess, Pipes
from pystack.kernel.process import fd_path, is_alive, sealed_copy, socket_address
from pystack.model.errors import Conflict, StartError, Unavailable

log = logging.getLogger(__name__)

_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(pystack.__file__)))
_ENTRY = f"import sys; sys.path.append({_SOURCE!r}); from pystack.engine.runtime.launcher import main; main()"
_CREATE_TIMEOUT = 30.0  # seconds for launcher and shim to clone a process
_CONNECT_TRIES = 500  # of 10 ms
_LINGER, _YOUNG = 1.0, 1.0  # seconds, see `Launcher._on_death`
_HIGH_FD = 100  # above the numbers that the launcher is given


async def _ready(fd: int, *, write: bool = False) -> None:
    """Wait until `fd` can be read (or written)."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    add(fd, wake)
    try:
        await done
    finally:
        remove(fd)


async def _connect(path: str) -> socket.socket:
    """A non-blocking connection to a shim's socket. OSError when no shim listens there."""
    for _ in range(_CONNECT_TRIES):
        try:
            return _connect_once(path)
        except BlockingIOError:  # its backlog is full
            await asyncio.sleep(0.01)
    raise TimeoutError(f"cannot connect to {path}: the shim does not answer")


def _connect_once(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with socket_address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Launcher:
    """The launcher process, replaced when it has died. Containers do not depend on it. `pid` is 0 while there is none."""

    def __init__(self, *, cgroups: Sequence[str] = (), log: str = "/dev/null") -> None:
        """`cgroups`: the supervisors' directories, one for each hierarchy; launcher and shims live there.

        `log`: a file for what the launcher says when it cannot go on (a traceback); it says nothing otherwise.
        """
        self._cgroups = list(cgroups)
        self._log = log
        self._socket: socket.socket | None = None
        self._pidfd = -1
        self.pid = 0
        self.warnings: list[str] = []
        self._dead = asyncio.Event()
        self._sending = asyncio.Lock()
        self._started = 0.0
        self._closing = False
        self._successor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, if it does not run. Unavailable when it cannot be started."""
        if self._socket is not None:
            return
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = self._spawn(theirs.fileno())
        except OSError as error:
            mine.close()
            raise Unavailable(f"cannot start the launcher: {error}") from error
        finally:
            theirs.close()
        mine.setblocking(False)
        self._socket = mine
        self._pidfd = os.pidfd_open(self.pid)
        self._dead.clear()
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        loop.add_reader(self._pidfd, self._on_death)

    def _spawn(self, line: int) -> int:
        executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        argv = [executable, "-I", "-S", "-X", "utf8", "-c", _ENTRY, *self._cgroups]
        env = (
            {"PYSTACK_FAILPOINTS": os.environ["PYSTACK_FAILPOINTS"]}
            if "PYSTACK_FAILPOINTS" in os.environ
            else {}
        )
        high = fcntl.fcntl(line, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_OPEN, 2, self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, high, launcher.SOCKET_FD),
        ]
        copy = sealed_copy(executable)
        high_copy = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
        try:
            return os.posix_spawn(fd_path(high_copy), argv, env, file_actions=actions, setsid=True)
        except PermissionError:
            self.warnings = [
                "cannot run the launcher from a sealed copy of Python: memfds are not executable here"
            ]
            return os.posix_spawn(executable, argv, env, file_actions=actions, setsid=True)
        finally:
            wire.close_all([high, copy, high_copy])

    def _on_death(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)  # does not wait: a readable pidfd is a process that has ended
        if self._socket:
            # Not while somebody waits to write: its callback must see the end, not another file of the same number.
            if self._sending.locked():
                loop.call_later(_LINGER, self._socket.close)
            else:
                self._socket.close()
        self._socket = None
        self._pidfd = -1
        self.pid = 0
        self._dead.set()
        if not self._closing:
            young = (
                loop.time() - self._started < _YOUNG
            )  # it may die again at once, and this must not go in circles
            self._successor = loop.create_task(self._replace(_YOUNG if young else 0.0))

    async def _replace(self, delay: float) -> None:
        """Be ready for the next launch, which does not wait for this: it starts one by itself."""
        await asyncio.sleep(delay)
        try:
            await self.start()
        except Unavailable as error:
            log.warning("%s", error)

    async def close(self) -> None:
        """End the launcher. Shims and containers go on."""
        self._closing = True
        if self._successor is not None:
            self._successor.cancel()
        if self._socket is None:
            return
        self._socket.close()
        await self._dead.wait()  # it ends as soon as it sees the end of its socket

    async def launch(self, bundle: Bundle, fds: Sequence[int] = ()) -> ShimProcess:
        """Create the container's first process: it sets itself up and waits for `ShimProcess.go`.

        `fds`: what "fd:N" in the bundle's namespaces refers to; the caller keeps them. StartError when the process
        cannot be made, Unavailable without a launcher. If the launcher died, one more is tried: a request that it
        took along left no process behind, for the control socket would still be open.
        """
        for _ in range(2):
            await self.start()
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            control.setblocking(False)
            try:
                async with asyncio.timeout(_CREATE_TIMEOUT):
                    try:
                        await self._request(bundle, [theirs.fileno(), *fds])
                    finally:
                        theirs.close()
                    await _ready(control.fileno())
                event, received = wire.receive(control)
            except (wire.Closed, BrokenPipeError, ConnectionResetError):
                control.close()
                await asyncio.sleep(0.01)  # let the loop see that the launcher is dead
                continue
            except BaseException:
                control.close()
                raise
            if event["event"] == "failed":
                control.close()
                raise StartError(event["message"], exit_code=event["exit_code"])
            return ShimProcess(
                control, event["pid"], received, bundle["socket"], bundle["directory"], run=bundle["run"]
            )
        raise Unavailable(
            "cannot create the container: the launcher does not stay alive",
            hint=f"its last words are in {self._log}",
        )

    async def _request(self, bundle: Bundle, fds: Sequence[int]) -> None:
        # One at a time: the loop keeps a single writer callback for each fd, a second waiter would replace the first.
        async with self._sending:
            while self._socket is not None:
                try:
                    wire.send(self._socket, bundle, fds)  # type: ignore[arg-type]
                    return
                except BlockingIOError:
                    await _ready(self._socket.fileno(), write=True)
        raise BrokenPipeError


class ShimProcess:
    """One run of one container, as its shim reports it. `exited` and `closed` always come, whatever happens."""

    def __init__(
        self,
        control: socket.socket,
        pid: int,
        fds: Sequence[int],
        socket_path: str,
        directory: str,
        *,
        run: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.pidfd, self.netns_fd = (*fds, -1, -1)[:2]
        self.run = run
        self.socket_path = socket_path
        self.directory = directory
        self.started_at = ""
        self.tty = False
        self.warnings: list[str] = []
        self.log_dropped = 0
        self.exited: asyncio.Future[ExitRecord] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._decided = asyncio.Event()  # started or failed
        self._failure: StartError | None = None
        self._control = control
        loop.add_reader(control.fileno(), self._on_event)

    @classmethod
    async def reconnect(cls, socket_path: str) -> ShimProcess | None:
        """The shim that listens at `socket_path`, None if there is none any more (exit.json tells how it ended)."""
        try:
            control = await _connect(socket_path)
        except OSError:
            return None
        try:
            wire.send(control, {"op": "watch"})
            async with asyncio.timeout(_CREATE_TIMEOUT):
                await _ready(control.fileno())
            event, fds = wire.receive(control)
        except (wire.Closed, OSError):
            control.close()
            return None
        except BaseException:
            control.close()
            raise
        self = cls(control, event["pid"], fds, socket_path, event["directory"], run=event["run"])
        self.started_at = event["started_at"]
        self.tty = event["tty"]
        if self.started_at:
            self._decided.set()
        return self

    def release_netns(self) -> None:
        """Close the network namespace's fd (idempotent). While it is open the namespace and its links live."""
        if self.netns_fd >= 0:
            os.close(self.netns_fd)
            self.netns_fd = -1

    async def go(self) -> None:
        """Let the first process execute its program."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has failed: wait_started tells
            wire.send(self._control, {"op": "go"})

    async def wait_started(self) -> None:
        """Return when the program runs. StartError (125, 126, 127) with the reason when it cannot."""
        await self._decided.wait()
        if self._failure:
            raise self._failure

    async def signal(self, number: int) -> None:
        """Signal PID 1. Conflict when it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except OSError as error:
            raise Conflict("cannot signal the container: it is not running") from error

    def is_alive(self) -> bool:
        return self.pidfd >= 0 and is_alive(self.pidfd)

    async def resize(self, *, rows: int, columns: int) -> None:
        """Set the size of the container's terminal; it does nothing without one, and before it exists it is kept."""
        try:
            wire.send(self._control, {"op": "resize", "rows": rows, "columns": columns})
        except OSError as error:
            raise Conflict("cannot resize the container: it is not running") from error

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> AttachStream:
        """A session from here on (before `go`: from the first byte). Conflict when the container has ended."""
        try:
            sock = await _connect(self.socket_path)
        except OSError as error:
            raise Conflict("cannot attach to the container: it is not running") from error
        try:
            wire.send(sock, {"op": "attach", "stdin": stdin, "stdout": stdout, "stderr": stderr})
            await _ready(sock.fileno())
            answer, _ = wire.receive(sock)
        except (wire.Closed, OSError) as error:
            sock.close()
            raise Conflict("cannot attach to the container: it is not running") from error
        except BaseException:
            sock.close()
            raise
        return AttachStream(sock, tty=answer["tty"])

    async def exec(self, process: Process, *, stdin: bool = False) -> ExecProcess:
        """Run one more program in the container. StartError (126, 127) when it cannot start."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        pipes = Pipes.none() if process["tty"] else Pipes.make(stdin=stdin)
        try:
            with await _connect(self.socket_path) as sock:
                wire.send(sock, {"op": "exec", "process": process}, [theirs.fileno(), *pipes.theirs])
        except OSError as error:
            control.close()
            pipes.close()
            raise Conflict("cannot exec in the container: it is not running") from error
        finally:
            theirs.close()
            wire.close_all(pipes.theirs)
        exec_ = ExecProcess(control, pipes, tty=process["tty"])
        try:
            await exec_.wait_started()
        except BaseException:
            await exec_.close()
            raise
        return exec_

    def close(self) -> None:
        """Stop watching and release every fd; the container goes on (before `go`: it is undone)."""
        self._forget_control()
        self.release_netns()
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def _forget_control(self) -> None:
        if self._control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()

    def _on_event(self) -> None:
        try:
            while True:
                event, fds = wire.receive(self._control)
                wire.close_all(fds)
                self._handle(event)
        except BlockingIOError:
            return
        except (wire.Closed, OSError):
            self._on_end()

    def _handle(self, event: wire.Message) -> None:
        kind = event["event"]
        if kind == "started":
            self.started_at = event["started_at"]
            self.warnings = event["warnings"]
            self._decided.set()
        elif kind == "failed":
            self._failure = StartError(event["message"], exit_code=event["exit_code"])
            self._finish(event["record"] or self._lost(event["message"], event["exit_code"]))
        elif kind == "exited":
            self.log_dropped = event["log_dropped"]
            self._finish(event["record"])
        elif kind == "closed" and not self.closed.done():
            self.closed.set_result(None)

    def _finish(self, exit_record: ExitRecord) -> None:
        if not self.exited.done():
            self.exited.set_result(exit_record)
        self._decided.set()

    def _on_end(self) -> None:
        """The shim is gone. If it never told of an exit it was killed, and PID 1 dies with it (PR_SET_PDEATHSIG)."""
        self._forget_control()
        if self.exited.done() or self.pidfd < 0:
            self._finish_lost()
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        asyncio.get_running_loop().add_reader(self.pidfd, self._on_orphan_gone)

    def _on_orphan_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        self._finish_lost()

    def _finish_lost(self) -> None:
        if not self.exited.done():
            saved = record.load(self.directory)
            if saved is None or saved["run"] != self.run:
                saved = self._lost("the container's shim was killed", 137)
            if not self._decided.is_set():
                self._failure = StartError(
                    f"cannot start the container: {saved['error'] or 'it ended at once'}", exit_code=125
                )
            self._finish(saved)
        if not self.closed.done():
            self.closed.set_result(None)

    def _lost(self, error: str, exit_code: int) -> ExitRecord:
        container_id = os.path.basename(self.directory)
        return record.make(
            container_id=container_id, run=self.run, pid=self.pid, status=exit_code, error=error
        )
