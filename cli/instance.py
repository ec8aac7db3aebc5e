"""Which engine this command talks to, from the environment, and starting its daemon when none answers."""

from __future__ import annotations

import fcntl
import os
import sys
import time

from pystack.cli.client import Client, EngineUnreachable
from pystack.cli.output import fail, note

ROOT = "/var/lib/pystack"
RUN = "/run/pystack"
#: Seconds within which a daemon that was just started must answer.
START_LIMIT = 30.0
#: What a daemon that starts by itself takes over from the caller's environment. Nothing else: it outlives the caller.
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "PYSTACK_FAILPOINTS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def locations(environment: dict[str, str] | None = None) -> tuple[str, str, str]:
    """(root, run, host): PYSTACK_ROOT, PYSTACK_RUN and PYSTACK_HOST or their defaults."""
    env = os.environ if environment is None else environment
    root = os.path.abspath(env.get("PYSTACK_ROOT") or ROOT)
    run = os.path.abspath(env.get("PYSTACK_RUN") or RUN)
    return root, run, env.get("PYSTACK_HOST") or f"unix://{run}/pystack.sock"


def connect(*, start: bool = True) -> Client:
    """A client of the engine, whose daemon is started when it does not run."""
    root, run, host = locations()
    client = Client(host)
    try:
        client.connect().close()
    except EngineUnreachable:
        if not start:
            raise
        _start(client, root, run, host)
    return client


def _start(client: Client, root: str, run: str, host: str) -> None:
    if os.geteuid() != 0:
        fail(
            f"cannot reach the engine at {client.path}, and starting one needs root",
            hint="sudo pystack daemon",
        )
    os.makedirs(run, mode=0o755, exist_ok=True)
    log = f"{run}/daemon.log"
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYSTACK_ROOT": root, "PYSTACK_RUN": run, "PYSTACK_HOST": host}
    began = time.monotonic()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "pystack", "daemon"],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    while time.monotonic() - began < START_LIMIT:
        try:
            client.connect().close()
        except EngineUnreachable:
            done, _ = os.waitpid(pid, os.WNOHANG)
            if done:
                _wait_for_the_other(client, log, f"{run}/daemon.pid")
                return
            time.sleep(0.005)
        else:
            note(f"started the engine (pid {pid}, log {log})")
            return
    fail(
        f"cannot start the engine: it does not answer on {client.path} within {START_LIMIT:.0f} s",
        hint=f"see {log}",
    )


def is_locked(lock: str) -> bool:
    """Whether a daemon holds its lock, which the kernel takes from a process that ends (a zombie's pid lives on)."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _wait_for_the_other(client: Client, log: str, lock: str) -> None:
    """Our daemon ended: either another one won the race to start, and answers soon, or it cannot start at all."""
    deadline = time.monotonic() + START_LIMIT
    while is_locked(lock) and time.monotonic() < deadline:
        try:
            client.connect().close()
        except EngineUnreachable:
            time.sleep(0.02)
        else:
            return
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            last = file.read()[-2000:].strip().splitlines()[-1:]
    except OSError:
        last = []
    fail(f"cannot start the engine: {last[0] if last else 'it ended at once'}", hint=f"see {log}")
