"""Mounts of a container at create: first planned and named, then made, filled and checked.

Flows in: the merged spec. Flows out: `MountRecord`s. The plan names every anonymous volume and goes into the record
before anything is made, so that a create that dies half-way leaves no volume that nobody knows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from pystack.engine.bundles import image_mount_directory
from pystack.engine.container import Container, MountRecord
from pystack.engine.services import Services
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ContainerSpec, Mount
from pystack.model.errors import InvalidInput, NotFound
from pystack.model.observed import MountView
from pystack.volume import binds
from pystack.volume.records import ANONYMOUS_LABEL


def plan(services: Services, config: ContainerSpec) -> tuple[MountRecord, ...]:
    """All mounts of a container, with nothing made yet. InvalidInput for bad `volumes_from`."""
    taken = {_key(m.target) for m in config.mounts} | {_key(f.target) for f in config.files}
    shared = [m for m in _volumes_from(services, config) if _key(m.spec.target) not in taken]
    taken |= {_key(m.spec.target) for m in shared}
    anonymous = [Mount(type="volume", target=v) for v in config.volumes if _key(v) not in taken]
    return (*shared, *(_planned(m) for m in (*config.mounts, *anonymous)))


def _volumes_from(services: Services, config: ContainerSpec) -> Iterator[MountRecord]:
    """Volumes and binds of other containers, "id[:ro|rw]". What is theirs to remove stays theirs."""
    for item in config.volumes_from:
        ref, _, mode = item.partition(":")
        if mode not in {"", "ro", "rw", "z", "Z"}:
            raise InvalidInput(f"invalid mode for volumes-from: {mode}")
        try:
            other = services.registry.get(ref)
        except NotFound as error:  # clients read "not found" as: pull the image
            raise InvalidInput(str(error)) from error
        for mount in other.record.mounts:
            if mount.spec.type in {"volume", "bind"}:
                view = replace(mount.view, read_write=mount.view.read_write and mode != "ro")
                yield replace(mount, view=view, anonymous=False)


def _planned(mount: Mount) -> MountRecord:
    anonymous = mount.type == "volume" and not mount.source
    if anonymous:
        labels = {**mount.labels, ANONYMOUS_LABEL: ""}
        mount = replace(mount, source=os.urandom(32).hex(), labels=labels)
    view = MountView(
        type=mount.type,
        name=mount.source if mount.type == "volume" else "",
        source="",
        destination=mount.target,
        mode="ro" if mount.read_only else "z" if mount.type == "volume" and not anonymous else "",
        read_write=not mount.read_only,
        propagation=(mount.propagation or "rprivate") if mount.type == "bind" else "",
    )
    return MountRecord(spec=mount, view=view, anonymous=anonymous)


async def make(services: Services, container: Container) -> tuple[MountRecord, ...]:
    """Make what the record's mounts name: volumes with their content from the image, sources of binds."""
    made = []
    for mount in container.record.mounts:
        if mount.view.source or mount.spec.type == "tmpfs":
            made.append(mount)
        elif mount.spec.type == "image":
            made.append(await _image(services, container, mount))
        elif mount.spec.type == "bind":
            made.append(replace(mount, view=replace(mount.view, source=binds.prepare(mount.spec))))
        else:
            made.append(await _volume(services, container, mount))
    return tuple(made)


async def _volume(services: Services, container: Container, mount: MountRecord) -> MountRecord:
    def open_view() -> int:
        return services.images.snapshots.open_view(container.record.image_id)

    ready = await services.volumes.materialise(mount.spec, open_view)
    return replace(mount, view=replace(mount.view, source=ready.source, driver=ready.volume.driver))


async def _image(services: Services, container: Container, mount: MountRecord) -> MountRecord:
    """The image must be here; what the container writes to it lies in the container's directory, and goes with it."""
    image = await services.images.ensure(mount.spec.source)
    layers = services.images.snapshots.layers(image.id)
    place = image_mount_directory(container.directory, mount.spec.target)
    os.makedirs(f"{place}/w", mode=0o700, exist_ok=True)
    os.makedirs(f"{place}/u", mode=0o700, exist_ok=True)
    info = os.stat(layers[0])
    os.chown(f"{place}/u", info.st_uid, info.st_gid)
    os.chmod(f"{place}/u", stat.S_IMODE(info.st_mode))
    failpoint("engine.create.image_mount")
    return replace(mount, view=replace(mount.view, source=image.id))


def _key(target: str) -> str:
    return os.path.normpath(target)
