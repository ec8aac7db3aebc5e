"""An engine in memory for tests of the API: containers that echo, and everything else a client lists."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pystack.engine.interface import Created, Filters, LogEntry, LogOptions, Stats, WaitResult
from pystack.model.container import (
    ContainerSpec,
    EndpointSpec,
    ExecSpec,
    ImageConfig,
    NetworkSpec,
    VolumeSpec,
)
from pystack.model.errors import Conflict, Forbidden, NotFound, NotModified, StartError
from pystack.model.observed import ContainerView, Event, ExecView, ImageView, NetworkView, VolumeView
from pystack.model.states import ContainerState

TIME = "2026-11-24T10:00:00.123456789Z"


def hex_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class EchoSession:
    """Says what it hears; at the end of input says how much it was, on stderr, and ends."""

    def __init__(self, tty: bool, greeting: bytes = b"", done: Callable[[], None] = lambda: None) -> None:
        self.tty = tty
        self.closed = False
        self.heard = 0
        self.output: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(4)
        self.done = done
        if greeting:
            self.output.put_nowait(("stdout", greeting))

    async def receive(self) -> Any:
        return await self.output.get()

    async def send(self, data: bytes) -> None:
        self.heard += len(data)
        await self.output.put(("stdout", data))

    async def close_stdin(self) -> None:
        await self.output.put(("stdout" if self.tty else "stderr", b"[heard %d]\n" % self.heard))
        await self.output.put(None)
        self.done()

    async def close(self) -> None:
        self.closed = True


class FakeContainers:
    def __init__(self) -> None:
        self.views: dict[str, ContainerView] = {}
        self.exits: dict[str, asyncio.Event] = {}
        self.execs: dict[str, tuple[str, ExecSpec]] = {}
        self.exec_codes: dict[str, int] = {}
        self.calls: list[tuple[str, Any]] = []
        self.sessions: list[EchoSession] = []
        self.gate: asyncio.Event | None = None
        self.lines: list[LogEntry] = []

    def find(self, ref: str) -> ContainerView:
        for view in self.views.values():
            if ref == view.name or view.id.startswith(ref):
                return view
        raise NotFound(f"No such container: {ref}")

    def change(self, view: ContainerView, **values: Any) -> None:
        self.views[view.id] = dataclasses.replace(view, **values)

    async def create(self, spec: ContainerSpec, name: str = "") -> Created:
        self.calls.append(("create", spec))
        if spec.image == "missing":
            raise NotFound("No such image: missing:latest")
        if spec.image == "broken":
            raise RuntimeError("secret in the traceback")
        identifier = hex_id(name or str(len(self.views)))
        if identifier in self.views:
            raise Conflict(f'Conflict. The container name "/{name}" is already in use')
        self.views[identifier] = ContainerView(
            id=identifier,
            name=name or "quiet_turing",
            created=TIME,
            spec=spec,
            image=spec.image,
            image_id="sha256:" + "1" * 64,
            state=ContainerState.CREATED,
            path=(spec.entrypoint or spec.command or ("sh",))[0],
            args=(spec.command or ("sh",))[1:],
        )
        self.exits[identifier] = asyncio.Event()
        return Created(id=identifier)

    async def start(self, ref: str) -> None:
        view = self.find(ref)
        if view.state is ContainerState.RUNNING:
            raise NotModified("already started")
        if view.spec.command == ("nosuch",):
            raise StartError('exec: "nosuch": executable file not found in $PATH', exit_code=127)
        self.change(view, state=ContainerState.RUNNING, started_at=TIME, pid=4242)

    def end(self, ref: str, code: int = 0) -> None:
        view = self.find(ref)
        self.change(view, state=ContainerState.EXITED, exit_code=code, finished_at=TIME, pid=0)
        self.exits[view.id].set()

    async def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:
        self.calls.append(("stop", (timeout, signal)))
        if self.gate is not None:
            await self.gate.wait()
        self.end(ref)

    async def wait(
        self, ref: str, condition: str = "not-running", *, ready: Callable[[], None] | None = None
    ) -> WaitResult:
        view = self.find(ref)
        if ready is not None:
            ready()
        try:
            await self.exits[view.id].wait()
        except asyncio.CancelledError:
            self.calls.append(("wait cancelled", ref))
            raise
        return WaitResult(exit_code=self.find(ref).exit_code)

    async def resize(self, ref: str, *, rows: int, columns: int) -> None:
        self.calls.append(("resize", (rows, columns)))

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        del self.views[self.find(ref).id]

    async def attach(self, ref: str, **options: Any) -> EchoSession:
        self.calls.append(("attach", options))
        view = self.find(ref)
        session = EchoSession(view.spec.tty, done=lambda: self.end(ref))
        self.sessions.append(session)
        return session

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        self.calls.append(("logs", options))
        for line in self.lines:
            yield line
        if options.follow:
            await self.exits[self.find(ref).id].wait()

    async def top(self, ref: str, ps_args: str = "-ef") -> tuple[list[str], list[list[str]]]:
        return ["PID", "CMD"], [["1", "sh"]]

    async def stats(self, ref: str, *, max_age: float = 0.0) -> Stats:
        return Stats(
            raw={
                "read": TIME,
                "precpu_stats": {},
                "cpu_stats": {"cpu_usage": {"total_usage": 5}},
                "memory_stats": {"usage": 7},
            }
        )

    async def inspect(self, ref: str) -> ContainerView:
        return self.find(ref)

    async def list(
        self, *, all: bool = False, filters: Filters | None = None, limit: int = 0
    ) -> list[ContainerView]:
        self.calls.append(("list", (all, filters, limit)))
        return [v for v in self.views.values() if all or v.state is ContainerState.RUNNING]

    async def exec_create(self, ref: str, spec: ExecSpec) -> str:
        identifier = hex_id(f"exec{len(self.execs)}")
        self.execs[identifier] = (self.find(ref).id, spec)
        return identifier

    async def exec_start(
        self, exec_id: str, *, detach: bool = False, tty: bool | None = None
    ) -> EchoSession | None:
        spec = self.execs[exec_id][1]
        if exec_id in self.exec_codes:
            raise Conflict(f"Exec {exec_id} has already run")
        self.exec_codes[exec_id] = 127 if spec.command[0] == "nosuch" else 0
        if spec.command[0] == "nosuch":
            raise StartError(
                "OCI runtime exec failed: exec: nosuch: executable file not found", exit_code=127
            )
        return None if detach else EchoSession(spec.tty, b"hello\n")

    async def exec_inspect(self, exec_id: str) -> ExecView:
        if exec_id not in self.execs:
            raise NotFound(f"No such exec instance: {exec_id}")
        owner, spec = self.execs[exec_id]
        return ExecView(
            id=exec_id,
            container_id=owner,
            running=False,
            exit_code=self.exec_codes.get(exec_id),
            pid=7,
            command=spec.command,
            user=spec.user,
            tty=spec.tty,
            privileged=spec.privileged,
            open_stdin=spec.attach_stdin,
            open_stdout=True,
            open_stderr=True,
        )

    async def exec_resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        self.calls.append(("exec_resize", (rows, columns)))


class FakeImages:
    def __init__(self) -> None:
        self.view = ImageView(
            id="sha256:" + "1" * 64,
            repo_tags=("busybox:latest",),
            repo_digests=(),
            parent="",
            created=TIME,
            size=4_000_000,
            architecture="amd64",
            os="linux",
            config=ImageConfig(command=("sh",), env=("PATH=/bin",)),
            layers=("sha256:" + "2" * 64,),
        )
        self.loaded = 0

    async def list(self, *, all: bool = False, filters: Filters | None = None) -> list[ImageView]:
        return [self.view]

    async def inspect(self, ref: str) -> ImageView:
        if ref not in {"busybox", "busybox:latest", "host.local/base"}:
            raise NotFound(f"No such image: {ref}")
        return (
            dataclasses.replace(self.view, synthetic="it is the host's own /usr") if "/" in ref else self.view
        )

    async def ensure(self, ref: str) -> ImageView:
        return await self.inspect(ref.removesuffix(":latest"))

    async def load(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
        async for chunk in chunks:
            self.loaded += len(chunk)
        yield "Loaded image: busybox:latest"

    @asynccontextmanager
    async def save(
        self, names: Sequence[str], target: tuple[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        for name in names:
            if (await self.inspect(name)).synthetic:
                raise Forbidden(f"cannot save or push {name}: it is the host's own /usr")

        async def chunks() -> AsyncIterator[bytes]:
            yield b"saved"

        yield chunks()

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[dict[str, str]], int]:
        return [], 0

    def usage(self) -> tuple[int, dict[str, int]]:
        return 0, {}


class FakeNetworks:
    def __init__(self) -> None:
        self.views: dict[str, NetworkView] = {}
        self.calls: list[Any] = []

    async def create(self, spec: NetworkSpec) -> Created:
        identifier = hex_id(spec.name)
        self.views[spec.name] = NetworkView(
            id=identifier,
            name=spec.name,
            created=TIME,
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
        return Created(id=identifier)

    async def list(self, filters: Filters | None = None) -> list[NetworkView]:
        return list(self.views.values())

    async def inspect(self, ref: str) -> NetworkView:
        if ref not in self.views:
            raise NotFound(f"network {ref} not found")
        return self.views[ref]

    async def remove(self, ref: str) -> None:
        del self.views[ref]

    async def connect(self, ref: str, container: str, endpoint: EndpointSpec) -> None:
        self.calls.append((ref, container, endpoint))


class FakeVolumes:
    def __init__(self) -> None:
        self.views: dict[str, VolumeView] = {}
        self.pruned: Filters | None = None

    async def create(self, spec: VolumeSpec) -> VolumeView:
        view = VolumeView(
            name=spec.name or "a" * 64,
            driver=spec.driver,
            mountpoint="/x",
            created=TIME,
            labels=spec.labels,
            options=spec.driver_options,
        )
        self.views[view.name] = view
        return view

    async def list(self, filters: Filters | None = None) -> list[VolumeView]:
        return list(self.views.values())

    async def remove(self, name: str, *, force: bool = False) -> None:
        del self.views[name]

    async def prune(self, filters: Filters | None = None) -> tuple[list[str], int]:
        self.pruned = filters
        return [], 0


class FakeEvents:
    def __init__(self) -> None:
        self.past: list[Event] = []
        self.left = asyncio.Event()

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> Event:
        event = Event(
            type=type,
            action=action,
            actor_id=actor_id,
            attributes=attributes,
            time_ns=1_700_000_000_000_000_001,
        )
        self.past.append(event)
        return event

    async def subscribe(
        self, *, since: int = 0, until: int = 0, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        try:
            for event in self.past:
                yield event
            if not until:
                await asyncio.Event().wait()
        finally:
            self.left.set()


class FakeEngine:
    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.events = FakeEvents()

    async def info(self) -> dict[str, object]:
        return {
            "ID": "x",
            "OSType": "linux",
            "ServerVersion": "0.1.0",
            "Containers": len(self.containers.views),
        }

    async def version(self) -> dict[str, object]:
        return {
            "Version": "0.1.0",
            "ApiVersion": "1.50",
            "MinAPIVersion": "1.24",
            "Os": "linux",
            "Arch": "amd64",
            "Components": [{"Name": "Engine", "Version": "0.1.0", "Details": {"ApiVersion": "1.50"}}],
        }
