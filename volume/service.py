"""The volumes of one engine: `engine.interface.Volumes`, and volumes for a container's mounts.

In: specs, mounts and the documents table. Out: views, host paths for the bundle, one event for each change.

    <root>/volumes/<name>/_data     the content; a container sees nothing above it
    <root>/volumes/.new-<random>    being made; removed at open
    <root>/volumes/.rm-<name>       being removed; open finishes that

A directory is made before its document, and renamed away before the document goes. One that no document names is adopted
when it has content: data is never deleted on suspicion.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from weakref import WeakValueDictionary

from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import Root, remove_tree
from pystack.model.container import Mount, VolumeSpec
from pystack.model.documents import Documents
from pystack.model.errors import Conflict, InvalidInput, NotFound, Unsupported
from pystack.model.observed import VolumeView
from pystack.model.turns import OneAtATime
from pystack.volume import copyup
from pystack.volume.records import (
    ANONYMOUS_LABEL,
    DRIVER,
    VolumeRecord,
    check_driver,
    check_name,
    device_of,
    from_json,
)

Filters = Mapping[str, Sequence[str]]
_LIST_FILTERS = {"dangling", "driver", "label", "name"}
_PRUNE_FILTERS = {"label", "label!", "all"}


class Publish(Protocol):
    def __call__(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Materialised:
    """A volume ready to be mounted: `source` is the host path to bind."""

    volume: VolumeView
    source: str


def _nobody(_: str) -> Sequence[str]:
    return ()


class VolumeService:
    """Volumes by name. `in_use` tells the ids of the containers that mount one."""

    def __init__(
        self,
        root: str,
        documents: Documents,
        publish: Publish,
        in_use: Callable[[str], Sequence[str]] = _nobody,
    ) -> None:
        self._root = f"{root}/volumes"
        self._documents = documents
        self._publish = publish
        self._in_use = in_use
        self._volumes: dict[str, VolumeRecord] = {}
        self._pruning = OneAtATime()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> None:
        """Read the records; finish or undo what a crash interrupted."""
        self._volumes = {name: from_json(text) for name, text in self._documents.all().items()}
        removed, strays = await asyncio.to_thread(self._look)
        for name in removed:
            await self._forget(name)
        for name in strays:
            record = VolumeRecord(name=name, created=_now(), labels={}, options={})
            await self._documents.put(name, record.to_json())
            self._volumes[name] = record
        await asyncio.to_thread(self._tidy, list(self._volumes))

    def _look(self) -> tuple[builtins.list[str], builtins.list[str]]:
        """(volumes whose removal had begun, directories with content that no record names)."""
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.chmod(self._root, 0o701)  # as Docker's; the state root above it is 0700
        removed, strays = [], []
        for entry in sorted(os.listdir(self._root)):
            path = f"{self._root}/{entry}"
            if entry.startswith(".rm-"):
                name = entry.removeprefix(".rm-")
                if name in self._volumes and not os.path.isdir(f"{self._root}/{name}"):
                    removed.append(name)
            elif entry.startswith(".new-"):
                remove_tree(path)
            elif entry not in self._volumes:
                if os.path.isdir(f"{path}/{copyup.DATA}") and not copyup.is_empty(path):
                    strays.append(entry)
                else:
                    remove_tree(path)
        return removed, strays

    def _tidy(self, names: Sequence[str]) -> None:
        """Remove what was doomed, finish copies, and give a volume whose directory is lost an empty one."""
        for entry in os.listdir(self._root):
            if entry.startswith(".rm-"):
                remove_tree(f"{self._root}/{entry}")
        for name in names:
            if not os.path.isdir(f"{self._root}/{name}/{copyup.DATA}"):
                self._make_directory(name)
            copyup.finish(f"{self._root}/{name}")

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    # Reading

    async def inspect(self, name: str) -> VolumeView:
        return self._view(self._get(name))

    def _get(self, name: str) -> VolumeRecord:
        record = self._volumes.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def _view(self, record: VolumeRecord) -> VolumeView:
        return VolumeView(
            name=record.name,
            driver=DRIVER,
            mountpoint=f"{self._root}/{record.name}/{copyup.DATA}",
            created=record.created,
            labels=record.labels,
            options=record.options,
            anonymous=record.anonymous,
        )

    async def list(self, filters: Filters | None = None) -> builtins.list[VolumeView]:
        """By name. Filters: dangling, driver, label, name (a part of it)."""
        found = filters or {}
        _check_filters(found, _LIST_FILTERS)
        return [
            self._view(self._volumes[name]) for name in sorted(self._volumes) if self._listed(name, found)
        ]

    def _listed(self, name: str, filters: Filters) -> bool:
        if any(
            _boolean("dangling", value) == bool(self._in_use(name)) for value in filters.get("dangling", ())
        ):
            return False
        if "driver" in filters and DRIVER not in filters["driver"]:
            return False
        if "name" in filters and not any(part in name for part in filters["name"]):
            return False
        return all(_labelled(self._volumes[name], label) for label in filters.get("label", ()))

    # Changing

    async def create(self, spec: VolumeSpec) -> VolumeView:
        """Make a volume, or return the one of that name."""
        name = spec.name or os.urandom(32).hex()
        check_name(name)
        check_driver(spec.driver)
        async with self._lock(name):
            return self._view(await self._create(name, spec))

    async def _create(self, name: str, spec: VolumeSpec) -> VolumeRecord:
        present = self._volumes.get(name)
        if present is not None:
            return present
        labels = dict(spec.labels) if spec.name else {ANONYMOUS_LABEL: "", **spec.labels}
        device = device_of(name, spec.driver_options)
        record = VolumeRecord(
            name=name, created=_now(), labels=labels, options=dict(spec.driver_options), device=device
        )
        self._make_directory(name)
        await self._documents.put(name, record.to_json())
        self._volumes[name] = record
        failpoint("volume.recorded")
        self._publish("volume", "create", name, {"driver": DRIVER})
        return record

    def _make_directory(self, name: str) -> None:
        place = f"{self._root}/.new-{os.urandom(8).hex()}"
        for path, mode in ((place, 0o701), (f"{place}/{copyup.DATA}", 0o755)):
            os.mkdir(path, 0o700)
            os.chmod(path, mode)
        os.rename(place, f"{self._root}/{name}")
        failpoint("volume.directory.made")

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Conflict while containers mount it. With `force` a volume that is not there is no error."""
        async with self._lock(name):
            if name not in self._volumes and force:
                return
            self._get(name)
            users = self._in_use(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        doomed = f"{self._root}/.rm-{name}"
        await asyncio.to_thread(remove_tree, doomed)  # left by a removal that failed
        os.rename(f"{self._root}/{name}", doomed)
        failpoint("volume.directory.doomed")
        await self._forget(name)
        await asyncio.to_thread(remove_tree, doomed)
        failpoint("volume.directory.removed")
        self._publish("volume", "destroy", name, {"driver": DRIVER})

    async def _forget(self, name: str) -> None:
        await self._documents.delete(name)
        self._volumes.pop(name, None)
        failpoint("volume.forgotten")

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]:
        """Remove unused anonymous volumes, with the filter all=true named ones, too: (names, bytes on disk)."""
        found = filters or {}
        _check_filters(found, _PRUNE_FILTERS)
        everything = any(_boolean("all", value) for value in found.get("all", ()))
        removed, reclaimed = [], 0
        with self._pruning:
            for name in sorted(self._volumes):
                async with self._lock(name):
                    record = self._volumes.get(name)
                    if record is None or self._in_use(name) or not (everything or record.anonymous):
                        continue
                    if not all(_labelled(record, label) for label in found.get("label", ())):
                        continue
                    if any(_labelled(record, label) for label in found.get("label!", ())):
                        continue
                    reclaimed += await asyncio.to_thread(self._usage, name)
                    await self._remove(name)
                    removed.append(name)
            self._publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    def _usage(self, name: str) -> int:
        with Root.open_host(f"{self._root}/{name}/{copyup.DATA}", no_xdev=True) as root:
            return root.content_size()

    async def usage(self, name: str) -> int:
        """Bytes of the files in a volume."""
        self._get(name)
        try:
            return await asyncio.to_thread(self._usage, name)
        except FileNotFoundError:
            raise NotFound(f"get {name}: no such volume") from None  # removed meanwhile

    # For containers

    async def materialise(self, mount: Mount, open_view: Callable[[], int]) -> Materialised:
        """The volume of a mount, made when it is missing, and filled from the image when it is empty.

        `open_view` returns a descriptor of the container's root (it is closed here); it is called only when there is
        something to fill. The caller must record the use before it awaits anything: until then only the name's lock
        keeps a removal away.
        """
        if mount.type != "volume":
            raise Unsupported(f"cannot mount {mount.target}: mounts of type {mount.type} are not volumes")
        name = mount.source or os.urandom(32).hex()
        check_name(name)
        check_driver(mount.driver)
        spec = VolumeSpec(name=mount.source, driver_options=mount.driver_options, labels=mount.labels)
        async with self._lock(name):
            record = await self._create(name, spec)
            directory = f"{self._root}/{name}"
            if record.device:
                if not await asyncio.to_thread(os.path.isdir, record.device):
                    raise InvalidInput(
                        f"failed to mount local volume: mount {record.device}:{directory}/{copyup.DATA}: "
                        "no such file or directory"
                    )
                return Materialised(volume=self._view(record), source=record.device)
            if not mount.nocopy and not mount.subpath and copyup.is_empty(directory):
                await self._fill(directory, mount.target, open_view)
            return Materialised(volume=self._view(record), source=f"{directory}/{copyup.DATA}")

    async def _fill(self, directory: str, target: str, open_view: Callable[[], int]) -> None:
        with Root(open_view()) as view:
            if copyup.wanted(view, target):
                await asyncio.to_thread(copyup.fill, directory, view, target)


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _check_filters(filters: Filters, known: set[str]) -> None:
    unknown = next((name for name in filters if name not in known), None)
    if unknown is not None:
        raise InvalidInput(
            f"invalid filter '{unknown}'", hint=f"volumes are filtered by {', '.join(sorted(known))}"
        )


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in {"true", "false", "1", "0"}:
        raise InvalidInput(f"invalid filter '{name}={value}'", hint=f"{name} is true or false")
    return value.lower() in {"true", "1"}


def _labelled(record: VolumeRecord, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in record.labels and (not equals or record.labels[key] == value)
