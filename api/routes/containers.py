"""Routes below /containers: the life of a container, and lists of them."""

from __future__ import annotations

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.container import inspect_json, summary
from pystack.api.docker.create import exec_of, restart_of, spec_of
from pystack.api.docker.resources import update_of
from pystack.api.docker.wire import ContainerBody, ExecBody, UpdateBody
from pystack.api.errors import json_response
from pystack.api.filters import flag, integer, parse_filters
from pystack.api.jsons import read_json
from pystack.model.errors import InvalidInput, NotFound, Unsupported
from pystack.model.observed import ContainerView

_LIST_FILTERS = frozenset(
    "ancestor before exited expose health id is-task isolation label name network publish since status volume".split()  # noqa: SIM905
)
_PRUNE_FILTERS = frozenset({"until", "label", "label!"})


async def list_containers(request: web.Request) -> web.Response:
    query = request.query
    views = await engine(request).containers.list(
        all=flag(query, "all"),
        filters=parse_filters(query.get("filters", ""), _LIST_FILTERS),
        limit=max(0, integer(query, "limit") or 0),
    )
    sized = flag(query, "size")
    return json_response([summary(view) | (await _sizes(request, view) if sized else {}) for view in views])


async def _sizes(request: web.Request, view: ContainerView) -> dict[str, int]:
    """What a container has written, and that with its image; nothing for one that is gone by now."""
    try:
        own = await engine(request).files.size(view.id)
        return {
            "SizeRw": own,
            "SizeRootFs": own + (await engine(request).images.inspect(view.image_id)).size,
        }
    except NotFound:
        return {}


async def create(request: web.Request) -> web.Response:
    body = await read_json(request, ContainerBody)
    platform = request.query.get("platform", "")
    if platform:
        await _check_platform(request, body.Image or "", platform[:64])
    name = request.query.get("name", "").removeprefix("/")
    made = await engine(request).containers.create(spec_of(body), name)
    return json_response({"Id": made.id, "Warnings": list(made.warnings)}, status=201)


async def _check_platform(request: web.Request, image: str, platform: str) -> None:
    """NotFound, upon which clients pull, unless the image is of this platform (os[/architecture[/variant]])."""
    system, _, rest = platform.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    architecture = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(architecture, architecture)
    view = await engine(request).images.inspect(image)
    if (
        system != view.os
        or architecture not in {"", view.architecture}
        or variant not in {"", view.variant or variant}
    ):
        raise NotFound(
            f"image with reference {image} was found but its platform ({view.os}/{view.architecture}) does not match "
            f"the specified platform ({platform})"
        )


async def inspect(request: web.Request) -> web.Response:
    view = await engine(request).containers.inspect(request.match_info["id"])
    sizes = await _sizes(request, view) if flag(request.query, "size") else {}
    return json_response(inspect_json(view) | sizes)


async def start(request: web.Request) -> web.Response:
    if request.query.get("checkpoint"):
        raise Unsupported("cannot start from a checkpoint: checkpoints are not supported")
    await engine(request).containers.start(request.match_info["id"])
    return web.Response(status=204)


async def stop(request: web.Request) -> web.Response:
    query = request.query
    await engine(request).containers.stop(
        request.match_info["id"], timeout=integer(query, "t"), signal=query.get("signal", "")
    )
    return web.Response(status=204)


async def restart(request: web.Request) -> web.Response:
    query = request.query
    await engine(request).containers.restart(
        request.match_info["id"], timeout=integer(query, "t"), signal=query.get("signal", "")
    )
    return web.Response(status=204)


async def kill(request: web.Request) -> web.Response:
    await engine(request).containers.kill(
        request.match_info["id"], signal=request.query.get("signal") or "KILL"
    )
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    await engine(request).containers.pause(request.match_info["id"])
    return web.Response(status=204)


async def unpause(request: web.Request) -> web.Response:
    await engine(request).containers.unpause(request.match_info["id"])
    return web.Response(status=204)


async def rename(request: web.Request) -> web.Response:
    name = request.query.get("name", "").removeprefix("/")
    if not name:
        raise InvalidInput("Neither old nor new names may be empty")
    await engine(request).containers.rename(request.match_info["id"], name)
    return web.Response(status=204)


async def update(request: web.Request) -> web.Response:
    body = await read_json(request, UpdateBody)
    restart_policy = body.RestartPolicy
    warnings = await engine(request).containers.update(
        request.match_info["id"],
        resources=update_of(body),
        restart=restart_of(restart_policy) if restart_policy is not None and restart_policy.Name else None,
    )
    return json_response({"Warnings": list(warnings)})


async def remove(request: web.Request) -> web.Response:
    query = request.query
    if flag(query, "link"):
        raise Unsupported("cannot remove a link: links are not supported")
    await engine(request).containers.remove(
        request.match_info["id"], force=flag(query, "force"), volumes=flag(query, "v")
    )
    return web.Response(status=204)


async def prune(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), _PRUNE_FILTERS)
    removed, reclaimed = await engine(request).containers.prune(filters)
    return json_response({"ContainersDeleted": removed, "SpaceReclaimed": reclaimed})


async def top(request: web.Request) -> web.Response:
    titles, processes = await engine(request).containers.top(
        request.match_info["id"], request.query.get("ps_args") or "-ef"
    )
    return json_response({"Titles": titles, "Processes": processes})


async def exec_create(request: web.Request) -> web.Response:
    body = await read_json(request, ExecBody)
    identifier = await engine(request).containers.exec_create(request.match_info["id"], exec_of(body))
    return json_response({"Id": identifier}, status=201)


ROUTES = [
    web.get("/containers/json", list_containers, allow_head=False),
    web.post("/containers/create", create),
    web.post("/containers/prune", prune),
    web.get("/containers/{id}/json", inspect, allow_head=False),
    web.post("/containers/{id}/start", start),
    web.post("/containers/{id}/stop", stop),
    web.post("/containers/{id}/restart", restart),
    web.post("/containers/{id}/kill", kill),
    web.post("/containers/{id}/pause", pause),
    web.post("/containers/{id}/unpause", unpause),
    web.post("/containers/{id}/rename", rename),
    web.post("/containers/{id}/update", update),
    web.delete("/containers/{id}", remove),
    web.get("/containers/{id}/top", top, allow_head=False),
    web.post("/containers/{id}/exec", exec_create),
]
