"""The engine: every layer below composed, opened in order, recovered, and closed in reverse.

Flows in: an `Instance`. Flows out: the facades of `engine.interface.Engine`. Containers outlive it: shutting down
leaves them running unless asked otherwise, and the next `open` takes them over.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from pystack.engine import info, remap
from pystack.engine.container import Container
from pystack.engine.containers import Containers
from pystack.engine.creation import Creation
from pystack.engine.events import EventBus
from pystack.engine.execs import Execs
from pystack.engine.facades import Networks
from pystack.engine.files import Files
from pystack.engine.lifecycle import Lifecycle
from pystack.engine.recovery import Recovery
from pystack.engine.runtime.client import Launcher, ShimProcess
from pystack.engine.services import Registry, Services
from pystack.engine.store import Store, Table
from pystack.image.service import ImageService
from pystack.kernel import apparmor
from pystack.kernel.cgroups import EngineCgroups
from pystack.kernel.host import facts
from pystack.kernel.placement import spread_children
from pystack.model.errors import Conflict, NotFound, NotModified, PystackError
from pystack.model.names import Instance
from pystack.model.observed import Event
from pystack.model.settings import Settings
from pystack.network.service import NetworkService
from pystack.volume.service import VolumeService

log = logging.getLogger(__name__)


class Engine:
    """`interface.Engine`. Use `Engine.open`."""

    def __init__(
        self, services: Services, store: Store, containers: Containers, lifecycle: Lifecycle
    ) -> None:
        self._services, self._store, self._lifecycle = services, store, lifecycle
        self._containers = containers
        self._networks = Networks(services)
        self._files = Files(services, lifecycle)

    @classmethod
    @asynccontextmanager
    async def open(cls, instance: Instance, settings: Settings | None = None) -> AsyncIterator[Engine]:
        """Open the engine on its root; on leaving, close it with its containers left running."""
        _make_directories(instance)
        async with AsyncExitStack() as stack:
            stack.callback(_remove_empty_directories, instance)
            store = Store.open(f"{instance.root}/state.db")
            stack.push_async_callback(store.close)
            services = await _compose(instance, store, stack, settings or Settings())
            stack.callback(services.disk.close)
            await services.registry.load()
            lifecycle = Lifecycle(services)
            creation = Creation(services, lifecycle)
            lifecycle.on_auto_remove = creation.auto_remove
            await Recovery(services, lifecycle, creation, ShimProcess.reconnect).run()
            services.networks.watch()
            engine = cls(
                services, store, Containers(services, lifecycle, creation, Execs(services)), lifecycle
            )
            stack.push_async_callback(engine.shutdown)
            yield engine

    @property
    def containers(self) -> Containers:
        return self._containers

    @property
    def networks(self) -> Networks:
        return self._networks

    @property
    def volumes(self) -> VolumeService:
        return self._services.volumes

    @property
    def images(self) -> ImageService:
        return self._services.images

    @property
    def files(self) -> Files:
        return self._files

    @property
    def events(self) -> EventBus:
        return self._services.events

    def documents(self, table: str) -> Table:
        """A table of the state store for the layers above (the stacks of the reconciler)."""
        return self._store.table(table)

    def launcher_pid(self) -> int:
        """Process id of the launcher, for whoever watches the engine from outside."""
        return self._services.launcher.pid

    async def info(self) -> dict[str, object]:
        return info.info(self._services, len(await self.images.list()))

    async def version(self) -> dict[str, object]:
        return info.version()

    @property
    def settings(self) -> Settings:
        return self._services.settings

    def reload(self, settings: Settings) -> None:
        """New settings: they hold for what is created or asked from now on. Announced as Docker does."""
        self._services.settings = settings
        self._services.networks.set_default_pools(settings.default_address_pools)
        attributes = {
            "name": facts().hostname,
            "debug": str(settings.debug).lower(),
            "labels": json.dumps(list(settings.labels)),
            "live-restore": str(settings.live_restore).lower(),
            "shutdown-timeout": str(settings.shutdown_timeout),
            "authorization-plugins": json.dumps(list(settings.authorization_plugins)),
        }
        self.events.publish("daemon", "reload", self._services.instance.id, attributes)

    async def stop_containers(self) -> None:
        """Stop every container, all at once; their restart policies start them again with the engine."""
        await asyncio.gather(*(self._stop(c) for c in self._services.registry))

    async def shutdown(self, *, keep_containers: bool = True) -> None:
        """End watching; with `keep_containers` false stop every container first, all at once. Idempotent."""
        services = self._services
        if not keep_containers and not services.closing:
            await self.stop_containers()
        services.closing = True
        services.events.close()
        for container in services.registry:
            container.cancel_backoff()
            self._lifecycle.oom.end(container)
            if container.monitor is not None:
                container.monitor.stop()
        await services.background.close()
        for container in services.registry:
            if container.shim is not None:
                container.shim.close()
                container.shim = None
        services.watcher.close()

    async def _stop(self, container: Container) -> None:
        by_hand = container.record.manually_stopped
        try:
            await self._containers.stop(container.id)
            if not by_hand:
                await self._services.registry.amend(container, manually_stopped=False)
        except (NotModified, NotFound):
            pass  # it did not run, or is removed with its end
        except PystackError as error:
            log.warning("cannot stop container %s: %s", container.name, error)


def _make_directories(instance: Instance) -> None:
    """State is root's alone (CVE-2021-41091); the run directory can be passed through, to the API's socket."""
    os.makedirs(instance.root, mode=0o700, exist_ok=True)
    os.chmod(instance.root, 0o700)
    os.makedirs(f"{instance.root}/containers", mode=0o700, exist_ok=True)
    spread_children(f"{instance.root}/containers")
    os.makedirs(instance.run, mode=0o711, exist_ok=True)
    os.makedirs(f"{instance.run}/c", mode=0o700, exist_ok=True)


def _remove_empty_directories(instance: Instance) -> None:
    """With no container or volume left, their parent directories go."""
    for directory in (f"{instance.root}/containers", f"{instance.root}/volumes", f"{instance.run}/c"):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise


def _remove_empty_cgroups(cgroups: EngineCgroups) -> None:
    """The last thing an engine does: with containers left running, their cgroups and the supervisor's stay."""
    try:
        cgroups.teardown()
    except Conflict as error:
        log.info("cgroups stay: %s", error)


async def _close_networks(networks: NetworkService, registry: Registry) -> None:
    """Bridges and firewall stay for containers that run on; without any, the host is left as it was."""
    try:
        if not any(container.running for container in registry):
            await networks.destroy()
    except PystackError:
        log.exception("cannot remove the networks from the kernel")
    finally:
        await networks.close()


async def _compose(instance: Instance, store: Store, stack: AsyncExitStack, settings: Settings) -> Services:
    """Make the layers below and open them; each closes with `stack`."""
    events = EventBus()

    def publish(type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> Event:
        return events.publish(type, action, actor_id, attributes)

    if apparmor.enabled():
        await asyncio.to_thread(apparmor.load_default)
    ids = remap.parse(settings.userns_remap)
    if ids is not None:
        await asyncio.to_thread(remap.require_support, instance)
    registry = Registry(store.table("containers"), instance)
    cgroups = EngineCgroups(instance.cgroup)
    cgroups.prepare()
    stack.callback(_remove_empty_cgroups, cgroups)
    images = ImageService(instance.root, store.table("images"), publish)
    images.in_use = registry.using_image
    volumes = VolumeService(instance.root, store.table("volumes"), publish, registry.using_volume)
    networks = NetworkService(instance, store.table("networks"), publish)
    networks.set_default_pools(settings.default_address_pools)
    await images.open()
    stack.push_async_callback(images.close)
    await volumes.open()
    await networks.open()
    stack.push_async_callback(_close_networks, networks, registry)
    launcher = Launcher(cgroups=cgroups.supervisor_dirs())
    await launcher.start()
    stack.push_async_callback(launcher.close)
    return Services(
        instance=instance,
        events=events,
        registry=registry,
        images=images,
        volumes=volumes,
        networks=networks,
        cgroups=cgroups,
        launcher=launcher,
        settings=settings,
        remap=ids,
    )
