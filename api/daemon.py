"""The daemon: an instance goes in; its engine, stacks and API server run until it is told to stop.

One daemon per instance: a lock file in the run directory says so. SIGTERM, SIGINT and POST /daemon/stop end it in an
orderly way, and containers go on without it (unless `live-restore` is off); SIGHUP reads the configuration file again;
SIGUSR1 writes every task's and thread's stack to the log. It can be started by hand, by the command line, or by systemd.
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
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from pystack import __version__
from pystack.api import configuration
from pystack.api.configuration import Configuration, Listening
from pystack.api.systemd import Notifier, passed_sockets
from pystack.kernel.failpoints import failpoint
from pystack.kernel.usage import process_facts
from pystack.model.errors import Conflict, EngineError, PystackError
from pystack.model.names import Instance
from pystack.model.settings import Settings

if TYPE_CHECKING:
    import ssl

    from pystack.engine.engine import Engine

log = logging.getLogger("pystack.daemon")

#: Seconds that a daemon which is ending may hold its lock; one that serves answers before.
_LOCK_LIMIT = 10.0
#: Seconds between two looks at the daemon's own memory, and the KiB by which it may have grown since it was least.
_LOOK_EVERY = 1.0
_GROWTH = 8 * 1024


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


def run_daemon(instance: Instance, flags: Mapping[str, Any] | None = None, *, file: str = "") -> None:
    """Serve until told to stop, configured by a file and by flags (`api.configuration`).

    Raises Conflict when another daemon serves this instance, InvalidInput or EngineError when it cannot serve.
    """
    if os.geteuid() != 0:
        raise EngineError("cannot run the daemon: it needs root", hint="sudo pystack daemon")
    given = dict(flags or {})
    path = file or configuration.file_of(instance)
    loaded = configuration.load(path, given)
    os.umask(0o077)
    _close_stdin()
    _make_directories(instance)
    with _lock(instance):
        logging.basicConfig(
            level=_level(loaded.settings),
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )

        def reload() -> configuration.Configuration:
            return configuration.load(file or configuration.file_of(instance), given)

        asyncio.run(_serve(instance, loaded, reload))


def _level(settings: Settings) -> str:
    return "DEBUG" if settings.debug else os.environ.get("PYSTACK_LOG", "INFO").upper()


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


async def _serve(instance: Instance, loaded: Configuration, reload: Callable[[], Configuration]) -> None:
    from pystack.api import listeners
    from pystack.api.context import DaemonFacts
    from pystack.api.server import ApiServer, build_app
    from pystack.api.stacks import add_routes
    from pystack.engine.engine import Engine
    from pystack.reconciler.stacks import StackService

    facts = DaemonFacts(instance=instance, version=__version__, pid=os.getpid())
    notify, passed, listening = Notifier(), passed_sockets(), loaded.listening
    _signals(facts.stop)
    tls = _tls(listening, passed)
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine.open(instance, loaded.settings))
        facts.launcher_pid = engine.launcher_pid
        facts.settings = lambda: engine.settings
        stack.push_async_callback(facts.plugins.close)
        app = build_app(engine, facts)
        stacks = StackService(engine, engine.documents("stacks"))
        add_routes(app, stacks)
        server = ApiServer(app)
        opened = listeners.open_all(instance.socket, listening, passed)
        stack.callback(listeners.close_all, opened)
        await server.start([listener.sock for listener in opened], tls)
        stack.push_async_callback(server.stop)
        await stack.enter_async_context(stacks.running())
        _on_hangup(lambda: _reload(engine, listening, reload, notify))
        failpoint("api.daemon.serving")
        notify.ready()
        alive = asyncio.create_task(notify.keep_alive(), name="watchdog")
        stack.callback(alive.cancel)
        log.info(
            "pystack %s serves %s on %s (instance %s)",
            __version__,
            instance.root,
            ", ".join(listener.address for listener in opened),
            instance.id,
        )
        await asyncio.to_thread(_warm_up)
        collecting = asyncio.create_task(_collect_rubbish(), name="rubbish")
        stack.callback(collecting.cancel)
        await facts.stop.wait()
        notify.stopping()
        if engine.settings.live_restore:
            log.info("stopping; containers keep running")
        else:
            await _stop_containers(engine)


def _tls(listening: Listening, passed: list[socket.socket]) -> ssl.SSLContext | None:
    """The context of TCP listeners, None when there are none."""
    address = next((host for host in listening.hosts if host.startswith("tcp://")), None)
    if any(sock.family != socket.AF_UNIX for sock in passed):
        address = address or "the TCP socket that systemd passed"
    if address is None:
        return None
    from pystack.api.tls import context_of

    return context_of(listening, address)


async def _stop_containers(engine: Engine) -> None:
    """All at once, each with its own time to stop, and together not longer than the configuration says."""
    log.info("stopping, and the containers with it")
    limit = engine.settings.shutdown_timeout
    try:
        async with asyncio.timeout(None if limit < 0 else limit):
            await engine.stop_containers()
    except TimeoutError:
        log.warning("some containers have not stopped within %d s: they keep running", limit)


def _reload(engine: Engine, first: Listening, reload: Callable[[], Configuration], notify: Notifier) -> None:
    """SIGHUP: read the file again. A file that cannot be used changes nothing."""
    notify.reloading()
    try:
        loaded = reload()
    except PystackError as error:
        log.error("%s: going on with the old configuration", error.message)  # noqa: TRY400 - no traceback for users
    else:
        if loaded.listening != first:
            log.warning("hosts, group and TLS files change with the next start of the daemon only")
        logging.getLogger().setLevel(_level(loaded.settings))
        engine.reload(loaded.settings)
        log.info("the configuration was read again")
    notify.ready()


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


async def _collect_rubbish() -> None:
    """Look for cycles when memory has grown: the collector counts objects, and a few can hold megabytes of buffers."""
    own = os.getpid()
    least = _resident(own)
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        now = _resident(own)
        if now - least > _GROWTH:
            gc.collect()
            now = least = _resident(own)
        least = min(least, now)


def _resident(pid: int) -> int:
    facts = process_facts(pid)
    return facts.resident if facts else 0


def _signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _dump_tasks, sys.stderr)
    _on_hangup(lambda: log.info("SIGHUP: the configuration has only just been read"))


def _on_hangup(act: Callable[[], None]) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)


def _dump_tasks(out: TextIO) -> None:
    """Where every task and thread is: for an engine that seems stuck. Lines of code only, no values."""
    faulthandler.dump_traceback(file=out, all_threads=True)
    for task in asyncio.all_tasks():
        out.write(f"task {task.get_name()}\n")
        out.writelines("".join(traceback.format_stack(frame, limit=1)) for frame in task.get_stack(limit=12))
    out.flush()
