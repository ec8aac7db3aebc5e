"""Routes of a container's files: copies in and out, export, changes."""

from __future__ import annotations

import base64
import stat

from aiohttp import web

from pystack.api import jsons
from pystack.api.context import engine
from pystack.api.docker.clock import rfc3339
from pystack.api.docker.wire import ImageConfigBody
from pystack.api.errors import json_response
from pystack.api.filters import flag
from pystack.api.jsons import read_json
from pystack.api.streams import body_chunks, byte_stream
from pystack.engine.interface import CommitRequest, PathStat

#: Go's os.FileMode: the bits that are not permissions (go/src/io/fs/fs.go), by those of st_mode.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_SPECIAL = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}
_TAR = "application/x-tar"


def go_mode(mode: int) -> int:
    """An st_mode as Go's os.FileMode."""
    special = sum(bit for own, bit in _SPECIAL.items() if mode & own)
    return (mode & 0o777) | _KINDS.get(stat.S_IFMT(mode), 0) | special


def _stat_header(status: PathStat) -> dict[str, str]:
    body = {
        "name": status.name,
        "size": status.size,
        "mode": go_mode(status.mode),
        "mtime": rfc3339(status.mtime_ns),
        "linkTarget": status.link_target,
    }
    return {"X-Docker-Container-Path-Stat": base64.b64encode(jsons.dumps(body)).decode()}


def _path(request: web.Request) -> str:
    return request.query.get("path", "")


async def look(request: web.Request) -> web.Response:
    status = await engine(request).files.stat(request.match_info["id"], _path(request))
    return web.Response(headers=_stat_header(status))


async def take(request: web.Request) -> web.StreamResponse:
    """GET: a tar of what the path names."""
    async with engine(request).files.archive(request.match_info["id"], _path(request)) as (status, chunks):
        return await byte_stream(request, chunks, _TAR, _stat_header(status))


async def put(request: web.Request) -> web.Response:
    query = request.query
    await engine(request).files.extract(
        request.match_info["id"],
        _path(request),
        body_chunks(request),
        keep_kinds=flag(query, "noOverwriteDirNonDir"),
        copy_owner=flag(query, "copyUIDGID"),
    )
    return web.Response()


async def export(request: web.Request) -> web.StreamResponse:
    async with engine(request).files.export(request.match_info["id"]) as chunks:
        return await byte_stream(request, chunks, "application/octet-stream")


async def changes(request: web.Request) -> web.Response:
    found = await engine(request).files.changes(request.match_info["id"])
    return json_response([{"Path": change.path, "Kind": change.kind} for change in found])


async def commit(request: web.Request) -> web.Response:
    """POST /commit. The body may hold a config that goes before the container's."""
    query = request.query
    body = await read_json(request, ImageConfigBody, optional=True)
    given = body.model_dump(exclude_none=True)
    made = await engine(request).files.commit(
        query.get("container", ""),
        CommitRequest(
            repository=query.get("repo", ""),
            tag=query.get("tag", ""),
            comment=query.get("comment", ""),
            author=query.get("author", ""),
            pause=flag(query, "pause", True),
            changes=tuple(query.getall("changes", [])),
            config=_config(body) if given else None,
        ),
    )
    return json_response({"Id": made}, status=201)


def _config(body: ImageConfigBody) -> dict[str, object]:
    """A config object as an image has it."""
    config = body.model_dump(exclude_none=True)
    for key in ("Cmd", "Entrypoint"):
        if isinstance(config.get(key), str):
            config[key] = [config[key]]
    return config


ROUTES = [
    web.post("/commit", commit),
    web.get("/containers/{id}/changes", changes, allow_head=False),
    web.get("/containers/{id}/export", export, allow_head=False),
    web.head("/containers/{id}/archive", look),
    web.get("/containers/{id}/archive", take, allow_head=False),
    web.put("/containers/{id}/archive", put),
]
