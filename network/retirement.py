"""The default bridge's end: it goes when no container uses it, and its subnet with it; the next use brings both again.

`look` is called every few seconds; whoever may make the bridge waits for `finished` first, and does not wait between that
and being one of its users.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from pystack.kernel.failpoints import failpoint
from pystack.model.errors import PystackError
from pystack.network import bridge
from pystack.network.bridge import Bridges
from pystack.network.firewall import Firewall
from pystack.network.records import Sandbox
from pystack.network.registry import NetworkRegistry, NetworkState

log = logging.getLogger(__name__)


class Retirement:
    """`sandboxes` are the live ones, by container id (shared with the service)."""

    def __init__(
        self,
        registry: NetworkRegistry,
        bridges: Bridges,
        firewall: Firewall,
        sandboxes: Mapping[str, Sandbox],
    ) -> None:
        self._registry, self._bridges, self._firewall = registry, bridges, firewall
        self._sandboxes = sandboxes
        self._idle = False  # unused at the last look
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Retire the bridge when it is unused for the second time in a row."""
        state = self._registry.default_bridge()
        idle = self._bridges.is_up(state.record.bridge) and not self._is_used(state)
        if idle and self._idle:
            # Nothing waits between the check and here: from now on `finished` holds up new users.
            self._task = asyncio.get_running_loop().create_task(self._retire(state))
            await self.finished()
        self._idle = idle

    async def finished(self) -> None:
        """Return when no removal is under way: the bridge must not be made meanwhile. A fault of it is logged."""
        task = self._task
        if task is None:
            return
        try:
            await asyncio.shield(task)
        except (OSError, PystackError) as error:
            log.warning("cannot remove the bridge that nobody uses: %s", error)
        finally:
            if task.done():
                self._task = None

    def _is_used(self, state: NetworkState) -> bool:
        return bool(state.endpoints) or any(
            entry.endswith("host-gateway")
            for sandbox in self._sandboxes.values()
            for entry in sandbox.extra_hosts
        )

    async def _retire(self, state: NetworkState) -> None:
        name = state.record.bridge
        self._registry.give_up_subnet(state)
        self._bridges.forget(name)
        await self._registry.keep(state)
        failpoint("network.retirement.recorded")
        await asyncio.to_thread(bridge.delete_bridge, name)
        self._firewall.remove_bridge(name)
