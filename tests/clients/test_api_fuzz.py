"""20,000 odd requests, made from Docker's own API document: the engine answers each of them in good order.

No 500, no hang, no traceback in the log, error bodies of Docker's shape, and memory that does not grow. The requests are
kept from reaching the host by `apicases.tame`. FUZZ_REQUESTS and FUZZ_SEED change how many and which.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apicases
import harness
import images
import pytest
import yaml

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not apicases.SWAGGER.exists(), reason=f"the API's document is not at {apicases.SWAGGER}"
    ),
]

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
WORKERS = 6
#: Requests after which what they made is removed again, or an engine full of networks answers slower and slower.
ROUND = 500
#: Seconds within which the head of every reply must have come.
PATIENCE = 60.0
#: Megabytes that the daemon may have grown between the second quarter of the way and the last.
GROWTH = 15.0


class Talk:
    """One worker's connection."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.writer: asyncio.StreamWriter | None = None
        self.reader: asyncio.StreamReader

    async def ask(self, raw: bytes, method: str) -> tuple[int, dict[str, str], bytes]:
        for attempt in (1, 2):
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_unix_connection(self.path, limit=1 << 20)
            try:
                self.writer.write(raw)
                head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            except (asyncio.IncompleteReadError, ConnectionError):
                await self.close()  # a connection that the last reply ended
                if attempt == 2:
                    raise
                continue
            return await self._rest(head, method)
        raise AssertionError("unreachable")

    async def _rest(self, head: bytes, method: str) -> tuple[int, dict[str, str], bytes]:
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        headers = {
            k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)
        }
        length = headers.get("content-length")
        if method == "HEAD" or status in {204, 304}:
            body = b""
        elif length is not None:
            body = await asyncio.wait_for(self.reader.readexactly(int(length)), PATIENCE)
        else:  # a stream: a little of it is enough
            try:
                body = await asyncio.wait_for(self.reader.read(1 << 16), 0.02)
            except TimeoutError:
                body = b""
            await self.close()
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return status, headers, body

    async def close(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass  # the other end was faster


class World:
    """The objects that requests can hit, and what is removed between rounds."""

    def __init__(self, engine: harness.Engine) -> None:
        self.engine = engine
        self.known: dict[str, list[str]] = {}

    def build(self) -> None:
        """Make what is missing; remove all that is not ours to keep."""
        client = self.engine.client
        for item in client.get("/containers/json", {"all": True}):
            if item["Names"][0] not in {"/fuzz-up", "/fuzz-down"} or "fuzz" not in item["Labels"]:
                self.engine.remove(item["Id"])
        kept = {item["Names"][0]: item for item in client.get("/containers/json", {"all": True})}
        for network in client.get("/networks"):
            if network["Name"] not in {"bridge", "host", "none", "fuzz-net"}:
                for used in client.get(f"/networks/{network['Id']}")["Containers"]:
                    client.post(f"/networks/{network['Id']}/disconnect", {"Container": used, "Force": True})
                client.delete(f"/networks/{network['Id']}")
        for volume in client.get("/volumes")["Volumes"]:
            if volume["Name"] != "fuzz-volume":
                client.request("DELETE", f"/volumes/{volume['Name']}?force=1", check=False).close()
        for image in client.get("/images/json", {"all": True}):  # commits and imports
            if not {"busybox:latest", "host.local/base:latest"} & set(image["RepoTags"] or ()):
                client.request("DELETE", f"/images/{image['Id']}?force=1", check=False).close()
        if "fuzz-net" not in {n["Name"] for n in client.get("/networks")}:
            client.post("/networks/create", {"Name": "fuzz-net"})
        client.post("/volumes/create", {"Name": "fuzz-volume"})
        if not client.get("/images/json", {"filters": {"reference": ["busybox:latest"]}}):
            self.engine.docker("load", "-q", "-i", str(images.CACHE / "fuzz.tar"))
        for name in ("fuzz-up", "fuzz-down"):
            self._container(name, present=f"/{name}" in kept)
        ids = [client.get(f"/containers/{name}/json")["Id"] for name in ("fuzz-up", "fuzz-down")]
        execs = [
            client.post("/containers/fuzz-up/exec", {"Cmd": ["sleep", "5"], "AttachStdout": True})["Id"]
            for _ in range(3)
        ]
        self.known |= {
            "containers": ["fuzz-up", "fuzz-down", *ids, ids[0][:12]],
            "exec": execs,
            "networks": ["fuzz-net", "bridge", client.get("/networks/fuzz-net")["Id"]],
            "volumes": ["fuzz-volume"],
            "images": ["busybox", "busybox:latest", "host.local/base"],
        }

    def _container(self, name: str, *, present: bool) -> None:
        """There, and running if it is the one that runs; anew when an update left it unable to."""
        client = self.engine.client
        body = {"Image": "busybox:latest", "Cmd": ["sleep", "1000"], "Labels": {"fuzz": "1"}}
        if not present:
            client.post("/containers/create", body, {"name": name})
        if name == "fuzz-down":
            return
        for verb in ("unpause", "start"):
            client.request("POST", f"/containers/{name}/{verb}", check=False).close()
        if not client.get(f"/containers/{name}/json")["State"]["Running"]:
            self.engine.remove(name)
            client.post("/containers/create", body, {"name": name})
            client.post(f"/containers/{name}/start")


def memory(pid: int) -> float:
    """Proportional set size in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def check(case: apicases.Case, status: int, headers: dict[str, str], body: bytes) -> str:
    """What is wrong with a reply, "" for nothing."""
    if status == 500 or status not in {*range(200, 209), 101, 304, 400, 401, 403, 404, 405, 409, 501, 503}:
        return f"status {status}: {body[:300]!r}"
    for name in ("api-version", "ostype", "server", "docker-experimental"):
        if name not in headers and not (status == 400 and b"cannot read the request" in body):
            return f"{status} without the header {name}"
    if status >= 400 and case.method != "HEAD":
        if headers.get("content-type") != "application/json":
            return f"{status} of type {headers.get('content-type')}"
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            return f"{status} without a message: {body[:200]!r}"
        if not isinstance(message, str) or not message:
            return f"{status} with the message {message!r}"
    return ""


async def _round(cases: Iterable[apicases.Case], path: str, seen: collections.Counter[Any]) -> list[str]:
    """Send them all, several at once; returns what was wrong with the replies."""
    faults: list[str] = []
    left = iter(cases)

    async def worker() -> None:
        talk = Talk(path)
        for wild in left:
            case = apicases.tame(wild, ["busybox:latest", "busybox"])
            raw = apicases.wire(case)
            try:
                status, headers, body = await talk.ask(raw, case.method)
            except Exception as error:
                faults.append(f"{type(error).__name__} {error} after {raw[:600]!r}")
                await talk.close()
                continue
            seen[case.method, case.template, status] += 1
            if wrong := check(case, status, headers, body):
                faults.append(f"{wrong}\n    for {raw[:1500]!r}")
        await talk.close()

    await asyncio.gather(*(worker() for _ in range(WORKERS)))
    return faults


def test_every_odd_request_is_answered_in_good_order(engine: harness.Engine) -> None:
    images.busybox_archive(images.CACHE / "fuzz.tar")
    engine.start()
    engine.docker("load", "-q", "-i", str(images.CACHE / "fuzz.tar"))
    began = time.monotonic()
    cases = apicases.corpus(apicases.SWAGGER, positive=14, negative=6)
    print(f"{len(cases)} cases of schemathesis in {time.monotonic() - began:.0f} s, seed {SEED}")
    documented = set(apicases.operations(yaml.load(apicases.SWAGGER.read_text(), yaml.CSafeLoader)))
    assert {(case.method, case.template) for case in cases} >= documented
    world = World(engine)
    world.build()
    pid = engine.pid()
    mutator = apicases.Mutator(cases, world.known, SEED)
    seen: collections.Counter[Any] = collections.Counter()
    faults: list[str] = []
    grown: list[float] = []
    began = time.monotonic()
    faults += asyncio.run(_round(cases, engine.instance.socket, seen))
    for start in range(0, REQUESTS, ROUND):
        world.build()
        wild = (mutator.next() for _ in range(min(ROUND, REQUESTS - start)))
        faults += asyncio.run(_round(wild, engine.instance.socket, seen))
        grown.append(memory(pid))
        if len(faults) > 50:
            break
    seconds = time.monotonic() - began
    statuses = collections.Counter[int]()
    for (_, _, status), number in seen.items():
        statuses[status] += number
    print(f"{sum(seen.values())} requests in {seconds:.0f} s: {dict(sorted(statuses.items()))}")
    print(f"the daemon's memory after each round, MB: {[round(m, 1) for m in grown]}")
    log = Path(engine.instance.run, "daemon.log").read_text()
    tracebacks = log[log.index(" incident ") - 60 :][:9000] if " incident " in log else ""
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20]) + f"\n{tracebacks}"
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
    assert engine.pid() == pid, "the daemon was replaced"
    assert {(method, path) for method, path, _ in seen} >= documented
    assert sum(number for status, number in statuses.items() if status < 400) > REQUESTS / 10
    # The least of several rounds: between two runs of the collector the rest is garbage.
    part = max(1, len(grown) // 4)
    before, after = min(grown[part : 2 * part]), min(grown[-part:])
    assert after - before < GROWTH, f"grew from {before:.1f} to {after:.1f} MB"
