"""The images of one engine: `engine.interface.Images`, and roots for containers.

In: archives, references and the documents table. Out: views, snapshots, and one event for each change. Changes take one
lock; reading never waits. A registry client will fill images in through `ensure` (see `_missing`).
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from pystack.image import feed as feeds
from pystack.image import hostbase, removal
from pystack.image.catalogue import Catalogue
from pystack.image.listing import history_of, keep, view_of
from pystack.image.load import Loaded, load_archive
from pystack.image.records import ImageRecord, ImageUser
from pystack.image.references import Reference, normalise, parse
from pystack.image.snapshots import RootSnapshot, Snapshots
from pystack.image.store import Store
from pystack.model.documents import Documents
from pystack.model.errors import EngineError, Forbidden, InvalidInput, NotFound
from pystack.model.names import short_id
from pystack.model.observed import ImageView

#: Seconds for which the host's facts are taken as unchanged.
_FACTS_FRESH = 2.0

Filters = Mapping[str, Sequence[str]]


class Publish(Protocol):
    def __call__(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> object: ...


def _refuse_reserved(loaded: Sequence[Loaded]) -> None:
    for item in loaded:
        for reference in item.tags:
            if reference.domain == "host.local":
                raise Forbidden(f"cannot load {reference.familiar}: host.local names this host's own images")


def _nobody(_: str) -> Sequence[ImageUser]:
    return ()


class ImageService:
    """Images by reference, id or unique id prefix. `in_use` tells the containers that were made from an image."""

    def __init__(
        self,
        root: str,
        documents: Documents,
        publish: Publish,
        in_use: Callable[[str], Sequence[ImageUser]] = _nobody,
    ) -> None:
        self._store = Store(root)
        self._catalogue = Catalogue(documents)
        self._publish = publish
        self._lock = asyncio.Lock()
        self._host: asyncio.Task[None] | None = None
        self._host_checked = 0.0
        self.in_use = in_use
        self.snapshots = Snapshots(root, self._store, self._catalogue.image, self._catalogue.layer_directory)

    async def open(self) -> None:
        """Read the records, remove what a crash left, and begin to make host.local/base if it is not up to date."""
        self._catalogue.open()
        self._store.open()
        self.snapshots.open()
        await self._catalogue.drop_orphans()
        await asyncio.to_thread(self._store.collect, self._catalogue.blobs(), self._catalogue.directories())
        self._host = asyncio.create_task(self._make_host_base())

    async def close(self) -> None:
        """Let a host base that is being made be finished."""
        if self._host is not None:
            await asyncio.wait({self._host})
            self._host.exception()  # whoever asks for the image is told; nobody has, if it comes to this

    # Reading

    async def inspect(self, ref: str) -> ImageView:
        return self._view((await self._resolve(ref))[0])

    async def list(self, *, all: bool = False, filters: Filters | None = None) -> builtins.list[ImageView]:  # noqa: ARG002 - there are no intermediate images
        """Newest first. Filters: reference, dangling, label, label!, before, since, until."""
        await self._host_ready()
        views = [self._view(image) for image in self._catalogue.images.values()]
        views.sort(key=lambda view: view.created, reverse=True)
        return keep(views, filters or {}, lambda ref: self._view(self._catalogue.resolve(ref)[0]))

    async def history(self, ref: str) -> builtins.list[dict[str, object]]:
        """Docker's history, newest first."""
        image, _ = await self._resolve(ref)
        sizes = [self._catalogue.layers[chain_id].size for chain_id in image.layers]
        return history_of(image, self._view(image), sizes)

    async def ensure(self, ref: str) -> ImageView:
        """The image, made ready if it can be without a registry."""
        try:
            return await self.inspect(ref)
        except NotFound as error:
            raise self._missing(ref) from error

    def _missing(self, ref: str) -> NotFound:
        """What a registry client will replace: the one place where an image that is not here is asked for."""
        reference = normalise(ref)
        if reference.domain == "host.local":
            return NotFound(
                f"No such image: {reference.familiar}", hint="host.local has one image: host.local/base"
            )
        return NotFound(
            f"No such image: {reference.familiar}",
            hint="pystack cannot pull from registries yet: docker load an archive of it, or use host.local/base",
        )

    async def _resolve(self, ref: str) -> tuple[ImageRecord, Reference | None]:
        if not ref:
            raise InvalidInput("cannot find an image without a name")
        if ref.startswith("host.local/"):
            await self._host_ready()
        return self._catalogue.resolve(ref)

    def _view(self, image: ImageRecord) -> ImageView:
        return view_of(image, self._catalogue.tags_of(image.id))

    def exportable(self, ref: str) -> ImageRecord:
        """The image, if it may leave this host (save, push). Forbidden with the reason for a synthetic one."""
        image, _ = self._catalogue.resolve(ref)
        if image.synthetic:
            raise Forbidden(f"cannot save or push {ref}: {image.synthetic}")
        return image

    # Changing

    async def load(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
        feed = feeds.Feed(chunks)
        async with self._lock:
            known = dict(self._catalogue.layers)
            try:
                loaded = await feeds.run(lambda: load_archive(self._store, feed, known, feed.check), feed)
                _refuse_reserved(loaded)
                lines = [line for item in loaded for line in await self._record(item)]
            except BaseException:
                await self._collect()
                raise
        for line in lines:
            yield line

    async def _record(self, item: Loaded) -> builtins.list[str]:
        image = item.image
        if image.id not in self._catalogue.images:
            await self._catalogue.add(image, item.layers)
        self._event("load", image.id, image.id)
        lines = []
        for reference in item.tags:
            before = await self._tag(reference, image.id)
            if before:
                lines.append(
                    f"The image {reference.familiar} already exists, renaming the old one with ID {before} to empty string\n"
                )
            lines.append(f"Loaded image: {reference.familiar}\n")
        return lines or [f"Loaded image ID: {image.id}\n"]

    async def _tag(self, reference: Reference, image_id: str) -> str:
        """Tag with its events; returns the id of another image that had the tag."""
        before = await self._catalogue.tag(reference, image_id)
        if before == image_id:
            return ""
        if before:
            self._event("untag", before, before)
        self._event("tag", image_id, reference.familiar)
        return before

    async def tag(self, ref: str, target: str) -> None:
        reference = parse(target)
        if reference.digest:
            raise InvalidInput(
                f"cannot tag {ref} as {target}: refusing to create a tag with a digest reference"
            )
        if reference.domain == "host.local":
            raise Forbidden(f"cannot tag {ref} as {target}: host.local names this host's own images")
        await self._resolve(ref)  # before the lock: making the host base takes it, too
        async with self._lock:
            image, _ = self._catalogue.resolve(ref)
            await self._tag(normalise(target), image.id)

    async def remove(
        self, ref: str, *, force: bool = False, prune_parents: bool = True
    ) -> builtins.list[dict[str, str]]:
        """Untag, and delete what then has no tag. Conflict, in Docker's words, when containers use it."""
        await self._resolve(ref)
        async with self._lock:
            image, reference = self._catalogue.resolve(ref)
            named = reference is None or str(reference) == str(normalise(hostbase.REFERENCE))
            if image.synthetic and named and image.key == self._host_key():
                raise Forbidden(f"cannot remove {ref}: the engine makes it from this host, it takes no space")
            users = self.in_use(image.id)
            tags = self._catalogue.tags_of(image.id)
            plan = removal.plan(ref, image, reference, tags, users, force=force)
            return await self._carry_out(image.id, plan, prune=prune_parents)

    async def _carry_out(
        self, image_id: str, plan: removal.Removal, *, prune: bool
    ) -> builtins.list[dict[str, str]]:
        done: builtins.list[dict[str, str]] = []
        for name in plan.untag:
            await self._catalogue.untag(name)
            self._event("untag", image_id, image_id)
            done.append({"Untagged": parse(name).familiar})
        if plan.delete:
            layers = await self._catalogue.drop(image_id)
            self.snapshots.forget(image_id)
            self._event("delete", image_id, image_id)
            done.append({"Deleted": image_id})
            if prune:
                done.extend({"Deleted": layer.chain_id} for layer in layers)
            await self._collect()
        return done

    async def _collect(self) -> None:
        await asyncio.to_thread(self._store.collect, self._catalogue.blobs(), self._catalogue.directories())

    def _event(self, action: str, image_id: str, name: str) -> None:
        view = self._view(self._catalogue.images[image_id]) if image_id in self._catalogue.images else None
        labels = view.config.labels if view else {}
        self._publish("image", action, image_id, {**labels, "name": name})

    # host.local/base

    def _host_key(self) -> str:
        image_id = self._catalogue.tags.get(str(normalise(hostbase.REFERENCE)), "")
        image = self._catalogue.images.get(image_id)
        return image.key if image else ""

    async def _host_ready(self) -> None:
        """Wait until host.local/base is what the host is now."""
        if self._host is not None and not self._host.done():
            await asyncio.shield(self._host)
        elif time.monotonic() - self._host_checked > _FACTS_FRESH:
            self._host = asyncio.create_task(self._make_host_base())
            await asyncio.shield(self._host)

    async def _make_host_base(self) -> None:
        facts = hostbase.read_facts()
        if facts.key != self._host_key():
            try:
                covered = await asyncio.to_thread(hostbase.survey, facts)
                async with self._lock:
                    await self._renew_host_base(facts, covered)
            except OSError as error:
                raise EngineError(f"cannot make host.local/base: {error}") from error
        self._host_checked = time.monotonic()

    async def _renew_host_base(
        self, facts: hostbase.HostFacts, covered: builtins.list[tuple[str, bool]]
    ) -> None:
        reference = normalise(hostbase.REFERENCE)
        before = self._catalogue.images.get(self._catalogue.tags.get(str(reference), ""))
        now = datetime.now(tz=UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        image, layers = await asyncio.to_thread(hostbase.make, self._store, facts, covered, now, before)
        await self._catalogue.add(image, layers)
        await self._catalogue.tag(reference, image.id)
        if before and before.id != image.id and not self.in_use(before.id):
            await self._carry_out(before.id, removal.Removal(untag=(), delete=True), prune=True)

    # Roots of containers

    def prepare(self, container_id: str, image_id: str, directory: str = "") -> RootSnapshot:
        """See `Snapshots.prepare`."""
        return self.snapshots.prepare(container_id, image_id, directory)

    def find(self, ref: str) -> ImageView:
        """As `inspect`, without waiting; for what is known to be here (a container's image)."""
        return self._view(self._catalogue.resolve(ref)[0])

    def familiar(self, ref: str) -> str:
        """The reference as Docker shows it; an id is cut to 12 digits."""
        _, reference = self._catalogue.resolve(ref)
        return reference.familiar if reference else short_id(ref)
