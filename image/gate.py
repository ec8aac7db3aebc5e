"""Makers of image files, and the collector of what nobody needs, kept apart: the one in, the other out.

What a maker (load, commit, import, a pull) has written is garbage until its image is recorded, and what `save` reads may be
removed from the records meanwhile. So nothing is collected while any of them is at work; the last one to leave sees to it.
Makers are not kept apart from each other, and may take as long as their clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Gate:
    def __init__(self, collect: Callable[[], Awaitable[None]]) -> None:
        """`collect` removes all files that no record names."""
        self._collect = collect
        self._makers = 0
        self._wanted = False
        self._collecting = asyncio.Lock()

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """Nothing is collected within. What is left behind when the block fails, is afterwards."""
        async with self._collecting:
            self._makers += 1
        try:
            yield
        except BaseException:
            self._wanted = True
            raise
        finally:
            self._makers -= 1
            await self._settle()

    async def collect(self) -> None:
        """Collect now, or when the last maker leaves."""
        self._wanted = True
        await self._settle()

    async def _settle(self) -> None:
        if self._wanted and not self._makers:
            await asyncio.shield(asyncio.ensure_future(self._run()))  # it ends, whatever becomes of who waits

    async def _run(self) -> None:
        async with self._collecting:
            if self._wanted and not self._makers:
                self._wanted = False
                await self._collect()
