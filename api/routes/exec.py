"""Routes below /exec: running further programs in a container."""

from __future__ import annotations

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.container import exec_json
from pystack.api.docker.wire import ExecStartBody
from pystack.api.errors import json_response
from pystack.api.filters import integer
from pystack.api.hijack import Hijacked, hijack
from pystack.api.jsons import read_json
from pystack.api.streams import RAW, frame, pump, stream_type, until_daemon_ends
from pystack.model.errors import InvalidInput, StartError


async def start(request: web.Request) -> web.StreamResponse:
    """The exec's streams on the hijacked connection; a program that cannot start is told in the stream, as Docker does."""
    body = await read_json(request, ExecStartBody, optional=True)
    containers, identifier = engine(request).containers, request.match_info["id"]
    view = await containers.exec_inspect(identifier)
    if body.Detach:
        await containers.exec_start(identifier, detach=True, tty=body.Tty)
        return web.Response()
    kind = stream_type(request, tty=view.tty) if request.headers.get("Upgrade") else RAW
    try:
        session = await containers.exec_start(identifier, tty=body.Tty)
    except StartError as error:
        stream = hijack(request, kind)
        text = f"{error.message}\r\n".encode()
        await stream.write(text if view.tty else frame("stdout", text))
        stream.close()
        await stream.wait_closed()
        return Hijacked()
    assert session is not None, "exec_start gives a session unless detached"
    if view.tty and body.ConsoleSize and len(body.ConsoleSize) == 2 and all(body.ConsoleSize):
        await containers.exec_resize(identifier, rows=body.ConsoleSize[0], columns=body.ConsoleSize[1])
    with until_daemon_ends(request):
        await pump(session, hijack(request, kind), frames=not view.tty)
    return Hijacked()


async def inspect(request: web.Request) -> web.Response:
    return json_response(exec_json(await engine(request).containers.exec_inspect(request.match_info["id"])))


async def resize(request: web.Request) -> web.Response:
    rows, columns = integer(request.query, "h"), integer(request.query, "w")
    if rows is None or columns is None:
        raise InvalidInput("invalid resize: both h and w are needed")
    await engine(request).containers.exec_resize(request.match_info["id"], rows=rows, columns=columns)
    return web.Response()


ROUTES = [
    web.post("/exec/{id}/start", start),
    web.post("/exec/{id}/resize", resize),
    web.get("/exec/{id}/json", inspect, allow_head=False),
]
