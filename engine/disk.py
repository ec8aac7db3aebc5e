"""Work on the disk away from the event loop: plain functions in, their results out.

A change of a directory may have to wait until the file system's journal is written (jbd2 commits for every fsync of a
shim or of the store): single milliseconds in which the loop could have served others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Disk:
    """A few threads. Whoever waits is not released before the work has ended, also when cancelled: undo comes after it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="disk")

    async def run(self, work: Callable[[], T]) -> T:
        """`work()` in a thread: its result or its exception."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                try:
                    await asyncio.wait({future})
                except asyncio.CancelledError:
                    continue  # once more: it is short, and what comes next must not run beside it
            future.exception()
            raise

    def close(self) -> None:
        self._threads.shutdown()
