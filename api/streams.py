"""Long replies: engine streams go in, framed bytes or JSON documents go out, each at once.

Frames without a tty: 8 bytes `[stream][0 0 0][length, big endian]`, then the payload (moby `api/types/container`,
stdcopy). A stream ends when its source ends or when the client leaves, whichever is first.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import anyio
from aiohttp import web

from pystack.api import jsons
from pystack.api.context import LASTING, STREAMING, VERSION
from pystack.api.errors import message_of
from pystack.api.hijack import ClientStream, Connection
from pystack.api.versioning import HEADERS
from pystack.engine.interface import AttachSession
from pystack.model.errors import PystackError

log = logging.getLogger("pystack.api")

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_NUMBER = {"stdin": 0, "stdout": 1, "stderr": 2}
_PIECE = 1 << 20
_HEADER = struct.Struct(">BxxxI")


def stream_type(request: web.Request, *, tty: bool) -> str:
    """Content type of output: multiplexed is named since API 1.42."""
    return MULTIPLEXED if not tty and request[VERSION] >= (1, 42) else RAW


def hijack_type(request: web.Request, *, tty: bool) -> str:
    """Content type of a hijacked connection: only upgraded ones are told of multiplexing."""
    return stream_type(request, tty=tty) if request.headers.get("Upgrade") else RAW


def frame(stream: str, data: bytes) -> bytes:
    return _HEADER.pack(_NUMBER[stream], len(data)) + data


@contextmanager
def until_client_leaves(request: web.Request) -> Iterator[None]:
    """Cancel the handler's task when the client disconnects; for requests that only watch."""
    protocol, task = request.protocol, asyncio.current_task()
    assert task is not None
    assert isinstance(protocol, Connection), "the server makes Connections only"
    with until_daemon_ends(request):
        protocol.watch(task)
        try:
            yield
        finally:
            protocol.unwatch(task)


@contextmanager
def until_daemon_ends(request: web.Request) -> Iterator[None]:
    """Cancel the handler's task when the daemon ends."""
    task = asyncio.current_task()
    assert task is not None
    tasks = request.app[LASTING]
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)


async def open_stream(
    request: web.Request, content_type: str = "application/json", status: int = 200
) -> web.StreamResponse:
    """A chunked reply whose headers are on the wire when this returns."""
    response = web.StreamResponse(status=status, headers={"Content-Type": content_type, **HEADERS})
    request[STREAMING] = True
    await response.prepare(request)
    await response.write(b"")  # aiohttp keeps headers back until the first write
    return response


async def body_chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The request's body as it comes."""
    async for chunk in request.content.iter_chunked(_PIECE):
        yield chunk


async def byte_stream(
    request: web.Request,
    chunks: AsyncIterator[bytes],
    content_type: str,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Bytes as they come, until the client leaves. An error before the first is an ordinary HTTP error; after a later one
    the connection is cut, so that nobody takes half of it for the whole.
    """
    with until_client_leaves(request):
        first = await anext(chunks, b"")
        request[STREAMING] = True
        response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {}), **HEADERS})
        await response.prepare(request)
        await response.write(first)
        try:
            async for chunk in chunks:
                await response.write(chunk)
        except PystackError as error:
            log.warning("%s ends too early: %s", request.path, error)
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
    return response


async def json_lines(
    request: web.Request, documents: AsyncIterator[object], *, at_once: bool = False
) -> web.StreamResponse:
    """Documents as concatenated JSON, each on a line.

    Unless `at_once`, headers wait for the first document, so that an error before it is an ordinary HTTP error; a later
    one goes in-band as Docker's `errorDetail`.
    """
    response = await open_stream(request) if at_once else None
    try:
        async for document in documents:
            if response is None:
                response = await open_stream(request)
            await response.write(jsons.dumps(document) + b"\r\n")
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        if response is None:
            raise
        text = message_of(error, request.path)
        await response.write(jsons.dumps({"errorDetail": {"message": text}, "error": text}) + b"\r\n")
    if response is None:
        response = await open_stream(request)
    await response.write_eof()
    return response


async def pump(session: AttachSession, stream: ClientStream, *, frames: bool) -> None:
    """Join a session and a client until the output ends or the client leaves, then close the session."""
    try:
        await stream.head_was_read()
        async with anyio.create_task_group() as group:

            async def client_input() -> None:
                while data := await stream.read():
                    await session.send(data)
                if not stream.lost.is_set():
                    await session.close_stdin()

            async def departure() -> None:
                await stream.wait_left()
                group.cancel_scope.cancel()

            group.start_soon(client_input)
            group.start_soon(departure)
            while (output := await session.receive()) is not None:
                name, data = output
                await stream.write(frame(name, data) if frames else data)
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await session.close()
