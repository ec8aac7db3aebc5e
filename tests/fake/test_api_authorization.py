"""Authorization plugins: a plugin written for the test, on a unix socket, sees and decides what the API does."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from fake.api_engine import FakeEngine
from yarl import URL

from pystack.api.authorization import MAX_BODY
from pystack.api.context import DaemonFacts
from pystack.api.listeners import bind_socket
from pystack.api.server import ApiServer, build_app
from pystack.model.errors import EngineError, NotFound
from pystack.model.names import Instance
from pystack.model.settings import Settings
from pystack.volume import plugins
from pystack.volume.plugins import Plugins, find

pytestmark = pytest.mark.anyio


class Guard:
    """The plugin: keeps what it was asked, answers what the test sets."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.verdict: dict[str, Any] | str = {"Allow": True}
        self.on_reply: dict[str, Any] = {"Allow": True}
        self.implements = ["authz"]
        self.runner: web.AppRunner

    async def _post(self, request: web.Request) -> web.Response:
        method = request.path[1:]
        if method == "Plugin.Activate":
            return web.json_response({"Implements": self.implements})
        self.asked.append((method.removeprefix("AuthZPlugin."), await request.json()))
        verdict = self.verdict if method.endswith("Req") else self.on_reply
        return web.Response(text=verdict) if isinstance(verdict, str) else web.json_response(verdict)

    async def start(self, path: Path) -> None:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/{method}", self._post)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.UnixSite(self.runner, str(path)).start()


class Scene:
    def __init__(self, session: ClientSession, guard: Guard, engine: FakeEngine, place: Path) -> None:
        self.session, self.guard, self.engine, self.place = session, guard, engine, place

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, f"http://d{path}", **options) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if reply.content_type == "application/json" else text


@pytest.fixture
async def scene(tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(plugins, "START_LIMIT", 0.3)
    guard, engine = Guard(), FakeEngine()
    await guard.start(tmp_path / "guard.sock")
    settings = Settings(authorization_plugins=("guard",), plugin_directories=(str(tmp_path),))
    path = str(tmp_path / "api")
    facts = DaemonFacts(
        instance=Instance(root="/r", run=str(tmp_path), socket=path),
        version="0",
        pid=os.getpid(),
        settings=lambda: settings,
    )
    server = ApiServer(build_app(engine, facts))
    await server.start([bind_socket(path)])
    async with ClientSession(connector=UnixConnector(path=path)) as session:
        yield Scene(session, guard, engine, tmp_path)
    await facts.plugins.close()
    await server.stop()
    await guard.runner.cleanup()


async def test_requests_and_replies_are_shown(scene: Scene) -> None:
    body = {"Image": "busybox", "Cmd": ["x"]}
    made = await scene.call(
        "POST", "/v1.44/containers/create?name=web", json=body, headers={"X-Registry-Auth": "secret"}
    )
    assert made[0] == 201
    (kind, asked), (answer_kind, answer) = scene.guard.asked
    assert (kind, answer_kind) == ("AuthZReq", "AuthZRes")
    assert (asked["RequestMethod"], asked["RequestUri"]) == ("POST", "/v1.44/containers/create?name=web")
    assert json.loads(base64.b64decode(asked["RequestBody"])) == body
    assert not [name for name in asked["RequestHeaders"] if name.lower() == "x-registry-auth"]
    assert answer["ResponseStatusCode"] == 201
    assert json.loads(base64.b64decode(answer["ResponseBody"]))["Id"] == made[1]["Id"]
    scene.guard.asked.clear()
    assert (await scene.call("GET", "/containers/nosuch/json"))[0] == 404
    assert [(k, q.get("ResponseStatusCode")) for k, q in scene.guard.asked] == [
        ("AuthZReq", None),
        ("AuthZRes", 404),
    ]


async def test_a_refusal_is_told_and_nothing_happens(scene: Scene) -> None:
    scene.guard.verdict = {"Allow": False, "Msg": "not today"}
    refused = await scene.call("POST", "/containers/create?name=web", json={"Image": "busybox"})
    assert refused == (403, {"message": "authorization denied by plugin guard: not today"})
    assert scene.engine.containers.calls == []
    scene.guard.verdict = {"Allow": True}
    assert (await scene.call("GET", "/containers/web/json"))[0] == 404, "it was not made"
    scene.guard.on_reply = {"Allow": False, "Msg": "seen"}
    assert (await scene.call("GET", "/info"))[0] == 403


@pytest.mark.parametrize("verdict", [{"Err": "broken"}, {}, {"Allow": "yes"}, "no json", "[]", ""])
async def test_what_is_no_clear_yes_is_a_no(scene: Scene, verdict: Any) -> None:
    scene.guard.verdict = verdict
    status, _ = await scene.call("POST", "/containers/create", json={"Image": "busybox"})
    assert status in {403, 500}
    assert scene.engine.containers.calls == []


async def test_a_plugin_that_is_gone_lets_nothing_through(scene: Scene) -> None:
    assert (await scene.call("GET", "/_ping"))[0] == 200
    await scene.guard.runner.cleanup()
    status, told = await scene.call("GET", "/_ping")
    assert (status, "authorization plugin guard failed" in told["message"]) == (500, True)
    again = Guard()
    (scene.place / "guard.sock").unlink(missing_ok=True)
    await again.start(scene.place / "guard.sock")
    scene.guard.runner = again.runner
    assert (await scene.call("GET", "/_ping"))[0] == 200, "it is found again"


async def test_a_body_is_never_hidden(scene: Scene) -> None:
    """CVE-2024-41110, CVE-2026-34040: what the handler reads the plugin has seen; too much of it is refused."""
    huge = json.dumps({"Image": "busybox", "Env": ["A=" + "x" * MAX_BODY]}).encode()
    header = {"Content-Type": "application/json"}
    for data in (io.BytesIO(huge), _pieces(huge)):
        status, told = await scene.call("POST", "/containers/create", data=data, headers=header)
        assert (status, told) == (400, {"message": "cannot read the request: its body is too large"})
    assert scene.guard.asked == []
    chunked = await scene.call(
        "POST", "/containers/create?name=c", data=_pieces(b'{"Image": "busybox"}'), headers=header
    )
    assert chunked[0] == 201
    assert base64.b64decode(scene.guard.asked[0][1]["RequestBody"]) == b'{"Image": "busybox"}'
    for kind in ("text/plain", "application/x-tar"):
        other = await scene.call(
            "POST", "/containers/create", data=b'{"Image":"busybox"}', headers={"Content-Type": kind}
        )
        assert other[0] == 400, "a body of another type is shown to nobody and read by nobody"
    reader, writer = await asyncio.open_unix_connection(str(scene.place / "api"))
    scene.guard.asked.clear()
    writer.write(
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        b'{"Image":"busybox"}'
    )
    assert b" 400 " in await reader.readline(), "a body behind Content-Length: 0 is no body"
    assert not [question for _, question in scene.guard.asked if "RequestBody" in question]
    writer.close()
    await writer.wait_closed()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


async def test_the_path_is_shown_as_it_is_routed(scene: Scene) -> None:
    url = URL("http://d/v1.44/%63ontainers/json?all=1", encoded=True)
    async with scene.session.get(url) as reply:
        assert reply.status == 200
    assert scene.guard.asked[0][1]["RequestUri"] == "/v1.44/containers/json?all=1"


async def test_plugins_are_found_by_name(scene: Scene, tmp_path: Path) -> None:
    place = tmp_path / "more"
    place.mkdir()
    (place / "spec.spec").write_text("unix:///run/x.sock\n")
    (place / "web.json").write_text('{"Name": "web", "Addr": "https://127.0.0.1:1/p"}')
    (place / "open.json").write_text('{"Addr": "https://x", "TLSConfig": {"InsecureSkipVerify": true}}')
    (place / "bad.spec").write_text("ftp://x")
    directories = [str(tmp_path), str(place)]
    assert find("guard:latest", directories).socket == str(tmp_path / "guard.sock")
    assert find("spec", directories).socket == "/run/x.sock"
    assert find("web", directories).url == "https://127.0.0.1:1/p"
    for name in ("open", "bad"):
        with pytest.raises(EngineError, match="cannot use the plugin's file"):
            find(name, directories)
    for name in ("nosuch", "../more/spec", "", "a/b", "x" * 300):
        with pytest.raises(NotFound, match="not found"):
            find(name, directories)
    known = Plugins()
    known.directories = directories
    with pytest.raises(NotFound, match='does not implement "VolumeDriver"'):
        await known.call("guard", "VolumeDriver", "VolumeDriver.List", {})
    await known.close()
