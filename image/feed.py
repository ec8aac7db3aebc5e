"""Bytes between the event loop and a worker thread: `Feed` brings an async iterator to a `read(n)`, `drain` brings what a
thread writes to an async iterator.

A job has a thread of its own: it may wait for a client for as long as that likes, and the loop's pool has few. Cancelling
the caller ends the job, and the caller goes on only when the thread has let go of everything.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

from pystack.model.errors import Unavailable

T = TypeVar("T")

_CHUNK = 256 << 10
_WAITING = 4  # chunks that nobody has taken yet


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


def _in_thread(job: Callable[[], T]) -> asyncio.Future[T]:
    """`job()` in a new thread."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def main() -> None:
        try:
            result = job()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    outcome.set_running_or_notify_cancel()
    threading.Thread(target=main, name="transfer", daemon=True).start()
    return asyncio.wrap_future(outcome)


async def run(job: Callable[[], T], feed: Feed) -> T:
    """The result of `job()` in a thread. When the caller is cancelled the job is told, and waited for."""
    return await _finish(_in_thread(job), feed.stop)


async def _finish(work: asyncio.Future[T], stop: Callable[[], None]) -> T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # seen: the cancellation is what the caller gets
        raise


class Outlet:
    """The writer's end of `drain`, for one thread: small writes are gathered, and wait while nobody takes them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gathered = bytearray()
        self._room = threading.Semaphore(_WAITING)
        self._stopped = False
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def check(self) -> None:
        """Raises when the job is to end."""
        if self._stopped:
            raise Unavailable("the operation was cancelled")

    def write(self, data: bytes | memoryview) -> None:
        self._gathered += data
        if len(self._gathered) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._gathered:
            self._room.acquire()
            self.check()
            data, self._gathered = bytes(self._gathered), bytearray()
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, data)

    def took(self) -> None:
        """The loop has taken a chunk."""
        self._room.release()

    def stop(self) -> None:
        self._stopped = True
        self._room.release()


async def drain(job: Callable[[Outlet], None]) -> AsyncGenerator[bytes, None]:
    """What `job` writes, chunk by chunk, while it runs in a thread. What it raises is raised here, at the end.

    Close the iterator (contextlib.aclosing), or the job waits for whoever would go on.
    """
    outlet = Outlet()

    def whole() -> None:
        job(outlet)
        outlet.flush()

    work = _in_thread(whole)
    try:
        while not (work.done() and outlet.chunks.empty()):
            getting = asyncio.ensure_future(outlet.chunks.get())
            either: set[asyncio.Future[Any]] = {getting, work}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if getting.done() and not getting.cancelled():
                outlet.took()
                yield getting.result()
    finally:
        outlet.stop()
        await _settled(work)
    work.result()


async def _settled(work: asyncio.Future[None]) -> None:
    """Wait for the end of a job that was told to end, whatever happens to the waiter."""
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            continue  # it is short: it ends at its next write
    if not work.cancelled():
        work.exception()
