"""Resource use and process lists of a container. Flows in: cgroup figures and /proc. Flows out: Docker's stats and top."""

from __future__ import annotations

import functools
import pwd
import time
from collections.abc import Callable, Mapping

from pystack.engine import clock
from pystack.engine.container import Container
from pystack.engine.interface import Stats
from pystack.engine.services import Services
from pystack.kernel.usage import ProcessFacts, network_counters, process_facts
from pystack.model.errors import InvalidInput
from pystack.model.observed import NEVER

_TIMES = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
_THROTTLING = {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
#: CPU figures of what has not run: clients compute differences with them.
NO_CPU: Mapping[str, object] = {"cpu_usage": _TIMES, "throttling_data": _THROTTLING}
_BLOCK_LISTS = (
    "io_service_bytes io_serviced io_queue io_service_time io_wait_time io_merged io_time sectors".split()  # noqa: SIM905
)


def _empty() -> dict[str, object]:
    """The sample of a container that does not run: Docker's, all zeros and no times."""
    return {
        "read": NEVER,
        "preread": NEVER,
        "pids_stats": {},
        "blkio_stats": {f"{name}_recursive": None for name in _BLOCK_LISTS},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": NO_CPU,
        "precpu_stats": NO_CPU,
        "memory_stats": {},
    }


def shared(services: Services, container: Container, max_age: float) -> Stats:
    """A sample that is at most `max_age` seconds old: however many watch a container, it is read once for all of them."""
    now, latest = time.monotonic(), container.latest_stats
    if latest is None or latest[1] is not container.shim or now - latest[0] >= max_age:
        latest = container.latest_stats = (now, container.shim, sample(services, container))
    return latest[2]


def sample(services: Services, container: Container) -> Stats:
    """One sample. A container that does not run has an empty one, as Docker's `stats --no-stream` shows it."""
    if not container.running or container.shim is None:
        return Stats(raw=_empty())
    raw = {**_empty(), "read": clock.now(), **services.cgroups.stats(container.id)}
    if container.config.network_mode != "host":
        raw["networks"] = network_counters(container.shim.pid)
    return Stats(raw=raw)


@functools.lru_cache(maxsize=256)
def _user(uid: int) -> str:
    """The host's name of a uid, as ps on the host shows it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}"


def _start(seconds: float) -> str:
    then = time.localtime(seconds)
    return time.strftime("%H:%M" if time.time() - seconds < 86400 else "%b%d", then)


_Column = tuple[str, Callable[[ProcessFacts], str]]
_COLUMNS: dict[str, _Column] = {
    "uid": ("UID", lambda p: _user(p.uid)),
    "user": ("USER", lambda p: _user(p.uid)),
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.ppid)),
    "c": ("C", lambda _: "0"),
    "stime": ("STIME", lambda p: _start(p.started)),
    "start": ("START", lambda p: _start(p.started)),
    "tty": ("TTY", lambda p: p.tty),
    "time": ("TIME", lambda p: _clock(p.cpu)),
    "stat": ("STAT", lambda p: p.state),
    "vsz": ("VSZ", lambda p: str(p.virtual)),
    "rss": ("RSS", lambda p: str(p.resident)),
    "%cpu": ("%CPU", lambda p: f"{100 * p.cpu / max(time.time() - p.started, 0.01):.1f}"),
    "%mem": ("%MEM", lambda _: "0.0"),
    "comm": ("COMMAND", lambda p: p.name),
    "cmd": ("CMD", lambda p: p.command),
    "args": ("COMMAND", lambda p: p.command),
}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_AUX = ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "args")


def _columns(ps_args: str) -> tuple[_Column, ...]:
    """The columns that ps would show. InvalidInput for arguments that this engine does not know."""
    words = ps_args.split() or ["-ef"]
    names: tuple[str, ...] = ()
    while words:
        word = words.pop(0)
        if word in {"-ef", "-f", "-eF"}:
            names = names or _FULL
        elif word in {"aux", "-aux"}:
            names = names or _AUX
        elif word in {"-o", "-eo", "o"} and words:
            names = tuple(n.partition("=")[0].lower() for n in words.pop(0).split(","))
        elif word not in {"-e", "-A", "ax"}:
            raise InvalidInput(
                f"cannot list processes with {ps_args!r}", hint="use -ef, aux or -o with column names"
            )
    unknown = [n for n in names if n not in _COLUMNS]
    if unknown:
        raise InvalidInput(
            f"cannot list processes: unknown column {unknown[0]}", hint=f"known: {', '.join(_COLUMNS)}"
        )
    return tuple(_COLUMNS[n] for n in names or ("pid", "tty", "time", "cmd"))


def top(services: Services, container: Container, ps_args: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the processes in the container's cgroup; pids are the host's."""
    container.require_running()
    columns = _columns(ps_args)
    found = (process_facts(pid) for pid in sorted(services.cgroups.pids(container.id)))
    return [title for title, _ in columns], [[show(p) for _, show in columns] for p in found if p is not None]
