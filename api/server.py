"""The HTTP server: an engine goes in, Docker's API (and further routes) come out on a unix socket.

Every path is served bare and below /v1.24 … /v1.50: the version is cut off before routing, so that there is one table.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from yarl import URL

from pystack.api.context import ASKED_VERSION, ENGINE, FACTS, LASTING, DaemonFacts
from pystack.api.hijack import Connection
from pystack.api.middleware import docker_replies
from pystack.api.routes import containers, events, images, networks, streaming, system, volumes
from pystack.api.routes import exec as execs
from pystack.api.versioning import split_version
from pystack.engine.interface import Engine
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError

log = logging.getLogger("pystack.api")

#: Seconds that running requests have to finish when the daemon ends.
GRACE = 2.0
_READ_BUFFER = 1 << 20
#: Longest request line and header: Compose puts many labels into one filter.
_MAX_LINE = 64 << 10
#: Groups whose members may use the socket, as with Docker: being in one is as good as being root.
_GROUPS = ("pystack", "docker")


def build_app(engine: Engine, facts: DaemonFacts) -> web.Application:
    """The application with Docker's routes. More can be added until it is served."""
    app = web.Application(client_max_size=1 << 50, middlewares=[docker_replies])
    app[ENGINE] = engine
    app[FACTS] = facts
    app[LASTING] = set()
    for module in (system, containers, streaming, execs, images, networks, volumes, events):
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
    """Serves an application on unix sockets. `start` returns once they accept connections."""

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

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        await self._runner.setup()
        server = self._runner.server
        assert server is not None, "setup makes it"
        loop = asyncio.get_running_loop()
        options = {**server._kwargs, "loop": loop}
        for sock in sockets:
            listener = await loop.create_unix_server(
                lambda: Connection(server, **options), sock=sock, backlog=1024
            )
            self._listeners.append(listener)

    async def stop(self) -> None:
        """No new connections; streams end, other requests have GRACE seconds to finish."""
        for listener in self._listeners:
            listener.close()
        for task in self._lasting:
            task.cancel()
        await self._runner.cleanup()


def bind_socket(path: str) -> socket.socket:
    """A listening unix socket at `path`, 0600, or 0660 for the first group of `pystack` and `docker` that exists.

    A socket file that is left over from a daemon that died is replaced; whoever calls holds the instance's lock.
    """
    if len(os.fsencode(path)) > 107:
        raise EngineError(
            f"cannot listen on {path}: a unix socket's path has at most 107 bytes", hint="set PYSTACK_HOST"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _remove_stale(path)
        sock.bind(path)
        failpoint("api.socket.bound")
        for name in _GROUPS:
            try:
                group = grp.getgrnam(name).gr_gid
            except KeyError:
                continue
            os.chown(path, -1, group)
            os.chmod(path, 0o660)
            break
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise EngineError(f"cannot listen on {path}: {error.strerror}") from error
    except EngineError:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise EngineError(f"cannot listen on {path}: it exists and is no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:
        raise EngineError(f"cannot listen on {path}: {error.strerror}") from error
    else:
        raise EngineError(f"cannot listen on {path}: another program answers there")
    finally:
        probe.close()
