"""Routes of what a single node without a swarm does not have: answered as Docker answers them, or refused with the reason."""

from __future__ import annotations

from aiohttp import web

from pystack.api.errors import json_response
from pystack.model.errors import NotFound, Unavailable, Unsupported

_SWARM = ("swarm", "services", "nodes", "tasks", "secrets", "configs")


async def no_swarm(request: web.Request) -> web.Response:
    if request.path.endswith("/swarm/leave"):
        raise Unavailable("This node is not part of a swarm")
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
        "to connect this node to swarm and try again."
    )


async def no_plugins(_: web.Request) -> web.Response:
    return json_response([])


async def no_such_plugin(request: web.Request) -> web.Response:
    raise NotFound(f'plugin "{request.match_info["name"][:256]}" not found')


async def no_managed_plugins(_: web.Request) -> web.Response:
    raise Unsupported(
        "cannot use managed plugins: this engine does not run them",
        hint="run the plugin yourself, with its socket in /run/docker/plugins",
    )


async def no_checkpoints(_: web.Request) -> web.Response:
    raise Unsupported("cannot use checkpoints: this engine does not make them")


ROUTES = [
    *(web.route("*", f"/{name}", no_swarm) for name in _SWARM),
    *(web.route("*", f"/{name}/{{rest:.*}}", no_swarm) for name in _SWARM),
    web.put("/volumes/{name}", no_swarm),
    web.get("/plugins", no_plugins, allow_head=False),
    web.get("/plugins/privileges", no_managed_plugins, allow_head=False),
    web.post("/plugins/pull", no_managed_plugins),
    web.post("/plugins/create", no_managed_plugins),
    web.get("/plugins/{name:.+}/json", no_such_plugin, allow_head=False),
    *(
        web.post(f"/plugins/{{name:.+}}/{verb}", no_such_plugin)
        for verb in ("enable", "disable", "push", "upgrade", "set")
    ),
    web.delete("/plugins/{name:.+}", no_such_plugin),
    web.get("/containers/{id}/checkpoints", no_checkpoints, allow_head=False),
    web.post("/containers/{id}/checkpoints", no_checkpoints),
    web.delete("/containers/{id}/checkpoints/{checkpoint}", no_checkpoints),
]
