"""What the engine needs of the launcher and its shims, as small protocols, so that a test can put a fake in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pystack.engine.interface import AttachSession
from pystack.engine.runtime.bundle import Bundle, ExitRecord, Process


class ExecPort(AttachSession, Protocol):
    """A further process in a container. `exited` gives its exit code; `pid` is the host's."""

    pid: int
    exited: asyncio.Future[int]

    def signal(self, number: int) -> None: ...
    def resize(self, *, rows: int, columns: int) -> None: ...


class ShimPort(Protocol):
    """The shim of one running container, over its control socket."""

    pid: int
    pidfd: int
    netns_fd: int
    exited: asyncio.Future[ExitRecord]
    closed: asyncio.Future[None]

    async def go(self) -> None: ...
    async def wait_started(self) -> None: ...
    async def signal(self, number: int) -> None: ...
    async def resize(self, *, rows: int, columns: int) -> None: ...
    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> AttachSession: ...
    async def exec(self, process: Process, *, stdin: bool = False) -> ExecPort: ...
    def close(self) -> None:
        """Drop this end. Before `go` it makes the shim kill the child and end; later the container lives on."""
        ...


class LauncherPort(Protocol):
    pid: int

    async def launch(self, bundle: Bundle, fds: Sequence[int] = ()) -> ShimPort: ...
