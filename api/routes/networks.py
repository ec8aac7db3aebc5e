"""Routes below /networks."""

from __future__ import annotations

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.create import endpoint_of
from pystack.api.docker.objects import network_json, network_spec
from pystack.api.docker.wire import ConnectBody, DisconnectBody, NetworkBody
from pystack.api.errors import json_response
from pystack.api.filters import parse_filters
from pystack.api.jsons import read_json
from pystack.model.errors import InvalidInput

_LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


async def list_networks(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), _LIST_FILTERS)
    views = await engine(request).networks.list(filters)
    return json_response([network_json(view, containers=False) for view in views])


async def inspect(request: web.Request) -> web.Response:
    return json_response(network_json(await engine(request).networks.inspect(request.match_info["id"])))


async def create(request: web.Request) -> web.Response:
    body = await read_json(request, NetworkBody)
    made = await engine(request).networks.create(network_spec(body))
    return json_response({"Id": made.id, "Warning": "\n".join(made.warnings)}, status=201)


async def remove(request: web.Request) -> web.Response:
    await engine(request).networks.remove(request.match_info["id"])
    return web.Response(status=204)


async def connect(request: web.Request) -> web.Response:
    body = await read_json(request, ConnectBody)
    if not body.Container:
        raise InvalidInput("cannot connect to the network: no container given")
    ref = request.match_info["id"]
    await engine(request).networks.connect(ref, body.Container, endpoint_of(ref, body.EndpointConfig))
    return web.Response()


async def disconnect(request: web.Request) -> web.Response:
    body = await read_json(request, DisconnectBody)
    if not body.Container:
        raise InvalidInput("cannot disconnect from the network: no container given")
    await engine(request).networks.disconnect(
        request.match_info["id"], body.Container, force=bool(body.Force)
    )
    return web.Response()


async def prune(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), {"until", "label", "label!"})
    return json_response({"NetworksDeleted": await engine(request).networks.prune(filters)})


ROUTES = [
    web.get("/networks", list_networks, allow_head=False),
    web.get("/networks/", list_networks, allow_head=False),
    web.post("/networks/create", create),
    web.post("/networks/prune", prune),
    web.get("/networks/{id}", inspect, allow_head=False),
    web.delete("/networks/{id}", remove),
    web.post("/networks/{id}/connect", connect),
    web.post("/networks/{id}/disconnect", disconnect),
]
