"""The HTTP server: an engine goes in, Docker's API (and further routes) come out on unix sockets, and on TCP with TLS.

Every path is served bare and below /v1.24 … /v1.50: the version is cut off before routing, so that there is one table.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from yarl import URL

from pystack.api.context import ASKED_VERSION, ENGINE, FACTS, LASTING, DaemonFacts
from pystack.api.hijack import Connection
from pystack.api.middleware import docker_replies
from pystack.api.routes import (
    absent,
    archive,
    containers,
    events,
    images,
    networks,
    streaming,
    system,
    volumes,
)
from pystack.api.routes import exec as execs
from pystack.api.versioning import split_version
from pystack.engine.interface import Engine

log = logging.getLogger("pystack.api")

#: Seconds that running requests have to finish when the daemon ends.
GRACE = 2.0
_READ_BUFFER = 1 << 20
#: Longest request line and header: Compose puts many labels into one filter.
_MAX_LINE = 64 << 10


def build_app(engine: Engine, facts: DaemonFacts) -> web.Application:
    """The application with Docker's routes. More can be added until it is served."""
    app = web.Application(client_max_size=1 << 50, middlewares=[docker_replies])
    app[ENGINE] = engine
    app[FACTS] = facts
    app[LASTING] = set()
    for module in (absent, system, containers, archive, streaming, execs, images, networks, volumes, events):
        app.router.add_routes(module.ROUTES)
    return app


class _Runner(web.AppRunner):
    """An AppRunner whose connections are ours, and whose requests have lost their version prefix."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        make = server.request_factory

        def without_version(message: Any, payload: Any, *rest: Any) -> web.BaseRequest:
            asked, path = split_version(message.path)
            if asked:
                message = message._replace(path=path, url=URL(path, encoded=True))
            request = make(message, payload, *rest)
            request[ASKED_VERSION] = asked
            return request

        server.request_factory = without_version
        return server


class ApiServer:
    """Serves an application on listening sockets. `start` returns once they accept connections."""

    def __init__(self, app: web.Application) -> None:
        self._runner = _Runner(
            app,
            handle_signals=False,
            access_log=None,
            read_bufsize=_READ_BUFFER,
            shutdown_timeout=GRACE,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        self._lasting = app[LASTING]
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Iterable[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept on more sockets, with TLS on all of them when there is a context."""
        if self._runner.server is None:
            await self._runner.setup()
        server = self._runner.server
        assert server is not None, "setup makes it"
        loop = asyncio.get_running_loop()
        options = {**server._kwargs, "loop": loop}

        def connection() -> asyncio.Protocol:
            return Connection(server, **options)

        def with_tls() -> asyncio.BaseProtocol:
            from pystack.api.tls import HalfClosing

            assert tls is not None, "chosen below"
            return HalfClosing(connection, tls)

        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                listener = await loop.create_unix_server(connection, sock=sock, backlog=1024)
            else:
                assert tls is not None, "TCP is served with TLS only"
                listener = await loop.create_server(with_tls, sock=sock, backlog=1024)
            self._listeners.append(listener)

    async def stop(self) -> None:
        """No new connections; streams end, other requests have GRACE seconds to finish."""
        for listener in self._listeners:
            listener.close()
        for task in self._lasting:
            task.cancel()
        await self._runner.cleanup()
