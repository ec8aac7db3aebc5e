"""Routes of containers that last: wait, logs, stats, attach and resize."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import quote_plus

import anyio
from aiohttp import WSMsgType, web

from pystack.api import jsons
from pystack.api.context import STREAMING, engine
from pystack.api.errors import message_of
from pystack.api.filters import dimension, flag, parse_instant
from pystack.api.hijack import Hijacked, hijacked
from pystack.api.streams import (
    frame,
    hijack_type,
    open_stream,
    pump,
    stream_type,
    until_client_leaves,
    until_daemon_ends,
)
from pystack.engine.interface import AttachSession, Containers, LogEntry, LogOptions, WaitResult
from pystack.engine.logdrivers.options import readable
from pystack.model.errors import InvalidInput, NotFound, Unsupported
from pystack.model.observed import ContainerView
from pystack.model.states import ContainerState

_CONDITIONS = {"not-running", "next-exit", "removed"}


async def wait(request: web.Request) -> web.StreamResponse:
    """Headers go out once the engine has registered the wait: the docker CLI starts the container after them."""
    condition = request.query.get("condition") or "not-running"
    if condition not in _CONDITIONS:
        raise InvalidInput(f'invalid condition: "{condition[:40]}"')
    containers, ref = engine(request).containers, request.match_info["id"]
    registered = asyncio.Event()
    waiting = asyncio.create_task(containers.wait(ref, condition, ready=registered.set))
    waiting.add_done_callback(lambda _: registered.set())
    try:
        with until_client_leaves(request):
            await registered.wait()
            if waiting.done():
                waiting.result()  # an error before the headers is an ordinary one
            response = await open_stream(request)
            await response.write(jsons.dumps(await _outcome(waiting)) + b"\n")
            await response.write_eof()
    finally:
        waiting.cancel()
    return response


async def _outcome(waiting: asyncio.Task[WaitResult]) -> dict[str, object]:
    try:
        result = await waiting
    except Exception as error:
        return {"StatusCode": 125, "Error": {"Message": message_of(error, "wait")}}
    if result.error:
        return {"StatusCode": result.exit_code, "Error": {"Message": result.error}}
    return {"StatusCode": result.exit_code}


def _log_options(query: Mapping[str, str]) -> LogOptions:
    stdout, stderr = flag(query, "stdout"), flag(query, "stderr")
    if not stdout and not stderr:
        raise InvalidInput("Bad parameters: you must choose at least one stream")
    tail = query.get("tail", "")
    count: int | None = None
    if re.fullmatch(r"[0-9]{1,18}", tail):  # anything else is all, as for Docker
        count = int(tail)
    return LogOptions(
        stdout=stdout,
        stderr=stderr,
        since=parse_instant(query.get("since", ""), "since"),
        until=parse_instant(query.get("until", ""), "until"),
        tail=count,
        follow=flag(query, "follow"),
    )


def fixed_time(text: str) -> str:
    """RFC 3339 with exactly nine digits, as `docker logs -t` prints it."""
    head, dot, rest = text.rstrip("Z").partition(".")
    return f"{head}.{rest.ljust(9, '0')}Z" if dot else f"{head}.000000000Z"


def log_line(entry: LogEntry, *, timestamps: bool, details: bool) -> bytes:
    prefix = f"{fixed_time(entry.time)} " if timestamps else ""
    if details:
        pairs = sorted(entry.attributes.items())
        prefix += ",".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in pairs) + " "
    return prefix.encode() + entry.line


async def logs(request: web.Request) -> web.StreamResponse:
    query = request.query
    containers, ref = engine(request).containers, request.match_info["id"]
    options = _log_options(query)
    view = await containers.inspect(ref)
    tty = view.spec.tty
    if not readable(view.spec.log):
        raise Unsupported("configured logging driver does not support reading")
    timestamps, details = flag(query, "timestamps"), flag(query, "details")
    with until_client_leaves(request):
        response = await open_stream(request, stream_type(request, tty=tty))
        try:
            async for entry in containers.logs(view.id, options):
                line = log_line(entry, timestamps=timestamps, details=details)
                await response.write(line if tty else frame(entry.stream, line))
        except ConnectionError:
            raise
        except Exception as error:
            text = f"Error grabbing logs: {message_of(error, 'logs')}\n".encode()
            await response.write(text if tty else frame("stderr", text))
        await response.write_eof()
    return response


#: Seconds for which a sample serves all who watch the container: a bit less than lies between two of the same client.
_SHARED = 0.9


class _Sampler:
    """The samples of one container for one client: each bears the CPU figures of the one before."""

    def __init__(self, containers: Containers, view: ContainerView, *, max_age: float = 0.0) -> None:
        self._containers, self._id, self._max_age = containers, view.id, max_age
        self._names = {"name": f"/{view.name}", "id": view.id}
        self._before: Mapping[str, object] | None = None

    async def take(self) -> bytes:
        """One line of JSON. NotFound when the container has been removed."""
        sample = {**(await self._containers.stats(self._id, max_age=self._max_age)).raw, **self._names}
        before, self._before = self._before, sample
        if before is not None:
            sample |= {"preread": before["read"], "precpu_stats": before["cpu_stats"]}
        return jsons.dumps(sample) + b"\n"


async def stats(request: web.Request) -> web.StreamResponse:
    """A sample per second, each with the one before as `precpu_stats`; or one (`stream=false`), at once if `one-shot`."""
    query = request.query
    containers, ref = engine(request).containers, request.match_info["id"]
    stream, one_shot = flag(query, "stream", default=True), flag(query, "one-shot")
    if stream and one_shot:
        raise InvalidInput("cannot have stream=true and one-shot=true")
    view = await containers.inspect(ref)
    running = view.state in {ContainerState.RUNNING, ContainerState.PAUSED}
    sampler = _Sampler(containers, view, max_age=_SHARED if stream else 0.0)
    with until_client_leaves(request):
        if not stream:
            if running and not one_shot:
                await sampler.take()
                await asyncio.sleep(1)
            return web.Response(body=await sampler.take(), headers={"Content-Type": "application/json"})
        response = await open_stream(request)
        while True:
            try:
                line = await sampler.take()
            except NotFound:
                break  # removed while watched: the stream ends
            await response.write(line)
            await asyncio.sleep(1)
        await response.write_eof()
    return response


async def resize(request: web.Request) -> web.Response:
    rows, columns = dimension(request.query, "h"), dimension(request.query, "w")
    await engine(request).containers.resize(request.match_info["id"], rows=rows, columns=columns)
    return web.Response()


async def _attach(request: web.Request) -> tuple[AttachSession, bool]:
    query = request.query
    containers, ref = engine(request).containers, request.match_info["id"]
    view = await containers.inspect(ref)
    session = await containers.attach(
        view.id,
        stdin=flag(query, "stdin"),
        stdout=flag(query, "stdout"),
        stderr=flag(query, "stderr"),
        logs=flag(query, "logs"),
        detach_keys=query.get("detachKeys", ""),
    )
    return session, view.spec.tty


async def _replay(request: web.Request) -> web.StreamResponse:
    """An attach without `stream` gives what has been written so far, if it asks for `logs`, and ends."""
    query = request.query
    containers = engine(request).containers
    view = await containers.inspect(request.match_info["id"])
    tty = view.spec.tty
    async with hijacked(request, hijack_type(request, tty=tty)) as stream:
        if flag(query, "logs"):
            await stream.head_was_read()
            options = LogOptions(stdout=flag(query, "stdout"), stderr=flag(query, "stderr"))
            async for entry in containers.logs(view.id, options):
                await stream.write(entry.line if tty else frame(entry.stream, entry.line))
    return Hijacked()


async def attach(request: web.Request) -> web.StreamResponse:
    await request.read()
    if not flag(request.query, "stream"):
        return await _replay(request)
    session, tty = await _attach(request)
    with until_daemon_ends(request):
        async with hijacked(request, hijack_type(request, tty=tty)) as stream:
            await pump(session, stream, frames=not tty)
    return Hijacked()


async def attach_websocket(request: web.Request) -> web.StreamResponse:
    """The same over a WebSocket: binary frames, without stream headers (moby `postContainersAttach` wsContainersAttach)."""
    socket = web.WebSocketResponse(max_msg_size=1 << 20)
    if not socket.can_prepare(request):
        raise InvalidInput("cannot attach: the request is no WebSocket handshake")
    session, _ = await _attach(request)
    request[STREAMING] = True
    try:
        await socket.prepare(request)
        async with anyio.create_task_group() as group:

            async def client_input() -> None:
                async for message in socket:
                    if message.type in {WSMsgType.BINARY, WSMsgType.TEXT}:
                        data = message.data
                        await session.send(data.encode() if isinstance(data, str) else data)
                await session.close_stdin()
                group.cancel_scope.cancel()

            group.start_soon(client_input)
            while (output := await session.receive()) is not None:
                await socket.send_bytes(output[1])
            await socket.close()
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await session.close()
    return socket


ROUTES = [
    web.post("/containers/{id}/wait", wait),
    web.get("/containers/{id}/logs", logs, allow_head=False),
    web.get("/containers/{id}/stats", stats, allow_head=False),
    web.post("/containers/{id}/attach", attach),
    web.get("/containers/{id}/attach/ws", attach_websocket, allow_head=False),
    web.post("/containers/{id}/resize", resize),
]
