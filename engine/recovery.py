"""At the start of the engine: what its predecessor left is taken over, finished, or undone. Nothing stays without an owner.

Flows in: records, shims' sockets, exit.json files, cgroups and directories of this instance, found by name. Flows out:
running containers re-adopted, ended ones recorded, half-made creates and removals finished or undone, strays removed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from pystack.engine import clock, updating
from pystack.engine.container import Container
from pystack.engine.creation import Creation
from pystack.engine.exits import lost_record, read_exit_record
from pystack.engine.lifecycle import DRAIN, SIGKILL, Lifecycle
from pystack.engine.ports import ShimPort
from pystack.engine.restarts import FIRST_DELAY, wanted_at_boot
from pystack.engine.services import Services
from pystack.kernel.rootpath import remove_tree
from pystack.model.errors import Conflict, PystackError
from pystack.model.names import ID
from pystack.model.observed import NEVER
from pystack.model.states import ContainerState
from pystack.network.service import Sandbox

log = logging.getLogger(__name__)

Reconnect = Callable[[str], Awaitable[ShimPort | None]]

_SETTLE_TRIES = 50  # of 20 ms
_HOST_LOST = "the engine found neither its process nor its exit record: the host went down, or it was killed from outside"


class Recovery:
    def __init__(
        self, services: Services, lifecycle: Lifecycle, creation: Creation, reconnect: Reconnect
    ) -> None:
        self._services, self._lifecycle, self._creation = services, lifecycle, creation
        self._reconnect = reconnect
        self._left: set[str] = set()

    async def run(self) -> None:
        """Every container by itself: one that cannot be recovered is logged and does not keep the engine from starting."""
        containers = list(self._services.registry)
        self._left = self._found_on_host()
        shims = dict(
            zip(
                [c.id for c in containers],
                await asyncio.gather(*map(self._find_shim, containers)),
                strict=True,
            )
        )
        await self._recover_networks(containers, shims)
        results = await asyncio.gather(
            *(self._recover(c, shims[c.id]) for c in containers), return_exceptions=True
        )
        for container, result in zip(containers, results, strict=True):
            if isinstance(result, Exception):
                log.error("cannot recover container %s", container.name, exc_info=result)
            elif isinstance(result, BaseException):
                raise result
        for container in self._services.registry:
            self._lifecycle.forwarding.begin(container)  # those that have ended, too: for what was not sent
        await self._remove_strays()

    async def _find_shim(self, container: Container) -> ShimPort | None:
        if not container.running or container.record.starting or container.record.removing:
            return None
        try:
            return await self._reconnect(container.shim_socket)
        except (PystackError, OSError) as error:
            log.warning("cannot reach the shim of container %s: %s", container.name, error)
            return None

    async def _recover_networks(self, containers: list[Container], shims: dict[str, ShimPort | None]) -> None:
        live = []
        for container in containers:
            shim = shims[container.id]
            if shim is None or not container.record.sandbox:
                continue
            sandbox = Sandbox.from_json(container.record.sandbox)
            container.endpoints, container.published = sandbox.endpoints, sandbox.ports
            live.append((sandbox, shim.netns_fd))
        await self._services.networks.recover(live)

    async def _recover(self, container: Container, shim: ShimPort | None) -> None:
        async with container.lock:
            record = container.record
            if record.removing or record.starting:
                await self._end_run(container)
            elif not container.running and self._has_leftovers(container):
                # Its end was recorded, and no more: what the run held is still there.
                await self._end_run(container)
                await self._lifecycle.release_leftovers(container)
            if record.removing:
                log.info("finish the removal of container %s", container.name)
                await self._creation.finish_removal(container)
            elif record.starting:
                await self._undo_start(container)
            elif container.running and shim is not None:
                await self._adopt(container, shim)
            elif container.running:
                await self._ended_unseen(container)
            elif record.state is ContainerState.RESTARTING:
                self._lifecycle.plan_restart(container, FIRST_DELAY)
            else:
                await self._at_rest(container)

    def _found_on_host(self) -> set[str]:
        """Names of what runs of containers have on this host: their cgroups and run directories."""
        return self._services.cgroups.list_containers() | set(_entries(f"{self._services.instance.run}/c"))

    def _has_leftovers(self, container: Container) -> bool:
        return not self._left.isdisjoint({container.id, os.path.basename(container.run_directory)})

    async def _end_run(self, container: Container) -> None:
        """End a run that is undone. Its shim has written all that it writes when this returns."""
        shim = await self._reconnect(container.shim_socket)
        if shim is None:
            return
        try:
            self._services.cgroups.kill(container.id)  # also thaws: a frozen process takes no signal
            await shim.signal(SIGKILL)
        except Conflict:
            pass  # it has ended by itself
        finally:
            await asyncio.wait({shim.closed}, timeout=DRAIN)
            shim.close()

    async def _adopt(self, container: Container, shim: ShimPort) -> None:
        age = (clock.now_ns() - clock.parse_ns(container.record.started_at)) / 1e9
        container.started_monotonic = asyncio.get_running_loop().time() - max(age, 0.0)
        container.leftovers = True
        frozen = self._services.cgroups.is_frozen(container.id)
        if container.record.state is ContainerState.RUNNING and frozen:
            await self._services.cgroups.thaw(container.id)  # it was being committed
        if container.record.state is ContainerState.PAUSED and not frozen:
            # Recorded before it was frozen, or thawed before that was recorded: it runs.
            await self._services.registry.save(container, container.moved(ContainerState.RUNNING))
        if container.record.updating:
            await updating.finish(self._services, container)
        self._lifecycle.adopt(container, shim)

    async def _ended_unseen(self, container: Container) -> None:
        """Its run ended while no engine was there."""
        record = container.record
        ended = read_exit_record(container) or lost_record(container, _HOST_LOST)
        self._services.cgroups.kill(container.id)
        ran_for = (clock.parse_ns(ended["finished_at"]) - clock.parse_ns(record.started_at)) / 1e9
        container.started_monotonic = asyncio.get_running_loop().time() - max(ran_for, 0.0)
        await self._lifecycle.settle(container, ended)

    async def _undo_start(self, container: Container) -> None:
        """A start that nobody has confirmed did not happen: what there is of it goes, then the policy decides."""
        await self._lifecycle.release_leftovers(container)
        record = container.record
        state = record.state
        if state is ContainerState.RESTARTING or record.started_at != NEVER:
            state = ContainerState.EXITED if state is not ContainerState.RESTARTING else state
        await self._services.registry.save(
            container, replace(record, starting=False, state=state, sandbox="")
        )
        if state is ContainerState.RESTARTING:
            self._lifecycle.plan_restart(container, FIRST_DELAY)
        else:
            await self._at_rest(container)

    async def _at_rest(self, container: Container) -> None:
        """Not running and not meant to be, unless its policy says that it comes up with the engine."""
        record = container.record
        if record.started_at == NEVER:
            return
        if container.config.auto_remove:
            self._creation.auto_remove(container)
        elif wanted_at_boot(
            container.config.restart,
            manually_stopped=record.manually_stopped,
            exit_code=record.exit_code,
            was_running=False,
        ):
            starting = replace(container.moved(ContainerState.RESTARTING), restart_count=0)
            await self._services.registry.save(container, starting)
            self._lifecycle.plan_restart(container, 0.0)

    async def _remove_strays(self) -> None:
        """Cgroups, shim directories and container directories of this instance that no record owns."""
        services = self._services
        known = set(services.registry.names)
        for container_id in services.cgroups.list_containers() - known:
            log.warning("remove the stray cgroup of container %s", container_id[:12])
            services.cgroups.kill(container_id)
            await services.cgroups.remove(container_id)
        for name in _entries(f"{services.instance.root}/containers"):
            if ID.match(name) and name not in known:
                log.warning("remove the stray directory of container %s", name[:12])
                await services.networks.release(name)
                await _remove_settling(services.instance.container_dir(name))
        owned = {os.path.basename(services.instance.shim_dir(i)) for i in known}
        for name in _entries(f"{services.instance.run}/c"):
            if name not in owned:
                remove_tree(f"{services.instance.run}/c/{name}")


async def _remove_settling(directory: str) -> None:
    """Remove a directory in which a shim whose container was just killed may still record the exit."""
    for _ in range(_SETTLE_TRIES):
        try:
            return remove_tree(directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        await asyncio.sleep(0.02)
    remove_tree(directory)


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
