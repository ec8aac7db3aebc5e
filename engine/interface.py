"""The engine as its callers see it: what the API serves and the reconciler drives, and what their fakes must keep to.

`ref` is a container's, network's, volume's or image's full id, unique id prefix, or name. Every method raises from
`pystack.model.errors`: NotFound for an unknown ref, Conflict for a wrong state, InvalidInput for a bad request.
Methods return when the operation is durable. Nothing here knows of HTTP or of stacks.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pystack.image.newimage import About
from pystack.image.references import Reference
from pystack.model.container import (
    ContainerSpec,
    EndpointSpec,
    ExecSpec,
    NetworkSpec,
    Resources,
    RestartPolicy,
    VolumeSpec,
)
from pystack.model.observed import ContainerView, Event, ExecView, ImageView, NetworkView, VolumeView

Filters = Mapping[str, Sequence[str]]
StreamName = Literal["stdin", "stdout", "stderr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitResult:
    exit_code: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which lines of a log. `since` and `until` are wall-clock ns (0 = none), `tail` None = all."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One entry of a log. `line` keeps its newline; a chunk of a longer line has none. `time` is RFC 3339 with ns."""

    time: str
    stream: Literal["stdout", "stderr"]
    line: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)


class AttachSession(Protocol):
    """Live streams of a container or an exec. With a tty all output is "stdout" and raw."""

    tty: bool

    async def receive(self) -> tuple[StreamName, bytes] | None:
        """Next output, None at the end (the process and everything that held its output are gone)."""
        ...

    async def send(self, data: bytes) -> None:
        """Write to stdin; waits while the process does not read. Data for a process without stdin is dropped."""
        ...

    async def close_stdin(self) -> None:
        """The client will send no more (end of file on stdin, if this session may end it)."""
        ...

    async def close(self) -> None:
        """Leave; the process goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One sample of a container's resource use, in Docker's stats JSON shape below `raw` (all keys but name and id)."""

    raw: Mapping[str, object]


class Containers(Protocol):
    async def create(self, spec: ContainerSpec, name: str = "") -> Created: ...
    async def start(self, ref: str) -> None: ...
    async def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None: ...
    async def kill(self, ref: str, *, signal: str = "KILL") -> None: ...
    async def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None: ...
    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...
    async def rename(self, ref: str, name: str) -> None: ...
    async def update(
        self, ref: str, *, resources: Resources | None, restart: RestartPolicy | None
    ) -> tuple[str, ...]: ...
    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None: ...
    async def wait(
        self, ref: str, condition: str = "not-running", *, ready: Callable[[], None] | None = None
    ) -> WaitResult:
        """`ready` is called once the wait is registered, before it blocks (the API flushes its headers then)."""
        ...

    async def resize(self, ref: str, *, rows: int, columns: int) -> None: ...
    async def attach(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool = False, detach_keys: str = ""
    ) -> AttachSession: ...
    def logs(self, ref: str, options: LogOptions) -> AsyncIterator[LogEntry]: ...
    async def top(
        self, ref: str, ps_args: str = "-ef"
    ) -> tuple[builtins.list[str], builtins.list[builtins.list[str]]]: ...
    async def stats(self, ref: str, *, max_age: float = 0.0) -> Stats: ...
    async def inspect(self, ref: str) -> ContainerView: ...
    async def list(
        self, *, all: bool = False, filters: Filters | None = None, limit: int = 0
    ) -> builtins.list[ContainerView]: ...
    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]: ...
    async def exec_create(self, ref: str, spec: ExecSpec) -> str: ...
    async def exec_start(
        self, exec_id: str, *, detach: bool = False, tty: bool | None = None
    ) -> AttachSession | None:
        """Starts it; returns the session unless `detach`. StartError (126/127) when its program cannot start."""
        ...

    async def exec_inspect(self, exec_id: str) -> ExecView: ...
    async def exec_resize(self, exec_id: str, *, rows: int, columns: int) -> None: ...


class Networks(Protocol):
    async def create(self, spec: NetworkSpec) -> Created: ...
    async def remove(self, ref: str) -> None: ...
    async def inspect(self, ref: str) -> NetworkView: ...
    async def list(self, filters: Filters | None = None) -> builtins.list[NetworkView]: ...
    async def connect(self, ref: str, container: str, endpoint: EndpointSpec) -> None: ...
    async def disconnect(self, ref: str, container: str, *, force: bool = False) -> None: ...
    async def prune(self, filters: Filters | None = None) -> builtins.list[str]: ...


class Volumes(Protocol):
    async def create(self, spec: VolumeSpec) -> VolumeView: ...
    async def remove(self, name: str, *, force: bool = False) -> None: ...
    async def inspect(self, name: str) -> VolumeView: ...
    async def list(self, filters: Filters | None = None) -> builtins.list[VolumeView]: ...
    async def usage(self, name: str) -> int:
        """Bytes of the files in it."""
        ...

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]: ...


class Images(Protocol):
    async def inspect(self, ref: str) -> ImageView: ...
    async def list(
        self, *, all: bool = False, filters: Filters | None = None
    ) -> builtins.list[ImageView]: ...
    def load(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Load a docker-archive or OCI-layout tar; yields one line of Docker's text for each image loaded."""
        ...

    async def tag(self, ref: str, target: str) -> None: ...
    async def remove(
        self, ref: str, *, force: bool = False, prune_parents: bool = True
    ) -> builtins.list[dict[str, str]]: ...
    def save(
        self, names: Sequence[str], target: tuple[str, str] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Images as one tar that `load` takes. `target` is the (architecture, variant) that they must be for."""
        ...

    async def import_root(
        self,
        chunks: AsyncIterator[bytes],
        about: About,
        reference: Reference | None = None,
        target: tuple[str, str] | None = None,
    ) -> str:
        """The id of a new image of one layer, the tar of a root file system."""
        ...

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[dict[str, str]], int]: ...
    def usage(self) -> tuple[int, Mapping[str, int]]:
        """Bytes of all layers, and of each image's layers that others share (by image id)."""
        ...

    async def history(self, ref: str) -> builtins.list[dict[str, object]]: ...
    async def ensure(self, ref: str) -> ImageView:
        """The image, made ready if it can be without a registry (`host.local/…`). NotFound says what to do."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What a path of a container names. `mode` is an st_mode; `link_target` is absolute, "" for what is not a link."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChange:
    """A path that differs from the image's. `kind` is Docker's: 0 changed, 1 added, 2 deleted."""

    path: str
    kind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """An image to make of a container. `config` None: the container's own; `changes` are lines of a Dockerfile."""

    repository: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: Mapping[str, object] | None = None


class Files(Protocol):
    """The files of containers, running or not. Paths are the container's; a tar stream ends when its block does."""

    async def stat(self, ref: str, path: str) -> PathStat: ...
    def archive(
        self, ref: str, path: str
    ) -> AbstractAsyncContextManager[tuple[PathStat, AsyncIterator[bytes]]]:
        """The file, link or directory with all below it, mounts included, as a tar."""
        ...

    async def extract(
        self,
        ref: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        keep_kinds: bool = False,
        copy_owner: bool = False,
    ) -> None:
        """Put a tar (gzip, bzip2, xz, zstd or plain) into the directory `path`.

        `keep_kinds`: no directory is replaced by a file or the other way round. `copy_owner`: all of it gets the
        container's user instead of the archive's owners.
        """
        ...

    def export(self, ref: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The container's own root file system as a tar, without what is mounted in it."""
        ...

    async def changes(self, ref: str) -> builtins.list[PathChange]: ...
    async def size(self, ref: str) -> int:
        """Bytes of what the container has written into its own layer."""
        ...

    async def commit(self, ref: str, request: CommitRequest) -> str:
        """The id of a new image: the container's, with what it has written as one more layer."""
        ...


class Events(Protocol):
    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> Event: ...
    def subscribe(
        self, *, since: int = 0, until: int = 0, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        """Past events from the ring since `since` (ns), then live ones until `until` (ns; 0 = for ever)."""
        ...


class Engine(Protocol):
    @property
    def containers(self) -> Containers: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def images(self) -> Images: ...
    @property
    def files(self) -> Files: ...
    @property
    def events(self) -> Events: ...
    async def info(self) -> dict[str, object]:
        """Docker's /info body."""
        ...

    async def version(self) -> dict[str, object]:
        """Docker's /version body."""
        ...
