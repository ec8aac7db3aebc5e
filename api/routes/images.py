"""Routes below /images, and those of building: what the engine does not do yet is refused with a sentence that says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from pystack.api.context import engine
from pystack.api.docker.objects import image_json, image_summary
from pystack.api.errors import json_response
from pystack.api.filters import flag, parse_filters
from pystack.api.streams import json_lines
from pystack.model.errors import Conflict, InvalidInput, NotFound, Unsupported

_LIST_FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})
_PIECE = 1 << 20


async def list_images(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), _LIST_FILTERS)
    views = await engine(request).images.list(all=flag(request.query, "all"), filters=filters)
    return json_response([image_summary(view) for view in views])


async def inspect(request: web.Request) -> web.Response:
    return json_response(image_json(await engine(request).images.inspect(request.match_info["name"])))


async def history(request: web.Request) -> web.Response:
    return json_response(await engine(request).images.history(request.match_info["name"]))


async def tag(request: web.Request) -> web.Response:
    repository, label = request.query.get("repo", ""), request.query.get("tag", "")
    if not repository:
        raise InvalidInput("cannot tag the image: no repository given")
    await engine(request).images.tag(
        request.match_info["name"], f"{repository}:{label}" if label else repository
    )
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    query = request.query
    removed = await engine(request).images.remove(
        request.match_info["name"], force=flag(query, "force"), prune_parents=not flag(query, "noprune")
    )
    return json_response(removed)


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(_PIECE):
        yield chunk


async def load(request: web.Request) -> web.StreamResponse:
    async def lines() -> AsyncIterator[object]:
        async for line in engine(request).images.load(_body(request)):
            yield {"stream": line if line.endswith("\n") else f"{line}\n"}

    return await json_lines(request, lines())


def _reference(name: str, label: str) -> str:
    if not label:
        return name
    return f"{name}@{label}" if ":" in label else f"{name}:{label}"


async def pull(request: web.Request) -> web.StreamResponse:
    """POST /images/create: images that need no registry are made ready; for others there is no registry client yet."""
    query = request.query
    if query.get("fromSrc"):
        raise Unsupported("cannot import an image: imports are not supported yet", hint="docker load")
    name = query.get("fromImage", "")
    if not name:
        raise InvalidInput("cannot pull: no image given")
    reference = _reference(name, query.get("tag", ""))
    try:
        view = await engine(request).images.ensure(reference)
    except NotFound as error:
        raise NotFound(
            f"cannot pull {reference}: registry pulls are not supported yet", hint=error.hint
        ) from error

    async def lines() -> AsyncIterator[object]:
        yield {"status": f"Pulling from {name}", "id": query.get("tag") or "latest"}
        yield {"status": f"Digest: {view.id}"}
        yield {"status": f"Status: Image is up to date for {reference}"}

    return await json_lines(request, lines())


async def save(request: web.Request) -> web.Response:
    names = (
        [request.match_info["name"]] if "name" in request.match_info else request.query.getall("names", [])
    )
    for name in names:
        view = await engine(request).images.inspect(name)
        if view.synthetic:
            raise Unsupported(f"cannot save {name}: {view.synthetic}")
    raise Unsupported("cannot save images: saving is not supported yet")


async def not_yet(request: web.Request) -> web.Response:
    what = request.path.strip("/")
    raise Unsupported(f"cannot serve {request.method} /{what}: this engine does not support it yet")


async def push(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    view = await engine(request).images.inspect(name)
    raise Unsupported(f"cannot push {name}: {view.synthetic or 'registry pushes are not supported yet'}")


async def prune(request: web.Request) -> web.Response:
    """Images without a tag that no container uses; with the filter `dangling=false` tagged ones, too."""
    filters = parse_filters(request.query.get("filters", ""), {"dangling"})
    tagged = any(value.lower() in {"false", "0"} for value in filters.get("dangling", ()))
    found = engine(request)
    used = {view.image_id for view in await found.containers.list(all=True)}
    removed: list[dict[str, str]] = []
    reclaimed = 0
    for view in await found.images.list():
        if view.id in used or view.synthetic or (view.repo_tags and not tagged):
            continue
        try:
            for name in view.repo_tags or (view.id,):
                removed += await found.images.remove(name)
        except (Conflict, NotFound):
            continue  # in use or gone since it was listed
        reclaimed += view.size
    return json_response({"ImagesDeleted": removed, "SpaceReclaimed": reclaimed})


async def prune_build_cache(_: web.Request) -> web.Response:
    """There is no build cache, so that `docker system prune` has nothing to do here."""
    return json_response({"CachesDeleted": [], "SpaceReclaimed": 0})


ROUTES = [
    web.get("/images/json", list_images, allow_head=False),
    web.post("/images/create", pull),
    web.post("/images/load", load),
    web.post("/images/prune", prune),
    web.get("/images/search", not_yet, allow_head=False),
    web.get("/images/get", save, allow_head=False),
    web.get("/images/{name:.+}/json", inspect, allow_head=False),
    web.get("/images/{name:.+}/history", history, allow_head=False),
    web.get("/images/{name:.+}/get", save, allow_head=False),
    web.post("/images/{name:.+}/tag", tag),
    web.post("/images/{name:.+}/push", push),
    web.delete("/images/{name:.+}", remove),
    web.get("/distribution/{name:.+}/json", not_yet, allow_head=False),
    web.post("/build", not_yet),
    web.post("/build/prune", prune_build_cache),
    web.post("/build/cancel", not_yet),
    web.post("/session", not_yet),
    web.post("/grpc", not_yet),
    web.post("/commit", not_yet),
]
