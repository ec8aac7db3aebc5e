"""Execs in the shim: one more process in a running container. A process and fds in, events on its control socket out.

    shim → daemon   {"event": "pty"} + [master] · started · failed · exited

The daemon holds the other ends of the standard streams, so an exec's data never passes the shim. Stdlib only.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import os

from pystack.engine.runtime import child, wire
from pystack.kernel.failpoints import failpoint

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from pystack.engine.runtime.bundle import Process
    from pystack.engine.runtime.shim import Shim


class Exec:
    """One exec, from request to exit."""

    def __init__(self, shim: Shim, process: Process, fds: list[int]) -> None:
        self._shim = shim
        self._poller = shim.poller
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds[0])
        self._control.setblocking(False)
        self._failure: tuple[str, int] | None = None
        self._ready = False
        self._inside = False
        self._pid = 0
        try:
            self._start(process, child.Streams(*fds[1:4]))
        except OSError as error:
            self._tell(
                {
                    "event": "failed",
                    "message": f"cannot exec in the container: {error.strerror}",
                    "exit_code": 126,
                }
            )
            self._control.close()
        finally:
            wire.close_all(fds[1:])

    def _start(self, process: Process, streams: child.Streams) -> None:
        shim = self._shim
        self._sync, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sync.setblocking(False)
        try:
            self._pid = shim.clone(0)
            if self._pid == 0:
                child.run_exec(
                    process,
                    container_id=shim.bundle["id"],
                    cgroups=shim.cgroups,
                    pidfd=shim.pidfd,
                    sync=theirs,
                    streams=streams,
                    uid_map=shim.bundle.get("uid_map", ()),
                )
        except OSError:
            self._sync.close()
            raise
        finally:
            theirs.close()
        failpoint("shim.exec.cloned")
        shim.execs.add(self)
        self._poller.watch(self._sync.fileno(), self._on_sync)
        self._watch()

    def _watch(self) -> None:
        pid, self._pidfd = self._pid, os.pidfd_open(self._pid)
        pidfd = self._pidfd
        self._poller.watch(pidfd, lambda: self._on_exit(pid, pidfd))

    def _hand_over(self, pid: int) -> None:
        """The process is a new one, in the container. Once only: from now on the container may be at the other end."""
        if not self._inside:
            self._inside = True
            self._pid = pid
            self._watch()

    def _tell(self, event: wire.Message, fds: tuple[int, ...] = ()) -> None:
        try:
            wire.send(self._control, event, fds)
        except OSError:
            pass  # the daemon is gone: the exec goes on, its end is of no interest to anyone

    def _on_sync(self) -> None:
        while True:
            try:
                message, fds = wire.receive(self._sync)
            except BlockingIOError:
                return
            except wire.Closed:
                break
            if "pty" in message and not self._inside:
                self._tell({"event": "pty"}, tuple(fds))
            elif "pid" in message:
                self._hand_over(message["pid"])
            elif "ready" in message:
                self._ready = True
            elif "error" in message:
                self._failure = (message["error"], message["exit_code"])
                break  # closing the line lets it go
            wire.close_all(fds)
        self._poller.forget(self._sync.fileno())
        self._sync.close()
        if self._ready and not self._failure:
            self._tell({"event": "started", "pid": self._pid}, (self._pidfd,))

    def _on_exit(self, pid: int, pidfd: int) -> None:
        _, status = os.waitpid(pid, 0)
        if self._sync.fileno() >= 0:
            self._on_sync()
        self._poller.forget(pidfd)
        os.close(pidfd)
        if pid == self._pid:
            self._end(status)

    def _end(self, status: int) -> None:
        failpoint("shim.exec.ended")
        code = os.waitstatus_to_exitcode(status)
        if self._failure is None and not self._ready:
            self._failure = (f"cannot exec: the process ended with {code} while it was set up", 126)
        if self._failure:
            message, code = self._failure
            self._tell({"event": "failed", "message": message, "exit_code": code})
        else:
            self._tell({"event": "exited", "exit_code": 128 - code if code < 0 else code})
        self._control.close()
        self._shim.execs.discard(self)
