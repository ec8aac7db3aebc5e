"""One container: its durable record, and the live object around it. Flows out: `view`, the snapshot callers see.

The record is what the state store keeps, written before the side effect it announces. The live object holds what dies
with the daemon: the lock, the shim's connection, timers and waiters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pystack.engine.interface import Stats, WaitResult
from pystack.engine.merge import argv
from pystack.engine.restarts import RestartManager
from pystack.model.container import ContainerSpec, Mount
from pystack.model.errors import Conflict, EngineError
from pystack.model.names import Instance
from pystack.model.observed import NEVER, ContainerView, EndpointView, HealthProbe, MountView, PublishedPort
from pystack.model.states import ContainerState, Health, transition

if TYPE_CHECKING:
    from pystack.engine.health import HealthMonitor
    from pystack.engine.ports import ShimPort
    from pystack.engine.sessions import LateSession


#: How long a start or removal waits for a copy into the container, seconds.
WRITING_WAIT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRecord:
    """A mount as it was materialised at create: what was asked, and what it became on the host."""

    spec: Mount
    view: MountView
    anonymous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """All that must survive the daemon. `starting`, `removing` and `updating` are intents: a side effect may be half done.

    `spec` is the request as it was made, `config` the same merged with the image. `run` counts starts; the exit record
    of another run says nothing about this one.
    """

    id: str
    name: str
    created: str
    spec: ContainerSpec
    config: ContainerSpec
    image_id: str
    state: ContainerState = ContainerState.CREATED
    run: int = 0
    starting: bool = False
    removing: bool = False
    updating: bool = False  # new limits are recorded and may not be applied yet
    remove_volumes: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    restart_count: int = 0
    manually_stopped: bool = False
    restart_cancelled: bool = False  # by a stop, until the next start by hand
    sandbox: str = ""  # the network service's JSON, "" while there is none
    mounts: tuple[MountRecord, ...] = ()
    upper_dir: str = ""
    health: Health = Health.NONE
    shell: tuple[str, ...] = ()  # the image's SHELL, for CMD-SHELL probes


@cache
def _adapter() -> TypeAdapter[list[ContainerRecord]]:
    # A list around it, because pydantic takes a config (bytes as base64) for a list but not for a plain dataclass.
    return TypeAdapter(
        list[ContainerRecord], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    )


def dump_record(record: ContainerRecord) -> str:
    return _adapter().dump_json([record]).decode()


def load_record(text: str) -> ContainerRecord:
    """ValueError (pydantic's ValidationError among them) when the text is not a record."""
    try:
        (record,) = _adapter().validate_json(text)
    except ValidationError as error:
        raise ValueError(f"cannot read the record: {error.error_count()} errors") from error
    return record


@dataclass(slots=True, kw_only=True)
class HealthState:
    """What the health monitor has found; kept in memory, found anew after a restart of the engine."""

    status: Health = Health.NONE
    failing_streak: int = 0
    log: tuple[HealthProbe, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Container:
    """The live object. Whoever changes `record` or `shim` holds `lock`, which is never held while a process runs on."""

    record: ContainerRecord
    instance: Instance
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Held while files are put into a container that does not run; taken with `lock` held, and never waited for then.
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    shim: ShimPort | None = None
    restarts: RestartManager = field(default_factory=RestartManager)
    started_monotonic: float = 0.0
    backoff: asyncio.Task[None] | None = None
    health: HealthState = field(default_factory=HealthState)
    monitor: HealthMonitor | None = None
    endpoints: tuple[EndpointView, ...] = ()
    published: tuple[PublishedPort, ...] = ()
    exec_ids: set[str] = field(default_factory=set)
    exit_waiters: set[asyncio.Future[WaitResult]] = field(default_factory=set)
    removal_waiters: set[asyncio.Future[WaitResult]] = field(default_factory=set)
    awaiting_start: list[LateSession] = field(default_factory=list)  # attached before the start
    leftovers: bool = False  # a run may have left something that is not released yet
    latest_stats: tuple[float, ShimPort | None, Stats] | None = None  # (monotonic time, run, sample)
    removers: int = 0  # calls that remove it right now
    oom_kills: int = 0  # of the run, as far as told
    end_oom_watch: Callable[[], None] | None = None
    restarting_by_hand: bool = False  # between the stop and the start of a restart: not to be removed by --rm

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def config(self) -> ContainerSpec:
        return self.record.config

    @property
    def running(self) -> bool:
        """A process is there: running or paused."""
        return self.record.state in {ContainerState.RUNNING, ContainerState.PAUSED}

    @property
    def directory(self) -> str:
        return self.instance.container_dir(self.id)

    @property
    def log_path(self) -> str:
        """Where the shim writes the log, "" with the driver none."""
        driver = self.config.log.driver
        if driver == "none":
            return ""
        name = f"{self.id}-json.log" if driver == "json-file" else "container-cached.log"
        return f"{self.directory}/{name}"

    @property
    def run_directory(self) -> str:
        """Where the files of a run are, there from its start to its end."""
        return self.instance.shim_dir(self.id)

    @property
    def shim_socket(self) -> str:
        return f"{self.run_directory}/shim.sock"

    def moved(self, target: ContainerState) -> ContainerRecord:
        """The record in state `target`. Conflict when that move is not allowed."""
        return replace(self.record, state=transition(self.record.state, target, self.name))

    def require_running(self) -> ShimPort:
        """The shim of the running container. Conflict with Docker's message otherwise."""
        if not self.running:
            raise Conflict(f"container {self.id} is not running")
        if self.shim is None:
            raise EngineError(f"cannot reach the shim of container {self.name}", hint="kill and start it")
        return self.shim

    async def written(self, what: str) -> None:
        """Wait until nobody writes to its files while it does not run. Conflict, "cannot `what` …", if that lasts."""
        if not self.writing.locked():
            return
        try:
            async with asyncio.timeout(WRITING_WAIT):
                async with self.writing:
                    pass
        except TimeoutError:
            raise Conflict(
                f"cannot {what} container {self.name}: files are being copied into it",
                hint="wait for the copy to end, or end it",
            ) from None

    def notify_exit(self) -> None:
        """Wake everybody who waits for an exit of this container."""
        result = WaitResult(exit_code=self.record.exit_code, error=self.record.error)
        _resolve(self.exit_waiters, result)

    def notify_removed(self) -> None:
        """Wake those who wait for the end too. A removal that worked carries no error, whatever the last start said."""
        self.notify_exit()
        _resolve(self.removal_waiters, WaitResult(exit_code=self.record.exit_code, error=""))

    def cancel_backoff(self) -> None:
        """Forget a restart that is due. The task that runs the restart itself may call this and is spared."""
        task, self.backoff = self.backoff, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def event_attributes(self, **more: str) -> dict[str, str]:
        """Docker's attributes of a container event: labels, image, name, and what this event adds."""
        return {**self.config.labels, "image": self.record.spec.image, "name": self.name, **more}

    def view(self) -> ContainerView:
        record, config = self.record, self.record.config
        words = argv(config)
        return ContainerView(
            id=record.id,
            name=record.name,
            created=record.created,
            spec=config,
            image=record.spec.image,
            image_id=record.image_id,
            state=record.state,
            pid=record.pid if self.running else 0,
            exit_code=record.exit_code,
            error=record.error,
            oom_killed=record.oom_killed,
            started_at=record.started_at,
            finished_at=record.finished_at,
            restart_count=record.restart_count,
            manually_stopped=record.manually_stopped,
            health=self.health.status,
            failing_streak=self.health.failing_streak,
            health_log=self.health.log,
            path=words[0],
            args=tuple(words[1:]),
            log_path=self.log_path if config.log.driver == "json-file" else "",
            hostname_path=f"{self.run_directory}/hostname",
            hosts_path=f"{self.run_directory}/hosts",
            resolv_conf_path=f"{self.run_directory}/resolv.conf",
            mounts=tuple(m.view for m in record.mounts),
            endpoints=self.endpoints or _waiting_endpoints(config),
            ports=self.published,
            sandbox_id=record.id if record.sandbox else "",
            exec_ids=tuple(sorted(self.exec_ids)),
            upper_dir=record.upper_dir,
        )


def _resolve(waiters: set[asyncio.Future[WaitResult]], result: WaitResult) -> None:
    for future in tuple(waiters):
        if not future.done():
            future.set_result(result)
    waiters.clear()


def networks_of(config: ContainerSpec) -> tuple[str, ...]:
    """Networks a container joins at its next start, by the names or ids that were asked for."""
    mode = config.network_mode
    if mode in {"none", "host"} or mode.startswith("container:"):
        return () if mode not in {"none", "host"} else (mode,)
    named = tuple(e.network for e in config.endpoints)
    return named if mode in named else (mode, *named)


def _waiting_endpoints(config: ContainerSpec) -> tuple[EndpointView, ...]:
    """Endpoints of a container that does not run: the networks that were asked for, without addresses."""
    asked = {e.network: e for e in config.endpoints}
    views = []
    for network in networks_of(config):
        spec = asked.get(network)
        if spec is None:
            views.append(EndpointView(network=network, network_id=""))
        else:
            views.append(
                EndpointView(
                    network=network,
                    network_id="",
                    aliases=spec.aliases,
                    ipam_ipv4=spec.ipv4_address,
                    ipam_ipv6=spec.ipv6_address,
                    gateway_priority=spec.gateway_priority,
                )
            )
    return tuple(views)
