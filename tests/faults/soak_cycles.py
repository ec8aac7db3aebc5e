"""Containers by the thousand, sixteen at a time: nothing is left, and the last are made as fast as the first.

    python tests/faults/soak_cycles.py [--cycles 2000] [--at-once 16]

Each cycle creates a container, starts it, runs a program in it, stops and removes it. Figures are the daemon's: memory
(PSS), descriptors and threads, after a warm-up and at the end. `make leaks` runs it; tests/faults/test_leaks.py a short one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import aiohttp  # noqa: E402 - the path above comes first
import oracle  # noqa: E402
from harness import Engine, run_parent  # noqa: E402

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
        import json

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
    asyncio.run(cycles(engine.instance.socket, warm_up, at_once))
    time.sleep(1)
    before = usage(pid)
    took = asyncio.run(cycles(engine.instance.socket, count, at_once))
    return before, settled(pid, before), took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pystack-soak-", dir="/var/lib"))
    run = Path(tempfile.mkdtemp(prefix="pss-", dir=run_parent()))
    run.chmod(0o755)
    (base / "root").mkdir()
    engine = Engine(base / "root", run)
    clean = oracle.snapshot(engine.instance)
    try:
        before, after, took = soak(engine, options.cycles, options.at_once, warm_up=100)
    finally:
        engine.remove_everything()
    oracle.wait_for_nothing_leaked(engine.instance, clean)
    tenth = max(1, len(took) // 10)
    slower = statistics.mean(took[-tenth:]) / statistics.mean(took[:tenth])
    rows = {
        "memory": (
            after.memory - before.memory < 10,
            f"{before.memory:.1f} -> {after.memory:.1f} MB, at most 10 more",
        ),
        "descriptors": (
            after.descriptors <= before.descriptors,
            f"{before.descriptors} -> {after.descriptors}",
        ),
        "threads": (after.threads <= before.threads, f"{before.threads} -> {after.threads}"),
        "last tenth": (slower <= 1.2, f"{slower:.2f} times the first, at most 1.2"),
    }
    print(
        f"{len(took)} cycles, {options.at_once} at once, {statistics.median(took) * 1000:.0f} ms each; oracle clean"
    )
    for what, (kept, figures) in rows.items():
        print(f"{'ok  ' if kept else 'FAIL'} {what}: {figures}")
    shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    return 0 if all(kept for kept, _ in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
