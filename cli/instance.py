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
#: Exit status of a daemon that finds another one serving its instance (EX_TEMPFAIL of sysexits.h).
LOST_RACE = 75
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
    log, lock = f"{run}/daemon.log", f"{run}/daemon.pid"
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PYSTACK_ROOT": root, "PYSTACK_RUN": run, "PYSTACK_HOST": host}
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        pid = _spawn(log, environment)
        status = _answers_or_ends(client, pid, deadline)
        if status is None:
            note(f"started the engine (pid {pid}, log {log})")
            return
        if status != LOST_RACE:
            fail(f"cannot start the engine: {_last_line(log)}", hint=f"see {log}")
        if _other_answers(client, lock, deadline):
            return
    fail(
        f"cannot start the engine: it does not answer on {client.path} within {START_LIMIT:.0f} s",
        hint=f"see {log}",
    )


def _spawn(log: str, environment: dict[str, str]) -> int:
    return os.posix_spawn(
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


def _answers_or_ends(client: Client, pid: int, deadline: float) -> int | None:
    """None once a daemon answers, else our daemon's exit status."""
    while time.monotonic() < deadline:
        try:
            client.connect().close()
        except EngineUnreachable:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        else:
            return None
    fail(f"cannot start the engine: it does not answer on {client.path} within {START_LIMIT:.0f} s")


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


def _other_answers(client: Client, lock: str, deadline: float) -> bool:
    """Another daemon won the race to start: whether it answers before it ends."""
    while time.monotonic() < deadline:
        held = is_locked(lock)
        try:
            client.connect().close()
        except EngineUnreachable:
            if not held:
                return False
            time.sleep(0.02)
        else:
            return True
    return False


def _last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read()[-2000:].strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it ended at once"
