"""Containers by the dozen, several at a time: what the daemon holds before and after. For the soak and its short test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from harness import Engine

BODY = {"Image": "host.local/base", "Cmd": ["sleep", "1000"], "Labels": {"soak": "cycles"}}
EXEC = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the daemon holds: MB of PSS, open descriptors, threads."""

    memory: float
    descriptors: int
    threads: int


def usage(pid: int) -> Usage:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    return Usage(
        memory=int(found[1]) * 1024 / 1e6 if found else 0.0,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
    )


async def cycle(session: aiohttp.ClientSession) -> None:
    """One container from beginning to end. An answer that is not a success ends the soak."""

    async def post(path: str, body: object = None) -> bytes:
        async with session.post(f"http://engine{path}", json=body) as answer:
            said = await answer.read()
            assert answer.status < 300, f"POST {path}: {answer.status} {said[:500]!r}"
            return said

    async def identify(path: str, body: object) -> str:
        return str(json.loads(await post(path, body))["Id"])

    made = await identify("/containers/create", BODY)
    await post(f"/containers/{made}/start")
    run = await identify(f"/containers/{made}/exec", EXEC)
    await post(f"/exec/{run}/start", {"Detach": False, "Tty": False})
    async with session.get(f"http://engine/exec/{run}/json") as answer:
        state = await answer.json()
        assert (state["Running"], state["ExitCode"]) == (False, 0), state
    await post(f"/containers/{made}/stop")
    async with session.delete(f"http://engine/containers/{made}?v=1") as answer:
        assert answer.status == 204, await answer.text()


async def cycles(socket: str, count: int, at_once: int) -> list[float]:
    """Run them; seconds that each took, in the order they ended."""
    took: list[float] = []
    left = iter(range(count))

    async def worker(session: aiohttp.ClientSession) -> None:
        for _ in left:
            began = time.monotonic()
            await cycle(session)
            took.append(time.monotonic() - began)

    connector = aiohttp.UnixConnector(socket, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(worker(session) for _ in range(at_once)))
    return took


def settled(pid: int, before: Usage, within: float = 10.0) -> Usage:
    """The daemon's usage once descriptors and threads are down to what they were, or the time is over."""
    deadline = time.monotonic() + within
    while True:
        now = usage(pid)
        down = now.descriptors <= before.descriptors and now.threads <= before.threads
        if down or time.monotonic() > deadline:
            return now
        time.sleep(0.1)


def soak(engine: Engine, count: int, at_once: int, *, warm_up: int) -> tuple[Usage, Usage, list[float]]:
    """(usage after the warm-up, usage at the end, seconds of each cycle) on an engine that runs."""
    pid = engine.start()
    before = usage(pid)
    for _ in range(6):  # until the pools of threads, and what each thread holds, are as full as they get
        asyncio.run(cycles(engine.instance.socket, warm_up, at_once))
        time.sleep(1)
        last, before = before, usage(pid)
        if (last.descriptors, last.threads) == (before.descriptors, before.threads):
            break
    took = asyncio.run(cycles(engine.instance.socket, count, at_once))
    return before, settled(pid, before), took
