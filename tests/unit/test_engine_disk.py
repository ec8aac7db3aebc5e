"""Work in threads: results and errors come back, and a cancelled caller waits for the end of what it began."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pystack.engine.disk import Disk


@pytest.mark.anyio
async def test_results_and_errors_come_back() -> None:
    disk = Disk()

    def fail() -> None:
        raise OSError(5, "no")

    assert await disk.run(threading.current_thread) is not threading.current_thread()
    with pytest.raises(OSError, match="no"):
        await disk.run(fail)
    disk.close()


@pytest.mark.anyio
async def test_a_cancelled_caller_is_released_after_the_work() -> None:
    disk, began, ended = Disk(), threading.Event(), []

    def work() -> None:
        began.set()
        time.sleep(0.05)
        ended.append(True)

    task = asyncio.create_task(disk.run(work))
    while not began.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
    disk.close()
