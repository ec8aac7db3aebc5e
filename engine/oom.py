"""Processes killed for want of memory, while their container runs on: state `OOMKilled` and the event `oom`.

Flows in: containers with a memory limit that start, are adopted, updated and end. Flows out: records and events. What
kills PID 1 itself is told by the exit record, too; an event goes out once for each sign.
"""

from __future__ import annotations

import asyncio
import logging

from pystack.engine.container import Container
from pystack.engine.services import Services
from pystack.kernel import oom
from pystack.model.errors import PystackError

log = logging.getLogger(__name__)

#: The kernel tells of the want first and counts the kill after it: when to look, seconds.
_LOOKS = (0.0, 0.02, 0.1, 0.5)


class OomReporter:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._looking: set[str] = set()

    def begin(self, container: Container) -> None:
        """Watch a running container. A limit that is not there cannot be hit; begin again once it is set."""
        if container.config.resources.memory <= 0 or container.end_oom_watch is not None:
            return
        directory = self._services.cgroups.memory_directory(container.id)
        try:
            container.end_oom_watch = oom.watch(
                directory, self._services.watcher, lambda: self._notice(container)
            )
        except OSError as error:
            log.warning("cannot watch container %s for want of memory: %s", container.name, error)
        count = self._services.cgroups.oom_kills(container.id)
        container.oom_kills = count if container.record.oom_killed else 0
        if count > container.oom_kills:
            self._notice(container)  # it happened while no engine was there

    def end(self, container: Container) -> None:
        stop, container.end_oom_watch = container.end_oom_watch, None
        if stop is not None:
            stop()

    def _notice(self, container: Container) -> None:
        if container.id in self._looking:
            return
        self._looking.add(container.id)
        self._services.background.spawn(self._look(container), f"OOM killer in {container.name}")

    async def _look(self, container: Container) -> None:
        try:
            for pause in _LOOKS:
                await asyncio.sleep(pause)
                if await self._tell(container):
                    break
        except PystackError as error:
            log.warning("cannot record the want of memory of container %s: %s", container.name, error)
        finally:
            self._looking.discard(container.id)

    async def _tell(self, container: Container) -> bool:
        """Whether there was something to tell, or nothing more will come: its run has ended, and that tells."""
        services = self._services
        async with container.lock:
            if container.end_oom_watch is None:
                return True
            count = services.cgroups.oom_kills(container.id)
            if count <= container.oom_kills and not services.cgroups.under_oom(container.id):
                return False
            container.oom_kills = count
            if not container.record.oom_killed:
                await services.registry.amend(container, oom_killed=True)
            services.publish(container, "oom")
            return True
