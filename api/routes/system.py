"""Routes about the engine itself: ping, version, info, disk use; and the daemon's own; and what a single node is not."""

from __future__ import annotations

import asyncio

from aiohttp import web

from pystack.api.context import FACTS, engine
from pystack.api.docker.container import summary
from pystack.api.docker.objects import image_summary, volume_json
from pystack.api.errors import json_response
from pystack.model.errors import Unavailable, Unsupported

_PING = {
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": "text/plain; charset=utf-8",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(request: web.Request) -> web.Response:
    """HEAD and GET: clients read the API version from the headers."""
    if request.method == "HEAD":
        return web.Response(headers={**_PING, "Content-Length": "0"})
    return web.Response(body=b"OK", headers=_PING)


async def version(request: web.Request) -> web.Response:
    return json_response(await engine(request).version())


async def info(request: web.Request) -> web.Response:
    return json_response(await engine(request).info())


async def disk_usage(request: web.Request) -> web.Response:
    """Sizes of containers and volumes are not measured: they are 0 and -1, Docker's words for unknown."""
    wanted = set(request.query.getall("type", [])) or {"container", "image", "volume", "build-cache"}
    found = engine(request)
    body: dict[str, object] = {}
    containers = await found.containers.list(all=True)
    if "image" in wanted:
        images = await found.images.list(all=True)
        users = [view.image_id for view in containers]
        body["LayersSize"] = sum(view.size for view in images)
        body["Images"] = [image_summary(view, users.count(view.id)) | {"SharedSize": 0} for view in images]
    if "container" in wanted:
        body["Containers"] = [summary(view) | {"SizeRw": 0, "SizeRootFs": 0} for view in containers]
    if "volume" in wanted:
        names = [mount.name for view in containers for mount in view.mounts if mount.name]
        body["Volumes"] = [
            volume_json(view) | {"UsageData": {"RefCount": names.count(view.name), "Size": -1}}
            for view in await found.volumes.list()
        ]
    if "build-cache" in wanted:
        body["BuildCache"] = []
        body["BuilderSize"] = 0
    return json_response(body)


async def auth(_: web.Request) -> web.Response:
    raise Unsupported("cannot log in: registries are not supported yet")


async def no_swarm(_: web.Request) -> web.Response:
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
        "to connect this node to swarm and try again."
    )


async def plugins(_: web.Request) -> web.Response:
    return json_response([])


async def daemon(request: web.Request) -> web.Response:
    """GET /daemon: which daemon answers on this socket."""
    facts = request.app[FACTS]
    return json_response(
        {
            "pid": facts.pid,
            "launcher": facts.launcher_pid(),
            "version": facts.version,
            "instance": facts.instance.id,
            "root": facts.instance.root,
            "run": facts.instance.run,
            "socket": facts.instance.socket,
        }
    )


async def daemon_stop(request: web.Request) -> web.Response:
    """POST /daemon/stop: end the daemon in an orderly way; containers keep running."""
    asyncio.get_running_loop().call_soon(request.app[FACTS].stop.set)
    return json_response({"pid": request.app[FACTS].pid}, status=202)


_SWARM = ("swarm", "services", "nodes", "tasks", "secrets", "configs")

ROUTES = [
    web.head("/_ping", ping),
    web.get("/_ping", ping, allow_head=False),
    web.get("/version", version, allow_head=False),
    web.get("/info", info, allow_head=False),
    web.get("/system/df", disk_usage, allow_head=False),
    web.post("/auth", auth),
    web.get("/plugins", plugins, allow_head=False),
    web.get("/daemon", daemon, allow_head=False),
    web.post("/daemon/stop", daemon_stop),
    *(web.route("*", f"/{name}", no_swarm) for name in _SWARM),
    *(web.route("*", f"/{name}/{{rest:.*}}", no_swarm) for name in _SWARM),
]
