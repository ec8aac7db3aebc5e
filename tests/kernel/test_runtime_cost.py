"""What containers cost: time, memory, descriptors; measured and bounded."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import Box, box, process

from pystack.kernel.process import can_react_to, parent

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path) as it:
        yield it


async def test_fifty_at_once_are_small_and_leave_nothing(made: Box) -> None:
    await made.run(process("true"))
    before = len(os.listdir(f"/proc/{made.launcher.pid}/fd"))
    bundles = [made.bundle(process("sleep", "100")) for _ in range(50)]
    begin = time.perf_counter()
    cpu = time.process_time()
    shims = await asyncio.gather(*[made.start(bundle) for bundle in bundles])
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    sizes = [_pss(parent(shim.pid)) for shim in shims]
    print(f"\n50 up in {took * 1e3:.0f} ms, daemon {cpu * 20:.2f} ms each, shim PSS {sum(sizes) / 50:.0f} kB")
    assert sum(sizes) / 50 <= 2048
    for shim in shims:
        await shim.signal(9)
    await asyncio.wait_for(asyncio.gather(*[shim.closed for shim in shims]), 10)
    assert {(await shim.exited)["exit_code"] for shim in shims} == {137}
    await asyncio.sleep(0.05)
    assert len(os.listdir(f"/proc/{made.launcher.pid}/fd")) == before
    assert not any(os.path.exists(bundle["socket"]) for bundle in bundles)
    children = Path(f"/proc/{made.launcher.pid}/task/{made.launcher.pid}/children").read_text()
    assert children.split() == []  # neither shims nor zombies


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])


async def test_an_init_is_small(made: Box) -> None:
    shims = [await made.start(made.bundle(process("sleep", "100"), init=True)) for _ in range(10)]
    sizes = [_pss(shim.pid) for shim in shims]
    print(f"\ninit PSS {sum(sizes) / 10:.0f} kB")
    assert sum(sizes) / 10 <= (64 if os.uname().machine == "x86_64" else 2560)  # docs/adr/0004-init.md
    assert all(can_react_to(shim.pid, 15) for shim in shims)


async def test_time_to_the_first_byte(made: Box) -> None:
    times = []
    for _ in range(11):
        bundle = made.bundle(process("echo", "x"))
        begin = time.perf_counter()
        shim = await made.launcher.launch(bundle)
        session = await shim.attach(stdin=False, stdout=True, stderr=True)
        await shim.go()
        assert await session.receive() == ("stdout", b"x\n")
        times.append(time.perf_counter() - begin)
        await shim.closed
        await session.close()
        shim.close()
    print(f"\nfirst byte after {sorted(times)[5] * 1e3:.1f} ms")
    assert sorted(times)[5] < 0.2
