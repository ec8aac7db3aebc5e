"""Chunks that arrive on the event loop, read by a worker thread: an async iterator in, `read(n)` out.

`run` moves a long job to a thread in such a way that cancelling the caller ends the job, and the caller goes on only when
the thread has let go of everything.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from pystack.model.errors import Unavailable

T = TypeVar("T")


class Feed:
    """The reader's end, for one thread. `stop` may be called from the loop at any time."""

    def __init__(self, chunks: AsyncIterator[bytes] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks = chunks
        self._pending = b""
        self._future: concurrent.futures.Future[bytes] | None = None
        self._stopped = False

    def check(self) -> None:
        """Raises when the job is to end."""
        if self._stopped:
            raise Unavailable("the operation was cancelled")

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, b"" at the end. Blocks the thread until the loop has some."""
        if not self._pending:
            self.check()
            self._future = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            if self._stopped:
                self._future.cancel()
            try:
                self._pending = self._future.result()
            except concurrent.futures.CancelledError:
                raise Unavailable("the operation was cancelled") from None
            finally:
                self._future = None
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    async def _next(self) -> bytes:
        """The next chunk that is not empty, b"" at the end."""
        if self._chunks is not None:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        return b""

    def stop(self) -> None:
        self._stopped = True
        if (future := self._future) is not None:
            future.cancel()


async def run(job: Callable[[], T], feed: Feed) -> T:
    """The result of `job()` in a worker thread. When the caller is cancelled the job is told, and waited for."""
    work = asyncio.ensure_future(asyncio.to_thread(job))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        feed.stop()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # seen: the cancellation is what the caller gets
        raise
