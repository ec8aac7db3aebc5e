"""Routes below /volumes."""

from __future__ import annotations

from aiohttp import web

from pystack.api.context import VERSION, engine
from pystack.api.docker.objects import volume_json, volume_spec
from pystack.api.docker.wire import VolumeBody
from pystack.api.errors import json_response
from pystack.api.filters import flag, parse_filters
from pystack.api.jsons import read_json

_LIST_FILTERS = frozenset({"dangling", "driver", "label", "name"})


async def list_volumes(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), _LIST_FILTERS)
    views = await engine(request).volumes.list(filters)
    return json_response({"Volumes": [volume_json(view) for view in views], "Warnings": None})


async def inspect(request: web.Request) -> web.Response:
    return json_response(volume_json(await engine(request).volumes.inspect(request.match_info["name"])))


async def create(request: web.Request) -> web.Response:
    body = await read_json(request, VolumeBody, optional=True)
    return json_response(volume_json(await engine(request).volumes.create(volume_spec(body))), status=201)


async def remove(request: web.Request) -> web.Response:
    await engine(request).volumes.remove(request.match_info["name"], force=flag(request.query, "force"))
    return web.Response(status=204)


async def prune(request: web.Request) -> web.Response:
    """Since API 1.42 only anonymous volumes, unless the filter `all` says otherwise; before, all of them."""
    filters = parse_filters(request.query.get("filters", ""), {"label", "label!", "all"})
    if request[VERSION] < (1, 42):
        filters["all"] = ["true"]
    removed, reclaimed = await engine(request).volumes.prune(filters)
    return json_response({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})


ROUTES = [
    web.get("/volumes", list_volumes, allow_head=False),
    web.post("/volumes/create", create),
    web.post("/volumes/prune", prune),
    web.get("/volumes/{name}", inspect, allow_head=False),
    web.delete("/volumes/{name}", remove),
]
