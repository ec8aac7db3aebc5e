"""Every route of Docker's API document is answered, and what a single node does not have is answered as Docker does."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import apicases
import pytest
import yaml
from aiohttp import ClientSession, UnixConnector
from fake.api_engine import FakeEngine

from pystack.api.context import DaemonFacts
from pystack.api.listeners import bind_socket
from pystack.api.server import ApiServer, build_app
from pystack.model.names import Instance

pytestmark = pytest.mark.anyio

HEADERS = {
    "Api-Version": "1.50",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": "Docker/28.2.2 (linux)",
}
NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)


@pytest.fixture
async def session(tmp_path: Path, anyio_backend: str) -> AsyncIterator[ClientSession]:
    path = str(tmp_path / "api")
    facts = DaemonFacts(
        instance=Instance(root="/r", run=str(tmp_path), socket=path), version="0", pid=os.getpid()
    )
    server = ApiServer(build_app(FakeEngine(), facts))
    await server.start([bind_socket(path)])
    async with ClientSession("http://d", connector=UnixConnector(path=path)) as made:
        yield made
    await server.stop()


@pytest.mark.skipif(not apicases.SWAGGER.exists(), reason=f"the API's document is not at {apicases.SWAGGER}")
async def test_every_documented_route_is_there(session: ClientSession) -> None:
    app = build_app(
        FakeEngine(), DaemonFacts(instance=Instance(root="/", run="/", socket="/"), version="", pid=1)
    )
    missing = []
    for method, template in apicases.operations(yaml.load(apicases.SWAGGER.read_text(), yaml.CSafeLoader)):
        path = re.sub(r"{\w+}", "x", template)
        if not any(
            resource.method in {method, "*"}
            and resource.resource
            and resource.resource._match(path) is not None
            for resource in app.router.routes()
        ):
            missing.append((method, template))
    assert missing == []


ANSWERS: list[tuple[str, str, int, str | None]] = [
    ("GET", "/nodes", 503, NO_SWARM),
    ("POST", "/swarm/init", 503, NO_SWARM),
    ("POST", "/services/create", 503, NO_SWARM),
    ("POST", "/swarm/leave", 503, "This node is not part of a swarm"),
    ("GET", "/tasks/x/logs", 503, NO_SWARM),
    ("PUT", "/volumes/x", 503, NO_SWARM),
    ("GET", "/plugins/x/json", 404, 'plugin "x" not found'),
    ("POST", "/plugins/x/enable", 404, 'plugin "x" not found'),
    ("DELETE", "/plugins/a/b:c", 404, 'plugin "a/b:c" not found'),
    ("POST", "/plugins/pull?remote=x", 501, None),
    ("POST", "/plugins/create?name=x", 501, None),
    ("GET", "/containers/x/checkpoints", 501, None),
    ("POST", "/containers/x/checkpoints", 501, None),
    ("DELETE", "/containers/x/checkpoints/y", 501, None),
    ("GET", "/nosuch", 404, "page not found"),
    ("PATCH", "/info", 404, "page not found"),
    ("HEAD", "/info", 404, None),
    ("GET", "/v1.23/info", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"),
    ("GET", "/v1.51/info", 400, "client version 1.51 is too new. Maximum supported API version is 1.50"),
    ("GET", "/containers/json?filters={", 400, None),
    ("GET", '/containers/json?filters={"nosuch":["a"]}', 400, "invalid filter 'nosuch'"),
]  # fmt: skip


async def test_answers_of_a_single_node(session: ClientSession) -> None:
    for method, path, status, message in ANSWERS:
        async with session.request(method, path) as reply:
            assert reply.status == status, (method, path)
            assert {name: reply.headers[name] for name in HEADERS} == HEADERS
            assert reply.headers["Content-Type"] == "application/json"
            if method != "HEAD":
                told = await reply.json()
                assert message is None or told["message"] == message
                assert isinstance(told["message"], str)


async def test_lists_are_never_null(session: ClientSession) -> None:
    for path in (
        "/containers/json",
        "/images/json",
        "/networks",
        "/plugins",
        "/containers/json?all=1&limit=3",
    ):
        for version in ("", "/v1.24", "/v1.50"):
            async with session.get(version + path) as reply:
                assert reply.status == 200
                assert isinstance(await reply.json(), list)
        async with session.options(path) as reply:
            assert (reply.status, await reply.read()) == (200, b"")
