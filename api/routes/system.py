"""Routes about the engine itself: ping, version, info, disk use; and the daemon's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from pystack.api.context import FACTS, engine
from pystack.api.docker.container import summary
from pystack.api.docker.objects import image_summary, volume_json
from pystack.api.errors import json_response
from pystack.engine.interface import Engine
from pystack.model.errors import InvalidInput, NotFound, Unsupported
from pystack.model.observed import ContainerView

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
    wanted = set(request.query.getall("type", []))
    unknown = next((name for name in sorted(wanted) if name not in _USAGES), None)
    if unknown is not None:
        raise InvalidInput(f"unknown object type: {unknown[:40]}")
    found = engine(request)
    body: dict[str, object] = {}
    containers = await found.containers.list(all=True)
    for name in _USAGES if not wanted else [name for name in _USAGES if name in wanted]:
        body |= await _USAGES[name](found, containers)
    return json_response(body)


async def _image_usage(found: Engine, containers: Sequence[ContainerView]) -> dict[str, object]:
    users = Counter(view.image_id for view in containers)
    total, shared = found.images.usage()
    images = [
        image_summary(view, users[view.id]) | {"SharedSize": shared.get(view.id, 0)}
        for view in await found.images.list(all=True)
    ]
    return {"LayersSize": total, "Images": images}


async def _container_usage(found: Engine, containers: Sequence[ContainerView]) -> dict[str, object]:
    sizes = {view.id: view.size for view in await found.images.list(all=True)}
    usages = []
    for view in containers:
        try:
            own = await found.files.size(view.id)
        except NotFound:
            continue  # removed since it was listed
        usages.append(summary(view) | {"SizeRw": own, "SizeRootFs": own + sizes.get(view.image_id, 0)})
    return {"Containers": usages}


async def _volume_usage(found: Engine, containers: Sequence[ContainerView]) -> dict[str, object]:
    users = Counter(mount.name for view in containers for mount in view.mounts if mount.name)
    usages = []
    for view in await found.volumes.list():
        try:
            size = await found.volumes.usage(view.name)
        except NotFound:
            continue
        usages.append(volume_json(view) | {"UsageData": {"RefCount": users[view.name], "Size": size}})
    return {"Volumes": usages}


async def _cache_usage(_found: Engine, _containers: Sequence[ContainerView]) -> dict[str, object]:
    return {"BuildCache": [], "BuilderSize": 0}


_USAGES: dict[str, Callable[[Engine, Sequence[ContainerView]], Awaitable[dict[str, object]]]] = {
    "container": _container_usage,
    "image": _image_usage,
    "volume": _volume_usage,
    "build-cache": _cache_usage,
}


async def auth(_: web.Request) -> web.Response:
    raise Unsupported(
        "cannot log in: this engine does not talk to registries yet; docker save and docker load move images"
    )


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


ROUTES = [
    web.head("/_ping", ping),
    web.get("/_ping", ping, allow_head=False),
    web.get("/version", version, allow_head=False),
    web.get("/info", info, allow_head=False),
    web.get("/system/df", disk_usage, allow_head=False),
    web.post("/auth", auth),
    web.get("/daemon", daemon, allow_head=False),
    web.post("/daemon/stop", daemon_stop),
]
