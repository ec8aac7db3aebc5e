"""An engine in memory: `engine.interface.Engine` without a kernel, with faults to inject, for planner, executor and API tests.

Programs are scripted: `engine.programs["migrate"] = Program(exit_code=0)` decides what a container of that service (or
image, or name) does when it starts; by default it runs until it is stopped. `engine.faults["containers.start:web-1"]`
raises that error (once, or `forever`); `engine.calls` records every call in order.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from pystack.engine.interface import (
    AttachSession,
    Created,
    Filters,
    LogEntry,
    LogOptions,
    Stats,
    WaitResult,
)
from pystack.model.container import (
    ContainerSpec,
    EndpointSpec,
    ExecSpec,
    ImageConfig,
    NetworkSpec,
    Resources,
    RestartPolicy,
    VolumeSpec,
)
from pystack.model.errors import Conflict, InvalidInput, NotFound, NotModified, Unsupported
from pystack.model.names import NAME
from pystack.model.observed import (
    ContainerView,
    EndpointView,
    Event,
    ExecView,
    ImageView,
    MountView,
    NetworkView,
    PublishedPort,
    VolumeView,
)
from pystack.model.states import ContainerState, Health, transition

LIVE = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a container does once started: end by itself after `after` seconds with `exit_code`, become healthy or not."""

    exit_code: int | None = None  # None: runs until it is stopped
    after: float = 0.0
    healthy_after: float | None = None  # None: no healthcheck
    unhealthy: bool = False
    stop_code: int = 0


@dataclass(slots=True)
class Fault:
    error: Exception
    forever: bool = False


def _matches(labels: Mapping[str, str], filters: Filters | None) -> bool:
    for wanted in (filters or {}).get("label", ()):
        key, equals, value = wanted.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


class FakeEngine:
    """All parts share one clock that ticks once per call, so that order shows in the instants."""

    def __init__(self, *images: str) -> None:
        self._ticks = count(1)
        self.calls: list[str] = []
        self.faults: dict[str, Fault] = {}
        self.programs: dict[str, Program] = {}
        self.before_call: Callable[[str], None] | None = None
        self.containers = FakeContainers(self)
        self.networks = FakeNetworks(self)
        self.volumes = FakeVolumes(self)
        self.images = FakeImages(self, images or ("busybox:latest", "host.local/base:latest"))
        self.events = FakeEvents(self)

    def id(self, kind: str) -> str:
        return hashlib.sha256(f"{kind}{next(self._ticks)}".encode()).hexdigest()

    def now(self) -> str:
        tick = next(self._ticks)
        return f"2026-11-24T12:{tick // 60 % 60:02}:{tick % 60:02}.{tick:09}Z"

    def called(self, call: str) -> None:
        """Record a call "containers.start:web-1", and raise what was to be injected there."""
        self.calls.append(call)
        if self.before_call is not None:
            self.before_call(call)
        for key in (call, call.partition(":")[0]):
            if fault := self.faults.get(key):
                if not fault.forever:
                    del self.faults[key]
                raise fault.error

    def program(self, view: ContainerView) -> Program:
        service = view.spec.labels.get("com.docker.compose.service", "")
        for key in (view.name, service, view.image):
            if key in self.programs:
                return self.programs[key]
        return Program()

    async def info(self) -> dict[str, object]:
        return {"ID": "fake", "Containers": len(self.containers.views)}

    async def version(self) -> dict[str, object]:
        return {
            "Version": "0.0.0",
            "ApiVersion": "1.50",
            "MinAPIVersion": "1.24",
            "Os": "linux",
            "Arch": "amd64",
        }


class FakeContainers:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.views: dict[str, ContainerView] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, ref: str) -> ContainerView:
        for view in self.views.values():
            if ref in (view.id, view.name, f"/{view.name}"):
                return view
        found = [view for view in self.views.values() if len(ref) >= 4 and view.id.startswith(ref)]
        if len(found) != 1:
            raise NotFound(f"No such container: {ref}")
        return found[0]

    def _set(self, view: ContainerView, **changes: object) -> ContainerView:
        new = replace(self.views[view.id], **changes)  # type: ignore[arg-type]
        self.views[view.id] = new
        return new

    def _emit(self, view: ContainerView, action: str, **attributes: str) -> None:
        named = {**view.spec.labels, "image": view.image, "name": view.name, **attributes}
        self._engine.events.publish("container", action, view.id, named)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def create(self, spec: ContainerSpec, name: str = "") -> Created:
        engine = self._engine
        engine.called(f"containers.create:{name}")
        await asyncio.sleep(0)
        name = name or f"fake_{len(self.views)}"
        if not NAME.match(name):
            raise InvalidInput(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        for view in self.views.values():
            if view.name == name:
                raise Conflict(
                    f'Conflict. The container name "/{name}" is already in use by container "{view.id}".'
                    " You have to remove (or rename) that container to be able to reuse that name."
                )
        image = engine.images.find(spec.image)
        identity = engine.id("container")
        endpoints = []
        for endpoint in spec.endpoints:
            network = engine.networks.find(endpoint.network)
            endpoints.append(
                EndpointView(network=network.name, network_id=network.id, aliases=endpoint.aliases)
            )
        mounts = [self._mount(mount.type, mount.source, mount.target) for mount in spec.mounts]
        taken = {mount.destination for mount in mounts}
        mounts += [
            self._mount("volume", "", target) for target in image.config.volumes if target not in taken
        ]
        if spec.network_mode.startswith("container:"):
            parent = self.find(spec.network_mode.removeprefix("container:"))
            spec = replace(spec, network_mode=f"container:{parent.id}")
        merged = replace(
            spec,
            env=(*image.config.env, *spec.env),
            command=spec.command if spec.command is not None else image.config.command,
            volumes=image.config.volumes,
        )
        self.views[identity] = view = ContainerView(
            id=identity,
            name=name,
            created=engine.now(),
            spec=merged,
            image=spec.image,
            image_id=image.id,
            state=ContainerState.CREATED,
            mounts=tuple(mounts),
            endpoints=tuple(endpoints),
        )
        self._emit(view, "create")
        return Created(id=identity)

    def _mount(self, kind: str, source: str, target: str) -> MountView:
        if kind != "volume":
            return MountView(type=kind, name="", source=source, destination=target)
        volumes = self._engine.volumes
        name = source or self._engine.id("volume")
        if name not in volumes.views:
            volumes.add(VolumeSpec(name=name), anonymous=not source)
        return MountView(type="volume", name=name, source=f"/volumes/{name}/_data", destination=target)

    async def start(self, ref: str) -> None:
        view = self.find(ref)
        self._engine.called(f"containers.start:{view.name}")
        await asyncio.sleep(0)
        view = self.find(view.id)
        if view.state in LIVE:
            raise NotModified(f"container {view.name} is running")
        if view.spec.network_mode.startswith("container:"):
            parent = self.find(view.spec.network_mode.removeprefix("container:"))
            if parent.state not in LIVE:
                raise Conflict(f"cannot join network of a non running container: {parent.id}")
        for endpoint in view.endpoints:
            self._engine.networks.find(endpoint.network_id or endpoint.network)
        self._begin(view)
        await self._wake()

    def _begin(self, view: ContainerView) -> None:
        program = self._engine.program(view)
        view = self._set(
            view,
            state=transition(view.state, ContainerState.RUNNING, view.name),
            started_at=self._engine.now(),
            pid=1000 + len(self.views),
            manually_stopped=False,
            health=Health.NONE if program.healthy_after is None else Health.STARTING,
            ports=tuple(
                PublishedPort(
                    container_port=port.container_port,
                    protocol=port.protocol,
                    host_ip=port.host_ip or "0.0.0.0",
                    host_port=port.host_port or 32768 + len(self.views),
                )
                for port in view.spec.ports
            ),
        )
        self._emit(view, "start")
        if program.exit_code is not None or program.healthy_after is not None:
            task = asyncio.get_running_loop().create_task(self._live(view, program))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _live(self, view: ContainerView, program: Program) -> None:
        if program.healthy_after is not None:
            await asyncio.sleep(program.healthy_after)
            if self._same_run(view):
                health = Health.UNHEALTHY if program.unhealthy else Health.HEALTHY
                self._emit(self._set(view, health=health), f"health_status: {health}")
        if program.exit_code is not None:
            await asyncio.sleep(program.after)
            if self._same_run(view):
                await self.finish(view.id, program.exit_code)

    def _same_run(self, view: ContainerView) -> bool:
        now = self.views.get(view.id)
        return now is not None and now.state in LIVE and now.started_at == view.started_at

    async def finish(self, ref: str, exit_code: int, *, manually: bool = False) -> None:
        """The container's program ends."""
        view = self.find(ref)
        view = self._set(
            view,
            state=transition(view.state, ContainerState.EXITED, view.name),
            exit_code=exit_code,
            finished_at=self._engine.now(),
            pid=0,
            ports=(),
            manually_stopped=manually,
        )
        self._emit(view, "die", exitCode=str(exit_code))
        if view.spec.auto_remove:
            await self.remove(view.id)
        await self._wake()

    async def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        view = self.find(ref)
        self._engine.called(f"containers.stop:{view.name}")
        await asyncio.sleep(0)
        if self.find(view.id).state not in LIVE:
            raise NotModified(f"container {view.name} is not running")
        await self.finish(view.id, self._engine.program(view).stop_code, manually=True)
        self._emit(view, "stop")

    async def kill(self, ref: str, *, signal: str = "KILL") -> None:
        view = self.find(ref)
        self._engine.called(f"containers.kill:{view.name}")
        if view.state not in LIVE:
            raise Conflict(f"container {view.id} is not running")
        await self.finish(view.id, 137, manually=True)

    async def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        view = self.find(ref)
        self._engine.called(f"containers.restart:{view.name}")
        await asyncio.sleep(0)
        if view.state in LIVE:
            await self.finish(view.id, 0, manually=True)
        self._begin(self.find(view.id))
        self._emit(view, "restart")
        await self._wake()

    async def pause(self, ref: str) -> None:
        view = self.find(ref)
        self._set(view, state=transition(view.state, ContainerState.PAUSED, view.name))

    async def unpause(self, ref: str) -> None:
        view = self.find(ref)
        self._set(view, state=transition(view.state, ContainerState.RUNNING, view.name))

    async def rename(self, ref: str, name: str) -> None:
        view = self.find(ref)
        self._engine.called(f"containers.rename:{view.name}")
        await asyncio.sleep(0)
        if any(other.name == name for other in self.views.values()):
            raise Conflict(f"Error when allocating new name: Conflict. The container name /{name} is in use")
        self._emit(self._set(view, name=name), "rename", oldName=view.name)

    async def update(
        self, ref: str, *, resources: Resources | None, restart: RestartPolicy | None
    ) -> tuple[str, ...]:
        view = self.find(ref)
        spec = replace(
            view.spec, resources=resources or view.spec.resources, restart=restart or view.spec.restart
        )
        self._set(view, spec=spec)
        return ()

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        view = self.find(ref)
        self._engine.called(f"containers.remove:{view.name}")
        await asyncio.sleep(0)
        if self.find(view.id).state in LIVE:
            if not force:
                raise Conflict(f"cannot remove container {view.name}: container is running")
            await self.finish(view.id, 137)
        gone = self.views.pop(view.id, view)
        self._emit(gone, "destroy")
        for mount in gone.mounts if volumes else ():
            store = self._engine.volumes
            if (
                mount.name in store.views
                and store.views[mount.name].anonymous
                and not store.users(mount.name)
            ):
                del store.views[mount.name]
        await self._wake()

    async def wait(
        self, ref: str, condition: str = "not-running", *, ready: Callable[[], None] | None = None
    ) -> WaitResult:
        view = self.find(ref)
        if ready is not None:
            ready()

        def over() -> bool:
            now = self.views.get(view.id)
            if condition == "removed" or now is None:
                return now is None
            return now.state not in LIVE and (condition != "next-exit" or now.finished_at > view.finished_at)

        async with self._changed:
            await self._changed.wait_for(over)
        return WaitResult(exit_code=self.views.get(view.id, view).exit_code)

    async def resize(self, ref: str, *, rows: int, columns: int) -> None:
        self.find(ref)

    async def attach(
        self,
        ref: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        logs: bool = False,
        detach_keys: str = "",
    ) -> AttachSession:
        raise Unsupported("the fake engine has no streams")

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        view = self.find(ref)
        yield LogEntry(time=view.created, stream="stdout", line=f"log of {view.name}\n".encode())

    async def top(
        self, ref: str, ps_args: str = "-ef"
    ) -> tuple[builtins.list[str], builtins.list[builtins.list[str]]]:
        return ["PID"], [[str(self.find(ref).pid)]]

    async def stats(self, ref: str, *, max_age: float = 0.0) -> Stats:
        self.find(ref)
        return Stats(raw={})

    async def inspect(self, ref: str) -> ContainerView:
        return self.find(ref)

    async def list(
        self, *, all: bool = False, filters: Filters | None = None, limit: int = 0
    ) -> builtins.list[ContainerView]:
        found = [
            view
            for view in self.views.values()
            if (all or view.state in LIVE) and _matches(view.spec.labels, filters)
        ]
        return found[:limit] if limit else found

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]:
        gone = [view.id for view in self.views.values() if view.state not in LIVE]
        for identity in gone:
            del self.views[identity]
        return gone, 0

    async def exec_create(self, ref: str, spec: ExecSpec) -> str:
        raise Unsupported("the fake engine runs nothing")

    async def exec_start(
        self, exec_id: str, *, detach: bool = False, tty: bool | None = None
    ) -> AttachSession | None:
        raise NotFound(f"No such exec instance: {exec_id}")

    async def exec_inspect(self, exec_id: str) -> ExecView:
        raise NotFound(f"No such exec instance: {exec_id}")

    async def exec_resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        raise NotFound(f"No such exec instance: {exec_id}")


class FakeNetworks:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.views: dict[str, NetworkView] = {}

    def find(self, ref: str) -> NetworkView:
        for view in self.views.values():
            if ref in (view.id, view.name):
                return view
        raise NotFound(f"network {ref} not found")

    def _live(self, view: NetworkView) -> NetworkView:
        users = {
            item.id: endpoint
            for item in self._engine.containers.views.values()
            if item.state in LIVE
            for endpoint in item.endpoints
            if endpoint.network_id == view.id
        }
        names = {key: self._engine.containers.views[key].name for key in users}
        return replace(view, containers=users, container_names=names)

    async def create(self, spec: NetworkSpec) -> Created:
        self._engine.called(f"networks.create:{spec.name}")
        await asyncio.sleep(0)
        if any(view.name == spec.name for view in self.views.values()):
            raise Conflict(f"network with name {spec.name} already exists")
        identity = self._engine.id("network")
        self.views[identity] = NetworkView(
            id=identity,
            name=spec.name,
            created=self._engine.now(),
            driver=spec.driver,
            internal=spec.internal,
            attachable=spec.attachable,
            enable_ipv4=spec.enable_ipv4,
            enable_ipv6=spec.enable_ipv6,
            ipam_driver=spec.ipam_driver,
            ipam_pools=spec.ipam_pools,
            ipam_options=spec.ipam_options,
            options=spec.options,
            labels=spec.labels,
        )
        self._engine.events.publish("network", "create", identity, {"name": spec.name, "type": spec.driver})
        return Created(id=identity)

    async def remove(self, ref: str) -> None:
        view = self._live(self.find(ref))
        self._engine.called(f"networks.remove:{view.name}")
        await asyncio.sleep(0)
        if view.containers:
            raise Conflict(f"error while removing network: network {view.name} has active endpoints")
        self.views.pop(view.id, None)
        self._engine.events.publish("network", "destroy", view.id, {"name": view.name, "type": view.driver})

    async def inspect(self, ref: str) -> NetworkView:
        return self._live(self.find(ref))

    async def list(self, filters: Filters | None = None) -> builtins.list[NetworkView]:
        return [self._live(view) for view in self.views.values() if _matches(view.labels, filters)]

    async def connect(self, ref: str, container: str, endpoint: EndpointSpec) -> None:
        network, view = self.find(ref), self._engine.containers.find(container)
        joined = EndpointView(network=network.name, network_id=network.id, aliases=endpoint.aliases)
        self._engine.containers._set(view, endpoints=(*view.endpoints, joined))

    async def disconnect(self, ref: str, container: str, *, force: bool = False) -> None:
        network, view = self.find(ref), self._engine.containers.find(container)
        left = tuple(item for item in view.endpoints if item.network_id != network.id)
        self._engine.containers._set(view, endpoints=left)

    async def prune(self, filters: Filters | None = None) -> builtins.list[str]:
        return []


class FakeVolumes:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.views: dict[str, VolumeView] = {}

    def users(self, name: str) -> builtins.list[str]:
        return [
            view.id
            for view in self._engine.containers.views.values()
            if any(mount.name == name for mount in view.mounts)
        ]

    def add(self, spec: VolumeSpec, *, anonymous: bool = False) -> VolumeView:
        view = VolumeView(
            name=spec.name,
            driver=spec.driver,
            mountpoint=f"/volumes/{spec.name}/_data",
            created=self._engine.now(),
            labels=spec.labels,
            options=spec.driver_options,
            anonymous=anonymous,
        )
        self.views[spec.name] = view
        return view

    async def create(self, spec: VolumeSpec) -> VolumeView:
        self._engine.called(f"volumes.create:{spec.name}")
        await asyncio.sleep(0)
        if spec.name in self.views:
            return self.views[spec.name]
        return self.add(replace(spec, name=spec.name or self._engine.id("volume")), anonymous=not spec.name)

    async def remove(self, name: str, *, force: bool = False) -> None:
        self._engine.called(f"volumes.remove:{name}")
        await asyncio.sleep(0)
        if name not in self.views:
            raise NotFound(f"get {name}: no such volume")
        if users := self.users(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self.views[name]

    async def inspect(self, name: str) -> VolumeView:
        if name not in self.views:
            raise NotFound(f"get {name}: no such volume")
        return self.views[name]

    async def list(self, filters: Filters | None = None) -> builtins.list[VolumeView]:
        return [view for view in self.views.values() if _matches(view.labels, filters)]

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]:
        return [], 0


class FakeImages:
    """`provided` are the references that `ensure` can make; the images that are here are in `views`."""

    def __init__(self, engine: FakeEngine, references: tuple[str, ...]) -> None:
        self._engine = engine
        self.views: dict[str, ImageView] = {}
        self.provided: set[str] = set()
        for reference in references:
            self.add(reference)

    def add(self, reference: str, *, content: str = "", config: ImageConfig | None = None) -> ImageView:
        """Put an image here under a reference; other `content` is another image."""
        identity = "sha256:" + hashlib.sha256(f"{reference}{content}".encode()).hexdigest()
        self.views[self._full(reference)] = view = ImageView(
            id=identity,
            repo_tags=(self._full(reference),),
            repo_digests=(),
            parent="",
            created="2026-11-24T12:00:00Z",
            size=1,
            architecture="amd64",
            os="linux",
            config=config or ImageConfig(command=("sleep", "inf")),
            layers=(),
        )
        return view

    @staticmethod
    def _full(reference: str) -> str:
        return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"

    def find(self, ref: str) -> ImageView:
        for view in self.views.values():
            if ref == view.id or self._full(ref) in view.repo_tags:
                return view
        raise NotFound(f"No such image: {self._full(ref)}")

    async def inspect(self, ref: str) -> ImageView:
        return self.find(ref)

    async def list(self, *, all: bool = False, filters: Filters | None = None) -> builtins.list[ImageView]:
        return builtins.list(self.views.values())

    async def load(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
        async for chunk in chunks:
            yield f"Loaded image: {self._full(chunk.decode())}\n"
            self.add(chunk.decode())

    async def tag(self, ref: str, target: str) -> None:
        self.views[self._full(target)] = self.find(ref)

    async def remove(
        self, ref: str, *, force: bool = False, prune_parents: bool = True
    ) -> builtins.list[dict[str, str]]:
        view = self.find(ref)
        self.views = {key: item for key, item in self.views.items() if item.id != view.id}
        return [{"Deleted": view.id}]

    async def history(self, ref: str) -> builtins.list[dict[str, object]]:
        return [{"Id": self.find(ref).id}]

    async def ensure(self, ref: str) -> ImageView:
        self._engine.called(f"images.ensure:{ref}")
        await asyncio.sleep(0)
        if self._full(ref) not in self.views and ref in self.provided:
            return self.add(ref)
        return self.find(ref)


@dataclass(slots=True)
class FakeEvents:
    engine: FakeEngine
    past: list[Event] = field(default_factory=list)
    queues: list[asyncio.Queue[Event]] = field(default_factory=list)

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> Event:
        event = Event(
            type=type, action=action, actor_id=actor_id, attributes=attributes, time_ns=len(self.past) + 1
        )
        self.past.append(event)
        for queue in self.queues:
            queue.put_nowait(event)
        return event

    async def subscribe(
        self, *, since: int = 0, until: int = 0, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.queues.append(queue)
        try:
            for event in [item for item in self.past if since and item.time_ns >= since]:
                if self._wanted(event, filters):
                    yield event
            while not until:
                event = await queue.get()
                if self._wanted(event, filters):
                    yield event
        finally:
            self.queues.remove(queue)

    @staticmethod
    def _wanted(event: Event, filters: Filters | None) -> bool:
        filters = filters or {}
        return (
            event.type in filters.get("type", (event.type,))
            and event.action in filters.get("event", (event.action,))
            and _matches(event.attributes, {"label": filters.get("label", ())})
            and event.actor_id in filters.get("container", (event.actor_id,))
        )
