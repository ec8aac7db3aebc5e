"""The launcher: forks a shim for every bundle. Packets with fds in, processes out.

One for each daemon, single-threaded, everything imported, garbage collector frozen: a fork costs about a millisecond and
shares its pages. It does nothing with a bundle but pass it on, so no bundle can break it. It ends with the daemon's end
of its socket; shims live on. Standard library only (a test holds `sys.modules` to a list).
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import gc
import os
import sys

from pystack.engine.runtime import shim, wire
from pystack.kernel import syscalls as sc
from pystack.kernel.cgroup_entry import enter
from pystack.kernel.failpoints import failpoint
from pystack.kernel.process import write_self

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enumerations of `signal`, for the sake of small forks

SOCKET_FD = 3


def serve(sock: socket.socket) -> None:
    """Fork one shim for each packet, until the daemon is gone."""
    while True:
        try:
            body, fds = wire.receive_packet(sock)
        except (wire.Closed, ConnectionResetError):
            return
        try:
            if os.fork() == 0:
                sock.close()
                shim.run(body, fds)
        except OSError as error:
            _refuse(fds, f"cannot fork: {error.strerror}")
        failpoint("launcher.shim.forked")
        wire.close_all(fds)


def _refuse(fds: list[int], message: str) -> None:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds.pop(0))
    try:
        wire.send(control, {"event": "failed", "message": message, "exit_code": 125, "record": None})
    except OSError:
        pass  # the daemon has given up on this container
    finally:
        control.close()


def prepare(cgroups: list[str]) -> None:
    """Make this process one that may be forked into containers: alone, dull, and with nothing left to load."""
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    sc.set_name(b"pystack-launch")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for internal in (32, 33):
        sc.default_signal(internal)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # SIGCHLD: the kernel reaps the shims
    # A container's PID 1 cannot end before whatever a shim has brought into its pid namespace is reaped (exec). If a shim
    # is killed that is up to us: the host's init may be slow at it, or a program that does not care.
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        write_self(
            "oom_score_adj", "-999"
        )  # the kernel shall not choose a supervisor; containers set their own
    except PermissionError:
        pass  # needs CAP_SYS_RESOURCE
    os.chdir("/")
    os.umask(0o022)
    sc.close_range(SOCKET_FD + 1)
    for directory in cgroups:
        enter(directory)
    _preload()
    os.environ.clear()
    sys.path.clear()
    sys.meta_path.clear()  # an import after this is a fault, and fails
    gc.disable()
    gc.collect()
    gc.freeze()


def _preload() -> None:
    """Touch what is otherwise loaded at first use: codecs, error handlers, time formatting."""
    for encoding in ("utf-8", "ascii", "latin-1"):
        b"x".decode(encoding, "replace").encode(encoding, "surrogateescape")
    wire.decode(wire.encode({"preload": [1, "é", None]}).encode(), [])


def main() -> None:
    """argv[1:]: the cgroup directories to enter. SOCKET_FD: the line to the daemon."""
    prepare(sys.argv[1:])
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=SOCKET_FD)
    os.set_inheritable(SOCKET_FD, False)
    serve(sock)
    os._exit(0)
