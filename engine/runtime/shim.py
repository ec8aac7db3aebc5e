"""The shim: parent of one container's PID 1. A bundle and fds in; a log, exit.json, and events to the daemon out.

It outlives the daemon, which finds it again by its socket. One epoll loop; standard library only; about 1 MB of its own.

    daemon → shim (control)  {"op": "go"} · {"op": "resize", "rows", "columns"}
    shim → daemon            created + [pidfd, netns] · started · failed · exited · closed
    daemon → shim (socket)   {"op": "watch"}, answered by `watching` + [pidfd, netns], then as control
                             {"op": "attach", "stdin", "stdout", "stderr"}, answered by `attached`, then packets
                             {"op": "exec", "process"} + [control, stdin, stdout, stderr] (a terminal: [control])
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import fcntl
import os
import struct
import termios
import time

from pystack.engine.runtime import child, record, wire
from pystack.engine.runtime.attach import Hub, Poller
from pystack.engine.runtime.execs import Exec
from pystack.engine.runtime.logfile import LogWriter, timestamp
from pystack.engine.runtime.rootfs import window_size
from pystack.kernel import syscalls as sc
from pystack.kernel import userns
from pystack.kernel.cgroup_entry import is_v2, oom_kills
from pystack.kernel.failpoints import failpoint
from pystack.kernel.process import open_namespace, socket_address

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from pystack.engine.runtime.bundle import Bundle, ExitRecord
else:
    import _signal as signal  # without the enumerations of `signal`, for the sake of small forks

_READ = 32 * 1024
_DRAIN_SECONDS = 10.0  # for output that outlives PID 1: descendants in the host's pid namespace may hold it
_TICK = 1.0
_NEW = {"pid": sc.CLONE_NEWPID, "net": sc.CLONE_NEWNET, "ipc": sc.CLONE_NEWIPC, "uts": sc.CLONE_NEWUTS}


class Shim:
    """State of one run of one container."""

    def __init__(self, bundle: Bundle, control: socket.socket, fds: list[int]) -> None:
        self.bundle = bundle
        self.poller = Poller()
        self.cgroups = bundle["cgroups"]
        self.pid = 0
        self.pidfd = self.netns = -1
        self._fds = fds
        self._own: list[int] = []  # descriptors that only the clone needs
        self._control = control
        self._watchers = {control.fileno(): control}
        self._log = LogWriter(bundle["log"]) if bundle["log"]["path"] else None
        self._hub = Hub(self.poller, stdin_once=bundle["stdin_once"])
        self._outputs: dict[int, str] = {}  # fd → stream
        self._paused = False
        self._master = -1
        self._size = (0, 0)
        self._go = self._ready = False
        self._started_at = ""
        self._warnings: list[str] = []
        self._failure: tuple[str, int] | None = None
        self._record: ExitRecord | None = None
        self._ended_at = 0.0
        self._oom_before = oom_kills(self.cgroups)
        self.execs: set[Exec] = set()

    # ---- start

    def start(self) -> None:
        self._listen()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams = child.Streams() if self.bundle["process"]["tty"] else self._make_pipes()
        self._clone(theirs, streams)
        theirs.close()
        wire.close_all(streams.all())
        wire.close_all(self._fds)
        wire.close_all(self._own)
        failpoint("shim.child.cloned")
        self.pidfd = os.pidfd_open(self.pid)
        if self.netns < 0:
            self.netns = open_namespace(self.pid, "net")
        self._sync = mine
        self._sync.setblocking(False)
        self._control.setblocking(False)
        self.poller.watch(mine.fileno(), self._on_sync)
        self.poller.watch(self.pidfd, self._on_exit)
        self.poller.watch(self._control.fileno(), lambda: self._on_watcher(self._control))
        wire.send(self._control, {"event": "created", "pid": self.pid}, [self.pidfd, self.netns])
        failpoint("shim.created.sent")

    def _listen(self) -> None:
        """Access is by the socket's mode: made 0600 by the umask, in a directory that only root may enter."""
        path = self.bundle["socket"]
        if os.path.lexists(path):
            os.unlink(path)  # of a run that was killed; the daemon never has two runs of one container
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        umask = os.umask(0o177)
        try:
            with socket_address(path) as address:
                self._listener.bind(address)
        finally:
            os.umask(umask)
        self._inode = os.lstat(path).st_ino
        self._listener.listen(64)
        self._listener.setblocking(False)
        self.poller.watch(self._listener.fileno(), self._on_connection)
        failpoint("shim.socket.bound")

    def _make_pipes(self) -> child.Streams:
        streams = child.Streams()
        if self.bundle["stdin"]:
            streams.stdin, write = os.pipe()
            self._hub.use_input(write, is_terminal=False)
        for name in ("stdout", "stderr"):
            read, write = os.pipe()
            setattr(streams, name, write)
            self._add_output(read, name)
        return streams

    def _add_output(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = name
        self.poller.watch(fd, lambda: self._on_output(fd))

    def _clone(self, sync: socket.socket, streams: child.Streams) -> None:
        flags, unshare, join = sc.CLONE_NEWNS, 0, {}
        for kind, flag in _NEW.items():
            choice: str = self.bundle["namespaces"][kind]  # type: ignore[literal-required]
            if choice == "new":
                flags |= flag
            elif choice.startswith("fd:"):
                join[kind] = self._fds[int(choice[3:])]
        shm = self.bundle["namespaces"].get("shm", "")
        if shm.startswith("fd:"):
            join["shm"] = self._fds[int(shm[3:])]
        if self.bundle["namespaces"]["cgroup"] == "new":
            unshare = (
                sc.CLONE_NEWCGROUP
            )  # by the child, once it is in its cgroups: they become the namespace's root
        if self.bundle["namespaces"]["user"] != "host":
            flags &= ~self._make_user_namespace(join)
        if "pid" in join:
            self._clone_inside(join.pop("pid"), flags)
        else:
            self.pid = self.clone(flags)
        if self.pid == 0:
            child.run_first_process(self.bundle, sync, streams, join, unshare)

    def _make_user_namespace(self, join: dict[str, int]) -> int:
        """Add to `join` a user namespace and, of those that are to be new, what must belong to it: their flags.

        The pid namespace stays the host's: its first process is one with the host's rights until the last step.
        """
        chosen = self.bundle["namespaces"]
        kinds = [kind for kind in userns.KINDS if chosen[kind] == "new"]  # type: ignore[literal-required]
        user = self._fds[int(chosen["user"][3:])] if chosen["user"].startswith("fd:") else -1
        made = userns.make(self.bundle["uid_map"], self.bundle["gid_map"], kinds, user)
        join.update(made)
        self._own += [fd for fd in made.values() if fd != user]
        if "net" in made:
            self.netns = os.dup(made["net"])
        failpoint("shim.userns.made")
        return sum(userns.KINDS[kind] for kind in kinds)

    def _clone_inside(self, pid_namespace: int, flags: int) -> None:
        """Clone into another's pid namespace, and let later children be born in ours again.

        setns(2) changes where all children to come are born. An exec must begin in our namespace, as with any other
        container: the pids that it tells are of ours, and would mean other processes of the host if they were not.
        """
        ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            sc.setns(pid_namespace, sc.CLONE_NEWPID)
            self.pid = self.clone(flags)
            if self.pid:
                sc.setns(ours, sc.CLONE_NEWPID)
        finally:
            os.close(ours)

    def clone(self, flags: int) -> int:
        """Fork with namespaces; born in the v2 cgroup, if there is one."""
        for directory in self.cgroups:
            if is_v2(directory):
                fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    return sc.clone3(flags, cgroup=fd)
                finally:
                    os.close(fd)
        return sc.clone3(flags)

    # ---- loop

    def run(self) -> None:
        while not self._is_over():
            self._balance()
            self.poller.run_once(self._timeout())
            self._hub.drop_stuck()
        self._hub.close()

    def _timeout(self) -> float:
        if self._log and self._log.work():
            return 0
        return _TICK if self._record or not self._hub.is_drained else -1

    def _balance(self) -> None:
        """Read output only while every client has room."""
        if self._hub.is_full != self._paused:
            self._paused = not self._paused
            for fd in self._outputs:
                if self._paused:
                    self.poller.forget(fd)
                else:
                    self.poller.watch(fd, lambda fd=fd: self._on_output(fd))  # type: ignore[misc]

    def _is_over(self) -> bool:
        if self._record is None:
            return False
        if self._paused:
            self._ended_at = time.monotonic()
            return False
        late = time.monotonic() - self._ended_at > _DRAIN_SECONDS
        if self._outputs and not late:
            return False
        self._close()
        return late or (self._hub.is_drained and not self.execs)

    def _close(self) -> None:
        """All output is in the log and on its way to the clients: say so, once."""
        if self._listener.fileno() < 0:
            return
        if self._log:
            self._log.close()
            self._log = None
        self.poller.forget(self._listener.fileno())
        self._listener.close()
        self._remove_socket()
        failpoint("shim.socket.removed")
        self._tell({"event": "closed"})

    def _remove_socket(self) -> None:
        """Unless a daemon that undid this run has: the name may belong to the next run's shim by now."""
        path = self.bundle["socket"]
        try:
            if os.lstat(path).st_ino == self._inode:
                os.unlink(path)
        except FileNotFoundError:
            return

    def _tell(self, event: wire.Message) -> None:
        for watcher in list(self._watchers.values()):
            try:
                wire.send(watcher, event)
            except OSError:
                self._forget_watcher(watcher)

    def _forget_watcher(self, watcher: socket.socket) -> None:
        self.poller.forget(watcher.fileno())
        self._watchers.pop(watcher.fileno(), None)
        watcher.close()

    # ---- the container

    def _on_output(self, fd: int) -> None:
        self._pump(fd)

    def _pump(self, fd: int) -> bool:
        """Move one read of output to the log and the clients; False when there is nothing now."""
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process has closed the terminal
            data = b""
        if not data:
            self.poller.forget(fd)
            del self._outputs[fd]
            os.close(fd)
            return False
        stream = self._outputs[fd]
        if self._log:
            self._log.write(stream, data)
        self._hub.publish(stream, data)
        return True

    def _on_sync(self) -> None:
        """What the child says while it sets itself up. The end of the stream after `ready`: the program runs."""
        while True:
            try:
                message, fds = wire.receive(self._sync)
            except BlockingIOError:
                return
            except wire.Closed:
                break
            if "pty" in message:
                self._use_terminal(fds.pop())
            elif "ready" in message:
                self._ready = True
                self._warnings = message["warnings"]
            elif "error" in message:
                self._failure = (message["error"], message["exit_code"])
                break  # closing the line lets it go
            wire.close_all(fds)
        self.poller.forget(self._sync.fileno())
        self._sync.close()
        if self._ready and not self._failure:
            self._started_at = timestamp(time.time_ns())
            self._tell({"event": "started", "started_at": self._started_at, "warnings": self._warnings})

    def _use_terminal(self, master: int) -> None:
        self._master = master
        self._add_output(os.dup(master), "stdout")
        if self.bundle["stdin"]:
            self._hub.use_input(os.dup(master), is_terminal=True)
        if any(self._size):
            self._resize(*self._size)

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, window_size(rows, columns))

    def _on_exit(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        if self._sync.fileno() >= 0:
            self._on_sync()
        for fd in list(self._outputs):
            while not self._hub.is_full and self._pump(fd):
                pass  # what PID 1 has written is in the log before anyone hears that it is gone
        if self._log and not self._outputs:
            self._log.flush()
        self.poller.forget(self.pidfd)
        os.close(self.netns)  # or the network namespace, and its links, would live as long as this process
        if not self._started_at and not self._failure:
            code = os.waitstatus_to_exitcode(status)
            self._failure = (f"cannot start: the first process ended with {code} while it was set up", 125)
        error, code = self._failure or ("", status)
        self._record = record.make(
            container_id=self.bundle["id"],
            run=self.bundle["run"],
            pid=self.pid,
            status=code,
            error=error,
            oom_killed=oom_kills(self.cgroups) > self._oom_before,
        )
        record.save(self.bundle["directory"], self._record)
        self._ended_at = time.monotonic()
        if error:
            self._tell({"event": "failed", "message": error, "exit_code": code, "record": self._record})
        else:
            dropped = self._log.dropped if self._log else 0
            self._tell({"event": "exited", "record": self._record, "log_dropped": dropped})
        self._hub.input.abort()

    # ---- the daemon

    def _on_watcher(self, watcher: socket.socket) -> None:
        try:
            message, fds = wire.receive(watcher)
        except BlockingIOError:
            return
        except (wire.Closed, OSError, ValueError):
            self._forget_watcher(watcher)
            if not self._go:  # the daemon went away before the network was wired: nothing has started
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            return
        wire.close_all(fds)
        if message["op"] == "go" and not self._go:
            self._go = True
            failpoint("shim.go.received")
            self._send_go()
        elif message["op"] == "resize":
            self._resize(message["rows"], message["columns"])

    def _send_go(self) -> None:
        try:
            wire.send(self._sync, {"go": True})
        except OSError:
            pass  # the child has failed; its report is on the way

    def _on_connection(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        if uid != os.geteuid():
            connection.close()
            return
        connection.setblocking(False)
        self.poller.watch(connection.fileno(), lambda: self._on_request(connection))

    def _on_request(self, connection: socket.socket) -> None:
        """The first packet of a connection says what it is for."""
        self.poller.forget(connection.fileno())
        try:
            message, fds = wire.receive(connection)
            operation = message.get("op")
            if operation == "watch":
                self._add_watcher(connection)
            elif operation == "attach":
                streams = frozenset(name for name in ("stdout", "stderr") if message[name])
                wire.send(connection, {"event": "attached", "tty": self.bundle["process"]["tty"]})
                self._hub.add(connection, streams=streams, stdin=message["stdin"])
            else:
                connection.close()
                if operation == "exec" and fds:
                    Exec(self, message["process"], fds)
                    fds = []
            wire.close_all(fds)
        except (wire.Closed, OSError, ValueError, KeyError):
            connection.close()

    def _add_watcher(self, connection: socket.socket) -> None:
        answer = {
            "event": "watching",
            "id": self.bundle["id"],
            "run": self.bundle["run"],
            "directory": self.bundle["directory"],
            "pid": self.pid,
            "started_at": self._started_at,
            "tty": self.bundle["process"]["tty"],
        }
        if self._record:
            wire.send(connection, answer)
            wire.send(connection, {"event": "exited", "record": self._record, "log_dropped": 0})
        else:
            wire.send(connection, answer, [self.pidfd, self.netns])
        self._watchers[connection.fileno()] = connection
        self.poller.watch(connection.fileno(), lambda: self._on_watcher(connection))


def run(body: bytes, fds: list[int]) -> NoReturn:
    """The life of a shim, in the process that the launcher has just forked for it. `fds`: as the request brought them."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds.pop(0))
    directory = ""
    try:
        os.setsid()
        sc.set_name(b"pystack-shim")
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        bundle: Bundle = wire.decode(body, fds)  # type: ignore[assignment]
        directory = bundle["directory"]
        shim = Shim(bundle, control, fds)
        shim.start()
        shim.run()
        os._exit(0)
    except BaseException as error:  # nobody above can report it
        _report_fault(control, directory, error)
    finally:
        os._exit(1)


def _report_fault(control: socket.socket, directory: str, error: BaseException) -> None:
    """A failure of the shim itself: told to the daemon if it still listens, and kept beside exit.json."""
    try:
        message = f"cannot supervise the container: {error}"
        wire.send(control, {"event": "failed", "message": message, "exit_code": 125, "record": None})
    except OSError:
        pass
    if directory:
        frames, trace = [], error.__traceback__
        while trace:
            frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
            trace = trace.tb_next
        with open(f"{directory}/shim.log", "a", encoding="utf-8") as file:
            file.write(f"{timestamp(time.time_ns())} {error!r} at {' < '.join(reversed(frames))}\n")
