"""GET /events: what happens in the engine, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.objects import event_json
from pystack.api.filters import parse_filters, parse_instant
from pystack.api.streams import json_lines, until_client_leaves
from pystack.model.errors import InvalidInput

_FILTERS = frozenset(
    "config container daemon event image label network node plugin scope secret service type volume".split()  # noqa: SIM905
)


async def events(request: web.Request) -> web.StreamResponse:
    query = request.query
    since, until = (
        parse_instant(query.get("since", ""), "since"),
        parse_instant(query.get("until", ""), "until"),
    )
    if until and since > until:
        raise InvalidInput("`since` time cannot be after `until` time")
    filters = parse_filters(query.get("filters", ""), _FILTERS)

    async def documents() -> AsyncIterator[object]:
        async for event in engine(request).events.subscribe(since=since, until=until, filters=filters):
            yield event_json(event)

    with until_client_leaves(request):
        return await json_lines(request, documents(), at_once=True)


ROUTES = [web.get("/events", events, allow_head=False)]
