"""Mounts of a container at create: volumes made and filled, binds checked, what other containers share copied.

Flows in: the merged spec. Flows out: `MountRecord`s, kept in the container's record as they come, so that a create that
fails half-way knows which anonymous volumes it made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from pystack.engine.container import Container, MountRecord
from pystack.engine.services import Services
from pystack.model.container import Mount
from pystack.model.errors import InvalidInput
from pystack.model.observed import MountView
from pystack.volume import binds


class Materialiser:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def materialise(self, container: Container) -> tuple[MountRecord, ...]:
        """All mounts of the container. NotFound, InvalidInput or Conflict when one cannot be had."""
        config = container.config
        taken = {_key(m.target) for m in config.mounts} | {_key(f.target) for f in config.files}
        shared = [m for m in self._volumes_from(container) if _key(m.spec.target) not in taken]
        taken |= {_key(m.spec.target) for m in shared}
        asked = [
            *config.mounts,
            *(Mount(type="volume", target=v) for v in config.volumes if _key(v) not in taken),
        ]
        container.record = replace(container.record, mounts=tuple(shared))
        for mount in asked:
            record = await self._one(container, mount)
            container.record = replace(container.record, mounts=(*container.record.mounts, record))
        return container.record.mounts

    def _volumes_from(self, container: Container) -> Iterator[MountRecord]:
        """Volumes and binds of other containers, "id[:ro|rw]". What is theirs to remove stays theirs."""
        for item in container.config.volumes_from:
            ref, _, mode = item.partition(":")
            if mode not in {"", "ro", "rw", "z", "Z"}:
                raise InvalidInput(f"invalid mode for volumes-from: {mode}")
            for mount in self._services.registry.get(ref).record.mounts:
                if mount.spec.type in {"volume", "bind"}:
                    writable = mount.view.read_write and mode != "ro"
                    view = replace(mount.view, read_write=writable)
                    yield replace(mount, view=view, anonymous=False)

    async def _one(self, container: Container, mount: Mount) -> MountRecord:
        if mount.type == "tmpfs":
            view = MountView(
                type="tmpfs", name="", source="", destination=mount.target, read_write=not mount.read_only
            )
            return MountRecord(spec=mount, view=view)
        if mount.type == "bind":
            source = binds.prepare(mount)
            view = MountView(
                type="bind",
                name="",
                source=source,
                destination=mount.target,
                mode="ro" if mount.read_only else "",
                read_write=not mount.read_only,
                propagation=mount.propagation or "rprivate",
            )
            return MountRecord(spec=mount, view=view)
        return await self._volume(container, mount)

    async def _volume(self, container: Container, mount: Mount) -> MountRecord:
        images, image_id = self._services.images, container.record.image_id
        made = await self._services.volumes.materialise(
            mount, lambda: images.snapshots.open_view(image_id, "")
        )
        view = MountView(
            type="volume",
            name=made.volume.name,
            source=made.source,
            destination=mount.target,
            driver=made.volume.driver,
            mode="ro" if mount.read_only else "z",
            read_write=not mount.read_only,
            propagation="",
        )
        return MountRecord(spec=mount, view=view, anonymous=not mount.source)


def _key(target: str) -> str:
    return os.path.normpath(target)
