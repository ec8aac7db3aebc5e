"""Routes below /images, and those of building.

What the engine does not do yet is refused with one sentence that says what to do instead: the docker command shows no hint.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from pystack.api import jsons
from pystack.api.context import engine
from pystack.api.docker.clock import rfc3339
from pystack.api.docker.objects import image_json, image_summary
from pystack.api.errors import json_response
from pystack.api.filters import flag, parse_filters
from pystack.api.streams import body_chunks, byte_stream, json_lines
from pystack.image import changes
from pystack.image.newimage import About
from pystack.image.references import normalise
from pystack.model.errors import InvalidInput, NotFound, Unsupported

_VERBS = {"search": "search", "distribution": "look an image up"}
_LIST_FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})


async def list_images(request: web.Request) -> web.Response:
    filters = parse_filters(request.query.get("filters", ""), _LIST_FILTERS)
    views = await engine(request).images.list(all=flag(request.query, "all"), filters=filters)
    shared = engine(request).images.usage()[1] if flag(request.query, "shared-size") else {}
    return json_response([image_summary(view) | _shared(view.id, shared) for view in views])


def _shared(image_id: str, shared: Mapping[str, int]) -> dict[str, int]:
    return {"SharedSize": shared[image_id]} if image_id in shared else {}


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


async def load(request: web.Request) -> web.StreamResponse:
    async def lines() -> AsyncIterator[object]:
        async for line in engine(request).images.load(body_chunks(request)):
            yield {"stream": line if line.endswith("\n") else f"{line}\n"}

    return await json_lines(request, lines())


def _reference(name: str, label: str) -> str:
    if not label:
        return name
    return f"{name}@{label}" if ":" in label else f"{name}:{label}"


async def create(request: web.Request) -> web.StreamResponse:
    """POST /images/create: an import of a tar, or a pull."""
    return await (import_image if request.query.get("fromSrc") else pull)(request)


async def pull(request: web.Request) -> web.StreamResponse:
    """Images that need no registry are made ready; for others there is no registry client yet."""
    query = request.query
    name = query.get("fromImage", "")
    if not name:
        raise InvalidInput("cannot pull: no image given")
    reference = _reference(name, query.get("tag", ""))
    try:
        view = await engine(request).images.ensure(reference)
    except NotFound as error:
        familiar = normalise(reference).familiar
        if familiar.startswith("host.local/"):
            raise
        raise NotFound(
            f"cannot pull {familiar}: this engine does not talk to registries yet; docker load an archive of it, "
            "or use host.local/base"
        ) from error

    async def lines() -> AsyncIterator[object]:
        yield {"status": f"Pulling from {name}", "id": query.get("tag") or "latest"}
        yield {"status": f"Digest: {view.id}"}
        yield {"status": f"Status: Image is up to date for {reference}"}

    return await json_lines(request, lines())


async def import_image(request: web.Request) -> web.StreamResponse:
    """The body is the tar. A daemon that fetched URLs for its clients would reach what they cannot."""
    query = request.query
    if query["fromSrc"] != "-":
        raise Unsupported(
            "cannot import from a URL: the daemon does not download for its clients; curl -L URL | docker import - NAME"
        )
    config = changes.apply({}, query.getall("changes", []))
    name = query.get("repo", "")
    about = About(
        config=config,
        created=rfc3339(time.time_ns()),
        comment=query.get("message") or "Imported from -",
    )
    reference = normalise(_reference(name, query.get("tag", ""))) if name else None
    target = _platform(query.get("platform", ""))
    made = await engine(request).images.import_root(body_chunks(request), about, reference, target)

    async def lines() -> AsyncIterator[object]:
        yield {"status": made}

    return await json_lines(request, lines())


def _platform(text: str) -> tuple[str, str] | None:
    """(architecture, variant) of "linux/arm64/v8", or of the JSON object that newer clients send; None for no text."""
    if not text:
        return None
    if text.startswith("{"):
        given = jsons.parse(text.encode())
        parts = [given.get(key) or "" for key in ("os", "architecture", "variant")]
    else:
        parts = text.split("/")
    if not all(isinstance(part, str) for part in parts) or len(parts) > 3 or parts[0] != "linux":
        raise InvalidInput(f"cannot use platform {text[:60]!r}: it is linux/ARCHITECTURE[/VARIANT]")
    _, architecture, variant = [*parts, "", ""][:3]
    return (architecture, variant) if architecture else None


async def save(request: web.Request) -> web.StreamResponse:
    """GET /images/{name}/get and /images/get?names=…"""
    query = request.query
    names = [request.match_info["name"]] if "name" in request.match_info else query.getall("names", [])
    target = _platform(query.get("platform", ""))
    async with engine(request).images.save(names, target) as chunks:
        return await byte_stream(request, chunks, "application/x-tar")


async def no_registry(request: web.Request) -> web.Response:
    raise Unsupported(
        f"cannot {_VERBS[request.match_info.route.name or '']}: this engine does not talk to registries yet; "
        "docker save and docker load move images, and host.local/base needs no registry"
    )


async def no_builder(_: web.Request) -> web.Response:
    raise Unsupported(
        "cannot build: this engine has no builder yet; build elsewhere and docker load the image, "
        "or docker commit a container"
    )


async def push(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    view = await engine(request).images.inspect(name)
    if view.synthetic:
        raise Unsupported(f"cannot push {name}: {view.synthetic}")
    raise Unsupported(
        f"cannot push {name}: this engine does not talk to registries yet; docker save it, and docker load it "
        "where it is needed"
    )


async def prune(request: web.Request) -> web.Response:
    """Images without a tag that no container uses; with the filter `dangling=false` tagged ones, too."""
    filters = parse_filters(request.query.get("filters", ""), {"dangling", "until", "label", "label!"})
    removed, reclaimed = await engine(request).images.prune(filters)
    return json_response({"ImagesDeleted": removed, "SpaceReclaimed": reclaimed})


async def prune_build_cache(_: web.Request) -> web.Response:
    """There is no build cache, so that `docker system prune` has nothing to do here."""
    return json_response({"CachesDeleted": [], "SpaceReclaimed": 0})


ROUTES = [
    web.get("/images/json", list_images, allow_head=False),
    web.post("/images/create", create),
    web.post("/images/load", load),
    web.post("/images/prune", prune),
    web.get("/images/search", no_registry, allow_head=False, name="search"),
    web.get("/images/get", save, allow_head=False),
    web.get("/images/{name:.+}/json", inspect, allow_head=False),
    web.get("/images/{name:.+}/history", history, allow_head=False),
    web.get("/images/{name:.+}/get", save, allow_head=False),
    web.post("/images/{name:.+}/tag", tag),
    web.post("/images/{name:.+}/push", push),
    web.delete("/images/{name:.+}", remove),
    web.get("/distribution/{name:.+}/json", no_registry, allow_head=False, name="distribution"),
    web.post("/build", no_builder),
    web.post("/build/prune", prune_build_cache),
    web.post("/build/cancel", no_builder),
    web.post("/session", no_builder),
    web.post("/grpc", no_builder),
]
