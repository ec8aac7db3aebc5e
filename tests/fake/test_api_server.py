"""The server over an engine in memory, by raw bytes on the socket: headers, errors, streams and hijacked connections."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake.api_engine import FakeEngine, hex_id

from pystack.api.context import DaemonFacts
from pystack.api.listeners import bind_socket
from pystack.api.server import ApiServer, build_app
from pystack.engine.interface import LogEntry
from pystack.model.container import ContainerSpec
from pystack.model.errors import EngineError
from pystack.model.names import Instance

pytestmark = pytest.mark.anyio


class Reply:
    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode().split("\r\n")
        self.line = first
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines if line)}
        self.reader, self.writer = reader, writer

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            found = b""
            while piece := await self.chunk():
                found += piece
            return found
        return await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    async def json(self) -> Any:
        return json.loads(await self.body())


class Client:
    def __init__(self, path: str, engine: FakeEngine, facts: DaemonFacts) -> None:
        self.path, self.engine, self.facts = path, engine, facts
        self.server: ApiServer
        self.writers: list[asyncio.StreamWriter] = []

    async def send(self, raw: bytes) -> Reply:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        writer.write(raw)
        return Reply(await reader.readuntil(b"\r\n\r\n"), reader, writer)

    async def call(self, method: str, path: str, body: object = None, *headers: str) -> Reply:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: d", f"Content-Length: {len(data)}", *headers]
        if body is not None and not any(h.startswith("Content-Type") for h in headers):
            lines.append("Content-Type: application/json")
        return await self.send("\r\n".join([*lines, "", ""]).encode() + data)

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                continue


@pytest.fixture
async def api(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Client]:
    path = str(tmp_path / "api.sock")
    engine = FakeEngine()
    facts = DaemonFacts(
        instance=Instance(root="/r", run=str(tmp_path), socket=path), version="0", pid=os.getpid()
    )
    server = ApiServer(build_app(engine, facts))
    await server.start([bind_socket(path)])
    client = Client(path, engine, facts)
    client.server = server
    try:
        yield client
    finally:
        await client.close()
        await server.stop()


async def container(api: Client, name: str = "c", **spec: Any) -> str:
    made = await api.engine.containers.create(ContainerSpec(image="busybox", command=("cat",), **spec), name)
    await api.engine.containers.start(name)
    return made.id


def upgrade(path: str, body: bytes = b"", tail: bytes = b"") -> bytes:
    kind = b"Content-Type: application/json\r\n" if body else b""
    return (
        f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n".encode()
        + kind
        + b"\r\n"
        + body
        + tail
    )


async def test_ping(api: Client) -> None:
    for path in ("/_ping", "/v1.30/_ping"):
        reply = await api.call("GET", path)
        assert (reply.status, await reply.body()) == (200, b"OK")
    head = await api.call("HEAD", "/_ping")
    assert head.headers["api-version"] == "1.50"
    assert head.headers["ostype"] == "linux"
    assert head.headers["server"] == "Docker/28.2.2 (linux)"
    assert head.headers["docker-experimental"] == "false"
    assert head.headers["content-length"] == "0"
    assert head.headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert head.headers["swarm"] == "inactive"


async def test_versions_in_the_path(api: Client) -> None:
    assert (await (await api.call("GET", "/v1.24/containers/json")).body()) == b"[]"
    old = await api.call("GET", "/v1.23/info")
    assert (old.status, (await old.json())["message"][:30]) == (400, "client version 1.23 is too old")
    assert (await api.call("GET", "/v1.51/info")).status == 400


@pytest.mark.parametrize(
    "path", ["/nope", "/v1.50/nope", "/containers/x/y/z", "/containers/..%2f..%2fetc/json/x"]
)
async def test_unknown_paths(api: Client, path: str) -> None:
    reply = await api.call("GET", path)
    assert (reply.status, await reply.json()) == (404, {"message": "page not found"})
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("ref", ["x" * 5000, "%00", "..", "%2e%2e%2f", "%F0%9F%90%B3", "a%20b"])
async def test_odd_names_are_not_found(api: Client, ref: str) -> None:
    reply = await api.call("GET", f"/containers/{ref}/json")
    assert reply.status == 404


async def test_errors_are_docker_json(api: Client) -> None:
    reply = await api.call("GET", "/containers/none/json")
    assert (reply.status, await reply.json()) == (404, {"message": "No such container: none"})
    await container(api)
    assert (await api.call("POST", "/containers/c/start")).status == 304
    swarm = await api.call("GET", "/services")
    assert (swarm.status, "not a swarm manager" in (await swarm.json())["message"]) == (503, True)
    assert (await api.call("POST", "/build")).status == 501


async def test_unexpected_errors_name_an_incident_only(api: Client, caplog: pytest.LogCaptureFixture) -> None:
    reply = await api.call("POST", "/containers/create", {"Image": "broken"})
    message = (await reply.json())["message"]
    assert reply.status == 500
    assert "internal error" in message
    assert "secret" not in message
    assert message.split("internal error ")[1].split(",")[0] in caplog.text


@pytest.mark.parametrize(
    ("body", "header", "text"),
    [
        (b"", "X: y", "got EOF"),
        (b"{}{}", "X: y", "unexpected content after JSON"),
        (b'{"Image": 1}', "X: y", "Image"),
        (b"{}", "Content-Type: text/plain", "must be 'application/json'"),
        (b"[]", "X: y", "invalid JSON"),
    ],
)
async def test_bad_bodies(api: Client, body: bytes, header: str, text: str) -> None:
    reply = await api.call("POST", "/containers/create", body, header)
    assert reply.status == 400
    assert text in (await reply.json())["message"]


async def test_contradicting_lengths_are_refused(api: Client) -> None:
    reply = await api.send(
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert reply.status == 400
    assert "cannot read the request" in (await reply.json())["message"]


async def test_create_and_inspect(api: Client) -> None:
    reply = await api.call(
        "POST", "/v1.44/containers/create?name=web", {"Image": "busybox", "Cmd": ["x"], "New": 1}
    )
    assert (reply.status, await reply.json()) == (201, {"Id": hex_id("web"), "Warnings": []})
    shown = await (await api.call("GET", "/containers/web/json")).json()
    assert shown["Name"] == "/web"
    assert shown["State"]["Status"] == "created"
    assert (await api.call("POST", "/containers/create?name=web", {"Image": "busybox"})).status == 409
    missing = await api.call("POST", "/containers/create", {"Image": "missing"})
    assert (missing.status, (await missing.json())["message"]) == (404, "No such image: missing:latest")


async def test_wait_sends_headers_before_the_exit(api: Client) -> None:
    await container(api)
    reply = await api.call("POST", "/containers/c/wait?condition=next-exit")
    assert reply.status == 200
    api.engine.containers.end("c", 3)
    assert await reply.json() == {"StatusCode": 3}
    assert (await api.call("POST", "/containers/c/wait?condition=bogus")).status == 400
    assert (await api.call("POST", "/containers/none/wait")).status == 404


async def test_a_wait_ends_with_its_client(api: Client) -> None:
    await container(api)
    reply = await api.call("POST", "/containers/c/wait")
    reply.writer.close()
    await until(lambda: ("wait cancelled", "c") in api.engine.containers.calls)


async def test_a_stop_goes_on_without_its_client(api: Client) -> None:
    await container(api)
    api.engine.containers.gate = asyncio.Event()
    _, writer = await asyncio.open_unix_connection(api.path)
    writer.write(b"POST /containers/c/stop?t=5&signal=INT HTTP/1.1\r\nHost: d\r\n\r\n")
    await until(lambda: ("stop", (5, "INT")) in api.engine.containers.calls)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.02)
    api.engine.containers.gate.set()
    await until(lambda: api.engine.containers.find("c").state == "exited")


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_logs(api: Client) -> None:
    await container(api)
    api.engine.containers.lines = [
        LogEntry(time="2026-11-24T10:00:00Z", stream="stdout", line=b"one\n"),
        LogEntry(time="2026-11-24T10:00:01Z", stream="stderr", line=b"two\n"),
    ]
    reply = await api.call("GET", "/containers/c/logs?stdout=1&stderr=1&tail=5&since=1h")
    assert reply.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert await reply.body() == b"\x01\0\0\0\0\0\0\4one\n\x02\0\0\0\0\0\0\4two\n"
    options = api.engine.containers.calls[-1][1]
    assert (options.tail, options.follow, options.since > 0) == (5, False, True)
    old = await api.call("GET", "/v1.41/containers/c/logs?stdout=1")
    assert old.headers["content-type"] == "application/vnd.docker.raw-stream"
    assert (await api.call("GET", "/containers/c/logs")).status == 400
    assert (await api.call("GET", "/containers/none/logs?stdout=1")).status == 404


async def test_followed_logs_are_sent_at_once_and_end_with_the_container(api: Client) -> None:
    await container(api, tty=True)
    api.engine.containers.lines = [LogEntry(time="2026-11-24T10:00:00Z", stream="stdout", line=b"one\n")]
    reply = await api.call("GET", "/containers/c/logs?stdout=1&follow=1")
    assert await reply.chunk() == b"one\n"
    api.engine.containers.end("c")
    assert await reply.body() == b""


async def test_events(api: Client) -> None:
    api.engine.events.publish("container", "start", "i", {"image": "busybox", "name": "c"})
    reply = await api.call("GET", '/events?filters={"type":{"container":true}}')
    event = json.loads(await reply.chunk())
    assert event["status"] == event["Action"] == "start"
    assert event["from"] == "busybox"
    assert event["timeNano"] == 1_700_000_000_000_000_001
    reply.writer.close()
    async with asyncio.timeout(5):
        await api.engine.events.left.wait()


@pytest.mark.parametrize("tty", [False, True])
async def test_attach(api: Client, tty: bool) -> None:
    await container(api, tty=tty)
    reply = await api.send(
        upgrade("/v1.50/containers/c/attach?stream=1&stdin=1&stdout=1&stderr=1&detachKeys=ctrl-x")
    )
    assert reply.line == "HTTP/1.1 101 UPGRADED"
    kind = "raw-stream" if tty else "multiplexed-stream"
    assert reply.headers["content-type"] == f"application/vnd.docker.{kind}"
    assert (reply.headers["connection"], reply.headers["upgrade"]) == ("Upgrade", "tcp")
    reply.writer.write(b"abc")
    expected = b"abc" if tty else b"\x01\0\0\0\0\0\0\3abc"
    assert await reply.reader.readexactly(len(expected)) == expected
    reply.writer.write_eof()  # only our half: the rest of the output still comes
    rest = await reply.reader.read()
    assert rest == (b"[heard 3]\n" if tty else b"\x02\0\0\0\0\0\0\x0a[heard 3]\n")
    assert api.engine.containers.calls[-1][1]["detach_keys"] == "ctrl-x"
    await until(lambda: api.engine.containers.sessions[0].closed)


async def test_bytes_that_come_with_the_request_are_input(api: Client) -> None:
    await container(api, tty=True)
    reply = await api.send(
        upgrade("/containers/c/attach?stream=1&stdin=1&stdout=1", tail=b"POST /not HTTP/1.1\r\n\r\n")
    )
    assert reply.status == 101
    reply.writer.write_eof()
    assert await reply.reader.read() == b"POST /not HTTP/1.1\r\n\r\n[heard 22]\n"


async def test_a_request_in_pieces_with_input_behind_it(api: Client) -> None:
    await container(api)
    created = await (await api.call("POST", "/containers/c/exec", {"Cmd": ["cat"], "Tty": True})).json()
    raw = upgrade(f"/v1.50/exec/{created['Id']}/start", json.dumps({"Tty": True}).encode(), b"early")
    reader, writer = await asyncio.open_unix_connection(api.path)
    api.writers.append(writer)
    for start in range(0, len(raw), 23):
        writer.write(raw[start : start + 23])
        await asyncio.sleep(0.002)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write_eof()
    assert await reader.read() == b"hello\nearly[heard 5]\n"


async def test_hijack_without_upgrade_headers(api: Client) -> None:
    await container(api)
    reply = await api.send(b"POST /containers/c/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/vnd.docker.raw-stream")
    assert "transfer-encoding" not in reply.headers
    reply.writer.write_eof()
    assert (await reply.reader.read()).endswith(b"[heard 0]\n")


async def test_a_refused_attach_leaves_an_ordinary_connection(api: Client) -> None:
    again = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    reply = await api.send(b"POST /containers/none/attach HTTP/1.1\r\nHost: d\r\n\r\n" + again)
    assert (reply.status, await reply.json()) == (404, {"message": "No such container: none"})
    assert (await reply.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_attach_without_stream_replays_the_log(api: Client) -> None:
    await container(api)
    api.engine.containers.lines = [LogEntry(time="2026-11-24T10:00:00Z", stream="stderr", line=b"past\n")]
    reply = await api.send(upgrade("/containers/c/attach?logs=1&stdout=1&stderr=1"))
    assert await reply.reader.read() == b"\x02\0\0\0\0\0\0\5past\n"


async def test_attach_over_a_websocket(api: Client) -> None:
    await container(api)
    connector = aiohttp.UnixConnector(path=api.path)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect("http://d/v1.50/containers/c/attach/ws?stream=1&stdin=1&stdout=1") as socket,
    ):
        await socket.send_bytes(b"abc")
        assert (await socket.receive()).data == b"abc"
    await until(lambda: api.engine.containers.sessions[0].closed)
    assert (await api.call("GET", "/containers/c/attach/ws")).status == 400


async def test_a_slow_reader_holds_the_sender_up(api: Client) -> None:
    await container(api, tty=True)
    reply = await api.send(upgrade("/containers/c/attach?stream=1&stdin=1&stdout=1"))
    piece = bytes(65536)

    async def feed() -> None:
        for _ in range(1024):
            reply.writer.write(piece)
            await reply.writer.drain()

    feeding = asyncio.create_task(feed())
    await asyncio.sleep(0.2)
    heard = api.engine.containers.sessions[0].heard
    assert heard < 16 << 20, "nobody reads: input and output must stop at the buffers' bounds"
    got = await reply.reader.readexactly(64 << 20)
    await feeding
    assert len(got) == 64 << 20


@pytest.mark.parametrize("half_first", [False, True])
async def test_a_client_that_leaves_ends_its_session_only(api: Client, half_first: bool) -> None:
    await container(api)
    session_stays = await api.send(upgrade("/containers/c/attach?stream=1&stdout=1"))
    session = api.engine.containers.sessions[0]
    session.close_stdin = lambda: asyncio.sleep(0)  # type: ignore[method-assign] # a process that runs on after the end of its input
    if half_first:
        session_stays.writer.write_eof()
        await asyncio.sleep(0.05)
        assert not session.closed
    session_stays.writer.close()
    await until(lambda: session.closed)
    assert (await api.call("GET", "/containers/c/json")).status == 200


async def test_exec(api: Client) -> None:
    await container(api)
    made = await (
        await api.call("POST", "/containers/c/exec", {"Cmd": ["nosuch"], "AttachStdout": True})
    ).json()
    reply = await api.send(upgrade(f"/exec/{made['Id']}/start", b"{}"))
    assert reply.status == 101
    assert b"OCI runtime exec failed" in await reply.reader.read()
    assert (await (await api.call("GET", f"/exec/{made['Id']}/json")).json())["ExitCode"] == 127
    assert (await api.call("POST", f"/exec/{made['Id']}/start", {})).status == 409
    made = await (await api.call("POST", "/containers/c/exec", {"Cmd": ["true"]})).json()
    detached = await api.call("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    assert (detached.status, await detached.body()) == (200, b"")
    assert (await api.call("POST", f"/exec/{'0' * 64}/start", {})).status == 404


async def test_stats_and_top(api: Client) -> None:
    await container(api)
    sample = await (await api.call("GET", "/containers/c/stats?stream=0&one-shot=1")).json()
    assert (sample["name"], sample["memory_stats"]["usage"], sample["precpu_stats"]) == ("/c", 7, {})
    assert await (await api.call("GET", "/containers/c/top")).json() == {
        "Titles": ["PID", "CMD"],
        "Processes": [["1", "sh"]],
    }


async def test_images(api: Client) -> None:
    reply = await api.call("POST", "/images/load?quiet=1", b"x" * 100_000, "Content-Type: application/x-tar")
    assert json.loads(await reply.body()) == {"stream": "Loaded image: busybox:latest\n"}
    assert api.engine.images.loaded == 100_000
    pulled = await api.call("POST", "/images/create?fromImage=host.local/base&tag=latest")
    assert b"Status: Image is up to date for host.local/base:latest" in await pulled.body()
    refused = await api.call("POST", "/images/create?fromImage=alpine&tag=latest")
    assert (refused.status, "does not talk to registries" in (await refused.json())["message"]) == (
        404,
        True,
    )
    assert (await (await api.call("GET", "/images/host.local/base/json")).json())["Os"] == "linux"
    saved = await api.call("GET", "/images/host.local%2Fbase/get")
    assert (saved.status, "the host's own /usr" in (await saved.json())["message"]) == (403, True)


async def test_nothing_to_prune(api: Client) -> None:
    kept = await (await api.call("POST", "/images/prune")).json()
    assert kept == {"ImagesDeleted": [], "SpaceReclaimed": 0}
    assert (await (await api.call("POST", "/build/prune")).json())["SpaceReclaimed"] == 0


async def test_long_filters(api: Client) -> None:
    labels = ",".join(f'"k{n}=v"' for n in range(3000))
    reply = await api.call("GET", f'/containers/json?filters={{"label":[{labels}]}}')
    assert reply.status == 200
    assert len(api.engine.containers.calls[-1][1][1]["label"]) == 3000


async def test_the_end_of_the_daemon_ends_streams_at_once(api: Client) -> None:
    await container(api)
    attached = await api.send(upgrade("/containers/c/attach?stream=1&stdout=1"))
    waiting = await api.call("POST", "/containers/c/wait")
    events = await api.call("GET", "/events")
    async with asyncio.timeout(1):
        await api.server.stop()
        assert await attached.reader.read() == b""
        assert await waiting.reader.read() == b""
        assert await events.reader.read() == b""
    assert api.engine.containers.sessions[0].closed


async def test_networks_and_volumes(api: Client) -> None:
    body = {
        "Name": "n",
        "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]},
        "EnableIPv6": None,
        "Labels": {"a": "b"},
    }
    assert (await api.call("POST", "/networks/create", body)).status == 201
    shown = await (await api.call("GET", "/networks/n")).json()
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24"}]
    assert (shown["EnableIPv4"], shown["Scope"], shown["Containers"]) == (True, "local", {})
    assert (
        await api.call(
            "POST", "/networks/n/connect", {"Container": "c", "EndpointConfig": {"Aliases": ["x"]}}
        )
    ).status == 200
    assert api.engine.networks.calls[0][2].aliases == ("x",)
    made = await api.call("POST", "/volumes/create", {"Name": "v"})
    assert (made.status, (await made.json())["Name"]) == (201, "v")
    assert await (await api.call("GET", "/volumes")).json() == {
        "Volumes": [{**(await (await api.call("POST", "/volumes/create", {"Name": "v"})).json())}],
        "Warnings": None,
    }
    await api.call("POST", "/v1.41/volumes/prune")
    assert api.engine.volumes.pruned == {"all": ["true"]}


async def test_the_daemons_own_routes(api: Client) -> None:
    shown = await (await api.call("GET", "/daemon")).json()
    assert shown["pid"] == os.getpid()
    assert (await api.call("POST", "/daemon/stop")).status == 202
    async with asyncio.timeout(2):
        await api.facts.stop.wait()


async def test_the_socket_is_private_and_ours(api: Client, tmp_path: Path) -> None:
    assert stat.S_IMODE(os.stat(api.path).st_mode) in {0o600, 0o660}
    with pytest.raises(EngineError, match="another program answers"):
        bind_socket(api.path)
    plain = tmp_path / "file"
    plain.write_text("mine")
    with pytest.raises(EngineError, match="is no socket"):
        bind_socket(str(plain))
    assert plain.read_text() == "mine"
    with pytest.raises(EngineError, match="at most 107 bytes"):
        bind_socket("/" + "x" * 200)
