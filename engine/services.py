"""What the parts of the engine share: the layers below, the registry of containers, and background work.

Flows in: records from the store at start. Flows out: containers by reference, durable saves, events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pystack.engine.container import Container, ContainerRecord, dump_record, load_record
from pystack.engine.disk import Disk
from pystack.engine.events import EventBus
from pystack.engine.names import NameIndex
from pystack.engine.ports import LauncherPort
from pystack.engine.remap import IdMap
from pystack.engine.store import Table
from pystack.image.records import ImageUser
from pystack.image.service import ImageService
from pystack.kernel.cgroups import EngineCgroups
from pystack.kernel.inotify import DirectoryWatcher
from pystack.model.errors import NotFound
from pystack.model.names import Instance
from pystack.model.settings import Settings
from pystack.network.service import NetworkService
from pystack.volume.service import VolumeService

log = logging.getLogger(__name__)


class Registry:
    """All containers, by id; the store holds their records."""

    def __init__(self, table: Table, instance: Instance) -> None:
        self._table, self._instance = table, instance
        self._containers: dict[str, Container] = {}
        self.names = NameIndex()
        self.making: set[Container] = set()  # being created: not to be found yet, but what they use is in use

    async def load(self) -> None:
        """Read every record. One that cannot be read is set aside and logged, and its name is free again."""
        for key, text in tuple(self._table.all().items()):
            try:
                self.add(load_record(text))
            except ValueError as error:
                log.warning("set aside the record of container %s: %s", key[:12], error)
                await self._table.quarantine(key, str(error))

    def add(self, record: ContainerRecord) -> Container:
        container = Container(record=record, instance=self._instance)
        self.names.reserve(record.name, record.id)
        self.adopt(container)
        return container

    def adopt(self, container: Container) -> None:
        """Let references find it: it is whole. Its name is reserved already."""
        self.names.add(container.id)
        self._containers[container.id] = container

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._containers.values()))

    def get(self, ref: str) -> Container:
        """NotFound, or InvalidInput for an ambiguous prefix."""
        return self._containers[self.names.resolve(ref)]

    def using_image(self, image_id: str) -> list[ImageUser]:
        """The containers that were made from an image."""
        return [
            ImageUser(id=c.id, name=c.name, running=c.running)
            for c in (*self, *self.making)
            if c.record.image_id == image_id
            or any(m.view.type == "image" and m.view.source == image_id for m in c.record.mounts)
        ]

    def using_volume(self, name: str) -> list[str]:
        """Ids of the containers that mount a volume; one that is being removed does not keep its anonymous ones."""
        return [
            c.id
            for c in (*self, *self.making)
            for m in c.record.mounts
            if m.view.type == "volume" and m.view.name == name and not (m.anonymous and self._gives_up(c))
        ]

    def _gives_up(self, container: Container) -> bool:
        record = container.record
        return record.removing and record.remove_volumes and container not in self.making

    def find(self, container_id: str) -> Container | None:
        return self._containers.get(container_id)

    async def save(self, container: Container, record: ContainerRecord) -> None:
        """Make `record` the container's, and return once that is durable. NotFound when it was removed meanwhile."""
        if container.id not in self._containers and container not in self.making:
            raise NotFound(f"No such container: {container.name}")
        container.record = record
        await self._table.put(record.id, dump_record(record))

    async def amend(self, container: Container, **changes: Any) -> None:
        """Change fields of the record as it is when this runs, and return once that is durable."""
        await self.save(container, replace(container.record, **changes))

    async def forget(self, container: Container) -> None:
        self._containers.pop(container.id, None)
        self.names.forget(container.id)
        self.names.release(container.name, container.id)
        await self._table.delete(container.id)


class Background:
    """Tasks that outlive the call that began them. A fault in one is logged; at the end they are waited for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        """Cancel what is left and wait for it."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True, kw_only=True, eq=False)
class Services:
    instance: Instance
    events: EventBus
    registry: Registry
    images: ImageService
    volumes: VolumeService
    networks: NetworkService
    cgroups: EngineCgroups
    launcher: LauncherPort
    settings: Settings = field(default_factory=Settings)
    remap: IdMap | None = None  # ids of containers' users, None when they are the host's
    watcher: DirectoryWatcher = field(default_factory=DirectoryWatcher)
    background: Background = field(default_factory=Background)
    disk: Disk = field(default_factory=Disk)
    closing: bool = False

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        """Publish a container event with Docker's attributes."""
        self.events.publish("container", action, container.id, container.event_attributes(**attributes))
