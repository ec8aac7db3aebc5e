"""What request handlers find in the application: the engine and the facts of this daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from pystack.engine.interface import Engine
from pystack.model.names import Instance
from pystack.model.settings import Settings
from pystack.volume.plugins import Plugins

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, kw_only=True)
class DaemonFacts:
    """Who serves. `stop` is set when the daemon shall end; whoever runs the server waits for it."""

    instance: Instance
    version: str
    pid: int
    launcher_pid: Callable[[], int] = lambda: 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    settings: Callable[[], Settings] = Settings
    plugins: Plugins = field(default_factory=Plugins)


ENGINE: web.AppKey[Engine] = web.AppKey("engine")
#: Of a request: the version in its path ("" for none), the version served, and whether its reply's headers are gone.
ASKED_VERSION: web.RequestKey[str] = web.RequestKey("asked_version")
VERSION: web.RequestKey[tuple[int, int]] = web.RequestKey("version")
STREAMING: web.RequestKey[bool] = web.RequestKey("streaming")
#: The body of a request that was read before its handler asks for it.
BODY: web.RequestKey[bytes] = web.RequestKey("body")
#: Tasks of requests that last as long as their client (logs, events, attach): cancelled when the daemon ends.
LASTING: web.AppKey[set[asyncio.Task[object]]] = web.AppKey("lasting")
FACTS: web.AppKey[DaemonFacts] = web.AppKey("facts")


def engine(request: web.Request) -> Engine:
    return request.app[ENGINE]
