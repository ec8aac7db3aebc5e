"""What every request passes: its API version is checked, errors become Docker's JSON, headers are added."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

from pystack.api.context import ASKED_VERSION, FACTS, STREAMING, VERSION
from pystack.api.errors import response_of
from pystack.api.hijack import Connection, Hijacked
from pystack.api.versioning import HEADERS, parse_version

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's reply, with authorization plugins asked when there are any."""
    facts = request.app[FACTS]
    settings = facts.settings()
    if not settings.authorization_plugins:
        return await handler(request)
    from pystack.api.authorization import authorized

    facts.plugins.directories = settings.plugin_directories
    return await authorized(request, handler, facts.plugins, settings.authorization_plugins)


@web.middleware
async def docker_replies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where exceptions become statuses."""
    try:
        request[VERSION] = parse_version(request.get(ASKED_VERSION, ""))
        response: web.StreamResponse
        if request.method == "OPTIONS":
            response = web.Response()
        else:
            response = await _answered(request, handler)
    except asyncio.CancelledError:
        raise
    except (ConnectionError, ClientConnectionResetError):
        raise  # the client has left; there is nobody to tell
    except Exception as error:
        if request.get(STREAMING):
            raise  # headers have gone; streams report their own errors in-band
        response = response_of(error, f"{request.method} {request.path}")
    if not isinstance(response, Hijacked):
        protocol = request.protocol
        if isinstance(protocol, Connection):
            protocol.release()
        if not response.prepared:
            response.headers.update(HEADERS)
    return response
