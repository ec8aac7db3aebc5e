"""The daemon: an instance goes in; its engine, stacks and API server run until it is told to stop.

One daemon per instance: a lock file in the run directory says so. SIGTERM, SIGINT and POST /daemon/stop end it in an
orderly way, and containers go on without it; SIGUSR1 writes every task's and thread's stack to the log. It can be
started by hand, by the command line, or by systemd with `LISTEN_FDS` and `NOTIFY_SOCKET` (sd_listen_fds(3), sd_notify(3)).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TextIO

from pystack import __version__
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import Conflict, EngineError, PystackError
from pystack.model.names import Instance

log = logging.getLogger("pystack.daemon")

_SD_FIRST_FD = 3
#: Seconds that a daemon which is ending may hold its lock; one that serves answers before.
_LOCK_LIMIT = 10.0


def instance_of_environment() -> Instance:
    """PYSTACK_ROOT, PYSTACK_RUN and PYSTACK_HOST, or their defaults."""
    root = os.path.abspath(os.environ.get("PYSTACK_ROOT") or "/var/lib/pystack")
    run = os.path.abspath(os.environ.get("PYSTACK_RUN") or "/run/pystack")
    host = os.environ.get("PYSTACK_HOST") or f"unix://{run}/pystack.sock"
    scheme, _, path = host.partition("://")
    if scheme != "unix" or not path.startswith("/"):
        raise EngineError(f"cannot listen on {host}: PYSTACK_HOST must be unix:///absolute/path")
    return Instance(root=root, run=run, socket=path)


def main() -> int:
    """The daemon of the environment's instance; returns the exit status."""
    try:
        run_daemon(instance_of_environment())
    except PystackError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - before there is a log
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def run_daemon(instance: Instance) -> None:
    """Serve until told to stop. Raises Conflict when another daemon serves this instance, EngineError if it cannot."""
    if os.geteuid() != 0:
        raise EngineError("cannot run the daemon: it needs root", hint="sudo pystack daemon")
    os.umask(0o077)
    _close_stdin()
    _make_directories(instance)
    with _lock(instance):
        logging.basicConfig(
            level=os.environ.get("PYSTACK_LOG", "INFO").upper(),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        asyncio.run(_serve(instance))


def _close_stdin() -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def _make_directories(instance: Instance) -> None:
    """`root` is private. `run` is not (clients of a group must reach the socket), what lies in it is."""
    try:
        os.makedirs(instance.root, mode=0o700, exist_ok=True)
        for directory in (instance.run, os.path.dirname(instance.socket)):
            if not os.path.isdir(directory):
                os.makedirs(directory)
                os.chmod(directory, 0o711)  # noqa: S103 - members of a group must reach the socket
    except OSError as error:
        raise EngineError(f"cannot make {error.filename}: {error.strerror}") from error


@contextlib.contextmanager
def _lock(instance: Instance) -> Iterator[None]:
    """Hold the instance's lock, whose file holds our pid. The lock is the kernel's: it ends with the process."""
    path = f"{instance.run}/daemon.pid"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if not _acquired(handle, instance.socket):
            pid = os.read(handle, 32).decode(errors="replace").strip() or "?"
            raise Conflict(
                f"cannot start the daemon: one with pid {pid} serves {instance.root} already",
                hint="pystack daemon --stop",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        os.fchmod(handle, 0o644)
        failpoint("api.daemon.locked")
        yield
    finally:
        os.close(handle)


def _acquired(handle: int, socket_path: str) -> bool:
    """Take the lock. False when one that holds it answers, or does not let go of it: one that ends does, soon."""
    deadline = time.monotonic() + _LOCK_LIMIT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline or _answers(socket_path):
                return False
            time.sleep(0.01)
        else:
            return True


def _answers(path: str) -> bool:
    """Whether a daemon serves there. A process that is being killed still takes connections, but answers none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: pystack\r\nConnection: close\r\n\r\n")
            return client.recv(4) == b"HTTP"
        except OSError:
            return False


def _sockets(instance: Instance, stack: contextlib.AsyncExitStack) -> list[socket.socket]:
    """The sockets that systemd passed, else our own, whose file goes when `stack` is left."""
    from pystack.api.server import bind_socket

    count = int(os.environ.pop("LISTEN_FDS", "0") or 0)
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    os.environ.pop("LISTEN_FDNAMES", None)
    if not (meant and count):
        own = bind_socket(instance.socket)
        stack.callback(_remove_socket, instance.socket)
        return [own]
    passed = [socket.socket(fileno=number) for number in range(_SD_FIRST_FD, _SD_FIRST_FD + count)]
    for sock in passed:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise EngineError(
                "cannot serve on a socket passed by systemd: only unix stream sockets are allowed"
            )
        os.set_inheritable(sock.fileno(), False)
        sock.setblocking(False)
    return passed


def _remove_socket(path: str) -> None:
    """Ours alone while we hold the lock: clients must get "no daemon", not "refused"."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _notify(state: str) -> None:
    """Tell systemd, if it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), target)
        except OSError as error:
            log.warning("cannot notify %s: %s", address, error.strerror)


async def _serve(instance: Instance) -> None:
    from pystack.api.context import DaemonFacts
    from pystack.api.server import ApiServer, build_app
    from pystack.api.stacks import add_routes
    from pystack.engine.engine import Engine
    from pystack.reconciler.stacks import StackService

    facts = DaemonFacts(instance=instance, version=__version__, pid=os.getpid())
    _signals(facts.stop)
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine.open(instance))
        facts.launcher_pid = engine.launcher_pid
        app = build_app(engine, facts)
        stacks = StackService(engine, engine.documents("stacks"))
        add_routes(app, stacks)
        server = ApiServer(app)
        await server.start(_sockets(instance, stack))
        stack.push_async_callback(server.stop)
        await stack.enter_async_context(stacks.running())
        failpoint("api.daemon.serving")
        _notify(f"READY=1\nMAINPID={os.getpid()}")
        log.info(
            "pystack %s serves %s on %s (instance %s)",
            __version__,
            instance.root,
            instance.socket,
            instance.id,
        )
        await asyncio.to_thread(_warm_up)
        await facts.stop.wait()
        log.info("stopping; containers keep running")
        _notify("STOPPING=1")


def _warm_up() -> None:
    """Import and build what the first requests need, now that the daemon answers. (Requests wait for the same imports.)"""
    for name in ("networkx", "pystack.stackfile.load", "pystack.stackfile.canonical"):
        importlib.import_module(name)
    from pystack.api.docker.wire import ContainerBody

    ContainerBody.model_rebuild()
    # What exists now lives as long as the daemon: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # Requests make thousands of objects that are no rubbish yet: look rarely (it was 5 % of the time of an `up`).
    gc.set_threshold(20_000, 20, 20)


def _signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(
        signal.SIGHUP, lambda: log.info("SIGHUP: there is no configuration to read again")
    )
    loop.add_signal_handler(signal.SIGUSR1, _dump_tasks, sys.stderr)


def _dump_tasks(out: TextIO) -> None:
    """Where every task and thread is: for an engine that seems stuck. Lines of code only, no values."""
    faulthandler.dump_traceback(file=out, all_threads=True)
    for task in asyncio.all_tasks():
        out.write(f"task {task.get_name()}\n")
        out.writelines("".join(traceback.format_stack(frame, limit=1)) for frame in task.get_stack(limit=12))
    out.flush()
