"""The /stacks routes over a unix socket: the real loader and planner, the fake engine below."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake.documents import MemoryDocuments
from fake.engine import FakeEngine, Program

from pystack.api.context import DaemonFacts
from pystack.api.server import ApiServer, build_app
from pystack.api.stacks import add_routes
from pystack.model.names import Instance
from pystack.reconciler.stacks import StackService

pytestmark = pytest.mark.anyio

FILE = """
name: shop
services:
  db:
    image: busybox
    environment: {PASSWORD: "s3cret"}
  web:
    image: busybox
    depends_on: [db]
    deploy: {replicas: 2}
"""


class Stacks:
    def __init__(self, session: aiohttp.ClientSession, engine: FakeEngine, directory: Path) -> None:
        self.session, self.engine, self.directory = session, engine, directory
        self.file = directory / "stack.yml"

    def body(self, *services: str, **options: Any) -> dict[str, Any]:
        source = {"files": [str(self.file)], "working_dir": str(self.directory), "environment": {}}
        return {"source": source, "services": list(services), "options": options}

    async def post(self, verb: str, body: dict[str, Any]) -> tuple[int, Any]:
        async with self.session.post(f"http://pystack/v1.50/stacks/{verb}", json=body) as answer:
            if answer.content_type == "application/x-ndjson":
                return answer.status, [json.loads(line) async for line in answer.content]
            return answer.status, await answer.json()

    async def get(self) -> Any:
        async with self.session.get("http://pystack/stacks") as answer:
            return await answer.json()


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Stacks]:
    path = f"{tmp_path}/s.sock"
    instance = Instance(root=str(tmp_path), run=str(tmp_path), socket=path)
    engine = FakeEngine()
    app = build_app(engine, DaemonFacts(instance=instance, version="0", pid=1))
    service = StackService(engine, MemoryDocuments())
    add_routes(app, service)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    server = ApiServer(app)
    (tmp_path / "stack.yml").write_text(FILE)
    async with service.running():
        await server.start([listener])
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
                yield Stacks(session, engine, tmp_path)
        finally:
            await server.stop()


async def test_plan_up_ps_list_down(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        status, answer = await stacks.post("plan", stacks.body())
        assert status == 200
        assert answer["changes"] == 7
        assert answer["text"].startswith("[] -> #1 Network shop_default, CreateNetwork, not there\n")
        assert answer["operations"][1] == {
            "id": 2,
            "needs": [1],
            "resource": "Container shop-db-1",
            "operation": "CreateContainer",
            "cause": "not there",
            "best_effort": False,
        }
        assert "s3cret" not in json.dumps(answer)
        status, events = await stacks.post("up", stacks.body())
        assert status == 200
        assert events[0] == {"type": "plan", "steps": 7, "changes": 7}
        assert (events[-1]["type"], events[-1]["ok"], events[-1]["changed"]) == ("done", True, 7)
        _, again = await stacks.post("up", stacks.body())
        assert [event["type"] for event in again] == ["plan", "done"]
        _, rows = await stacks.post("ps", stacks.body())
        assert [(row["service"], row["number"], row["state"]) for row in rows] == [
            ("db", 1, "running"),
            ("web", 1, "running"),
            ("web", 2, "running"),
        ]
        assert [(item["name"], item["running"]) for item in await stacks.get()] == [("shop", 3)]
        _, events = await stacks.post("down", stacks.body())
        assert events[-1]["ok"]
        assert await stacks.get() == []


async def test_lifecycle_and_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        await stacks.post("up", stacks.body())
        for verb, changed in (("stop", 3), ("start", 3), ("restart", 3)):
            _, events = await stacks.post(verb, stacks.body())
            assert (events[-1]["ok"], events[-1]["changed"]) == (True, changed), verb
        body = stacks.body()
        options = {
            "command": ["sh"],
            "env": ["A=b"],
            "volumes": ["./data:/data:ro", "named:/n"],
            "publish": ["8080:80"],
            "rm": True,
        }
        status, answer = await stacks.post(
            "run", {"source": body["source"], "service": "web", "options": options}
        )
        assert status == 200
        spec = stacks.engine.containers.views[answer["id"]].spec
        assert spec.command == ("sh",)
        assert spec.auto_remove
        assert [(m.type, m.source, m.target, m.read_only) for m in spec.mounts] == [
            ("bind", f"{tmp_path}/data", "/data", True),
            ("volume", "named", "/n", False),
        ]
        assert [(p.container_port, p.host_port) for p in spec.ports] == [(80, 8080)]


async def test_config_and_resolve(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        _, answer = await stacks.post("config", stacks.body())
        assert answer["name"] == "shop"
        assert answer["config"]["services"]["web"]["deploy"]["replicas"] == 2
        assert await stacks.post("resolve", stacks.body()) == (
            200,
            {"name": "shop", "services": ["db", "web"]},
        )


async def test_a_wrong_file_is_a_400_with_every_diagnostic(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        stacks.file.write_text(FILE + "    prots: [80]\n  x:\n    image: 5\n")
        for verb in ("plan", "up", "config", "down"):
            status, answer = await stacks.post(verb, stacks.body())
            assert status == 400, verb
            assert answer["diagnostics"][0]["line"] == 11
            assert answer["diagnostics"][0]["help"] == "did you mean `ports`?"
        assert stacks.engine.calls == []


async def test_by_name_alone_without_a_file(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        await stacks.post("up", stacks.body())
        empty = tmp_path / "empty"
        empty.mkdir()
        stacks.file.unlink()
        source = {"files": [], "working_dir": str(empty), "project_name": "shop", "environment": {}}
        _, events = await stacks.post("down", {"source": source, "services": [], "options": {}})
        assert (events[-1]["ok"], events[-1]["changed"]) == (True, 7)
        status, answer = await stacks.post(
            "down", {"source": {**source, "project_name": None}, "services": [], "options": {}}
        )
        assert status == 404
        assert "cannot find a stack file" in answer["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": "soon"}, "invalid JSON: options.timeout"),
        ({"scale": {"web": -1}}, "cannot scale to fewer than 0"),
        ({"scale": {"nope": 1}}, "cannot scale nope"),
        ({"force_recreate": True, "no_recreate": True}, "cannot combine"),
    ],
)
async def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    async with serving(tmp_path) as stacks:
        _, answer = await stacks.post("up", stacks.body(**options))
        told = answer[0] if isinstance(answer, list) else answer
        assert told["message"].startswith(message)
        assert stacks.engine.calls == []


async def test_a_client_that_leaves_ends_its_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as stacks:
        stacks.engine.programs["db"] = Program(healthy_after=3600.0)
        stacks.file.write_text(FILE.replace("[db]", "{db: {condition: service_healthy}}"))
        async with stacks.session.post("http://pystack/stacks/up", json=stacks.body()) as answer:
            async for line in answer.content:
                if b"WaitFor" in line:
                    break
        for _ in range(500):
            await asyncio.sleep(0.002)
            found = await stacks.get()
            if found[0]["status"] == "failed":
                break
        assert (found[0]["status"], found[0]["error"]) == ("failed", "interrupted")
