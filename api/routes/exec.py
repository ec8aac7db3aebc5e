"""Routes below /exec: running further programs in a container."""

from __future__ import annotations

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.container import exec_json
from pystack.api.docker.wire import ExecStartBody
from pystack.api.errors import json_response, message_of
from pystack.api.filters import dimension
from pystack.api.hijack import Hijacked, hijacked
from pystack.api.jsons import read_json
from pystack.api.streams import frame, hijack_type, pump, until_daemon_ends
from pystack.engine.interface import Containers
from pystack.model.errors import Conflict
from pystack.model.observed import ExecView
from pystack.model.states import ContainerState


async def start(request: web.Request) -> web.StreamResponse:
    """The exec's streams on the hijacked connection; a program that cannot start is told in the stream, as Docker does."""
    body = await read_json(request, ExecStartBody, optional=True)
    containers, identifier = engine(request).containers, request.match_info["id"]
    view = await containers.exec_inspect(identifier)
    if body.Detach:
        await containers.exec_start(identifier, detach=True, tty=body.Tty)
        return web.Response()
    if not await _startable(containers, view):
        await containers.exec_start(identifier, tty=body.Tty)  # refused with the engine's own words
        raise Conflict(f"cannot start exec {identifier}: its container does not run")
    with until_daemon_ends(request):
        async with hijacked(request, hijack_type(request, tty=view.tty)) as stream:
            try:
                session = await containers.exec_start(identifier, tty=body.Tty)
            except Exception as error:
                text = f"{message_of(error, 'exec start')}\r\n".encode()
                await stream.head_was_read()
                await stream.write(text if view.tty else frame("stdout", text))
                return Hijacked()
            assert session is not None, "exec_start gives a session unless detached"
            if view.tty and body.ConsoleSize and len(body.ConsoleSize) == 2 and all(body.ConsoleSize):
                rows, columns = body.ConsoleSize
                await containers.exec_resize(identifier, rows=rows, columns=columns)
            await pump(session, stream, frames=not view.tty)
    return Hijacked()


async def _startable(containers: Containers, view: ExecView) -> bool:
    """Whether the start can be expected to go well: what is refused must be refused before the connection is taken."""
    owner = await containers.inspect(view.container_id)
    return owner.state is ContainerState.RUNNING and not view.running and view.exit_code is None


async def inspect(request: web.Request) -> web.Response:
    return json_response(exec_json(await engine(request).containers.exec_inspect(request.match_info["id"])))


async def resize(request: web.Request) -> web.Response:
    rows, columns = dimension(request.query, "h"), dimension(request.query, "w")
    await engine(request).containers.exec_resize(request.match_info["id"], rows=rows, columns=columns)
    return web.Response()


ROUTES = [
    web.post("/exec/{id}/start", start),
    web.post("/exec/{id}/resize", resize),
    web.get("/exec/{id}/json", inspect, allow_head=False),
]
