"""The watch over what something else may take away: the firewall's table, bridges and their addresses, forwarding.

The kernel's messages about links come in at once; the table is looked at every few seconds, for which one message is
enough as long as no table of the host has changed. Losses are mended, logged and published as network events
("repair"). What this engine removes itself is no loss: memory is changed before the kernel is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pystack.kernel import links
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError
from pystack.network.firewall import Firewall
from pystack.network.mending import Mender

log = logging.getLogger(__name__)

PERIOD = 5.0  # seconds between two looks at the table
_QUIET = 1.0  # seconds without a new container after which pyroute2 may be imported
_SETTLE = 0.05  # seconds for what belongs to one change: a bridge's addresses go one by one


def _ended(task: asyncio.Task[None]) -> None:
    """They end by being cancelled only."""
    if not task.cancelled() and task.exception() is not None:
        log.error("the networks are watched less than they should be", exc_info=task.exception())


class Watch:
    """`publish(actor id, name, what)` tells of a repair; `wind_down` is tried again at every look."""

    def __init__(
        self,
        mender: Mender,
        firewall: Firewall,
        publish: Callable[[str, str, str], object],
        wind_down: Callable[[], Awaitable[None]],
    ) -> None:
        self._mender, self._firewall = mender, firewall
        self._publish, self._wind_down = publish, wind_down
        self._tasks: list[asyncio.Task[None]] = []
        self._last_start = 0.0
        self._links: links.LinkWatch | None = None
        self._watched: frozenset[int] = frozenset()

    def start(self) -> None:
        """Idempotent. The first look is a period from now."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._last_start = loop.time()
            self._tasks = [loop.create_task(work()) for work in (self._look_again, self._listen)]
            for task in self._tasks:
                task.add_done_callback(_ended)

    async def stop(self) -> None:
        """Idempotent. Afterwards nothing is mended any more."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def started_a_container(self) -> None:
        """There is work to do now; what can wait does."""
        self._last_start = asyncio.get_running_loop().time()

    async def look(self) -> None:
        """Look at the table and forwarding once, and at the bridges while the kernel does not tell of them."""
        self._look_at_table()
        if self._mender.forwarding_is_off():
            self._mender.forward()
            self._report("ipv4.ip_forward", "forwarding was turned off")
        if self._links is None:
            self._look_at_bridges()
        else:
            self._follow(self._links)
        await self._wind_down()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.look()
            except (OSError, EngineError) as error:
                log.warning("cannot look after the networks: %s", error)

    def _look_at_table(self) -> None:
        # Twice: another engine may have changed its own table while this one was read.
        if self._firewall.is_intact() or self._firewall.is_intact():
            return
        self._firewall.assert_all()
        failpoint("network.table.mended")
        self._report(self._firewall.table, "the firewall table was changed or removed")

    def _look_at_bridges(self) -> None:
        for state, what in self._mender.losses():
            if self._mender.mend(state):
                self._report(state.name, what, state.id)
            else:
                self._watched = frozenset()  # look again at the next round

    def _report(self, name: str, what: str, actor: str = "") -> None:
        log.warning("%s by something else: mended (%s)", what, name)
        self._publish(actor or name, name, what)

    # -- the kernel's messages -------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        await self._wait_for_quiet()
        await asyncio.to_thread(links.load)
        while True:
            watch = links.LinkWatch()
            try:
                await watch.open()
                self._watched = frozenset()
                self._links = watch
                self._follow(watch)
                while True:
                    await watch.losses()
                    await asyncio.sleep(_SETTLE)
                    self._look_at_bridges()
                    self._follow(watch)
            except (OSError, EngineError) as error:
                log.warning("cannot watch the bridges, trying again: %s", error)
            finally:
                self._links = None
                watch.close()
            await asyncio.sleep(PERIOD)

    async def _wait_for_quiet(self) -> None:
        """Not while the daemon starts, nor while containers do."""
        loop = asyncio.get_running_loop()
        wait = PERIOD / 2
        while wait > 0:
            await asyncio.sleep(wait)
            wait = self._last_start + _QUIET - loop.time()

    def _follow(self, watch: links.LinkWatch) -> None:
        """Watch the bridges that there are now. What one lost before it was watched is seen here."""
        indexes = self._mender.indexes()
        if indexes != self._watched:
            watch.watch(indexes)
            self._watched = indexes
            self._look_at_bridges()
