"""The images of one engine: `engine.interface.Images`, and roots for containers.

In: archives, references and the documents table. Out: views, snapshots, and one event for each change. Changes take one
lock; reading never waits. A registry client will fill images in through `ensure` (see `_missing`).
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

from pystack.image import feed as feeds
from pystack.image import hostbase, newimage, removal
from pystack.image import save as saving
from pystack.image.catalogue import Catalogue
from pystack.image.gate import Gate
from pystack.image.listing import history_of, keep, view_of
from pystack.image.load import Loaded, load_archive
from pystack.image.newlayer import Workshop
from pystack.image.records import ImageRecord, ImageUser, LayerRecord
from pystack.image.references import Reference, normalise, parse
from pystack.image.snapshots import RootSnapshot, Snapshots
from pystack.image.store import Store
from pystack.model.documents import Documents
from pystack.model.errors import EngineError, Forbidden, InvalidInput, NotFound
from pystack.model.names import short_id
from pystack.model.observed import ImageView
from pystack.model.turns import OneAtATime

#: Seconds for which the host's facts are taken as unchanged.
_FACTS_FRESH = 2.0

Filters = Mapping[str, Sequence[str]]


class Publish(Protocol):
    def __call__(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], /) -> object: ...


def _refuse_reserved(loaded: Sequence[Loaded]) -> None:
    for item in loaded:
        _refuse_names(item.tags, "load")


def _refuse_names(references: Sequence[Reference], what: str) -> None:
    for reference in references:
        if reference.domain == "host.local":
            raise Forbidden(f"cannot {what} {reference.familiar}: host.local names this host's own images")


def _check_platform(image: ImageRecord, name: str, target: tuple[str, str] | None) -> None:
    """NotFound when an image is not for the (architecture, variant) that was asked for."""
    if target is None:
        return
    view = view_of(image, ())
    if (view.architecture, view.variant or target[1]) != target:
        raise NotFound(
            f"image with reference {name} was found but does not provide the specified platform "
            f"(linux/{'/'.join(filter(None, target))})"
        )


def _wants_tagged(filters: Filters) -> bool:
    """Docker's `dangling`: true unless given as false. InvalidInput for anything else, or two ages."""
    values = {value.lower() for value in filters.get("dangling", ())}
    if not values <= {"true", "1", "false", "0"}:
        raise InvalidInput(f"invalid filter 'dangling=[{' '.join(filters['dangling'])}]'")
    if len(filters.get("until", ())) > 1:
        raise InvalidInput("more than one until filter specified")
    return bool(values & {"false", "0"})


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
        self._gate = Gate(self._collect_files)
        self._pruning = OneAtATime()
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

    def exportable(self, ref: str, name: str = "") -> ImageRecord:
        """The image, if it may leave this host (save, push). Forbidden with the reason for a synthetic one."""
        image, _ = self._catalogue.resolve(ref)
        if image.synthetic:
            raise Forbidden(f"cannot save or push {name or ref}: {image.synthetic}")
        return image

    # Changing

    async def load(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
        feed = feeds.Feed(chunks)
        async with self._gate.making():
            known = dict(self._catalogue.layers)
            loaded = await feeds.run(lambda: load_archive(self._store, feed, known, feed.check), feed)
            _refuse_reserved(loaded)
            layers = known | {layer.chain_id: layer for item in loaded for layer in item.layers}
            async with self._lock:
                lines = [line for item in loaded for line in await self._record(item, layers)]
        for line in lines:
            yield line

    async def _record(self, item: Loaded, layers: Mapping[str, LayerRecord]) -> builtins.list[str]:
        image = item.image
        await self._add(image, layers)
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

    async def _add(self, image: ImageRecord, layers: Mapping[str, LayerRecord]) -> None:
        """Record an image with those of its layers that have no record: they are new, or somebody has removed the last
        image that had them since. `_lock` is held.
        """
        if image.id not in self._catalogue.images:
            missing = [chain_id for chain_id in image.layers if chain_id not in self._catalogue.layers]
            try:
                await self._catalogue.add(image, [layers[chain_id] for chain_id in missing])
            except BaseException:
                await self._catalogue.drop_orphans()
                raise

    async def commit(
        self, image_id: str, upper: str, about: newimage.About, reference: Reference | None = None
    ) -> str:
        """An image of what a container has written (`upper`, a host path) over its image; returns its id."""
        parent = self._catalogue.image(image_id)
        feed = feeds.Feed()
        made = await self._make(lambda shop: newimage.commit(shop, parent, upper, about), feed, reference)
        return made.id

    async def import_root(
        self,
        chunks: AsyncIterator[bytes],
        about: newimage.About,
        reference: Reference | None = None,
        target: tuple[str, str] | None = None,
    ) -> str:
        """An image of a root file system's tar; returns its id. `target` is (architecture, variant), this host's if None."""
        feed = feeds.Feed(chunks)
        chosen = target or newimage.native_platform()
        made = await self._make(lambda shop: newimage.import_root(shop, feed, about, chosen), feed, reference)
        self._event("import", made.id, made.id)
        return made.id

    async def _make(
        self,
        work: Callable[[Workshop], newimage.Made],
        feed: feeds.Feed,
        reference: Reference | None,
    ) -> ImageRecord:
        if reference is not None:
            _refuse_names([reference], "make")
        async with self._gate.making():
            known = dict(self._catalogue.layers)
            shop = Workshop(store=self._store, known=known, check=feed.check)
            made = await feeds.run(lambda: work(shop), feed)
            async with self._lock:
                await self._add(made.image, known | {layer.chain_id: layer for layer in made.layers})
                if reference is not None:
                    await self._tag(reference, made.image.id)
        return made.image

    @asynccontextmanager
    async def save(
        self, names: Sequence[str], target: tuple[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The images in one archive, for `load`. A repository without a tag means all its tags, an id no name at all."""
        if not names:
            raise InvalidInput("cannot save: no image is named")
        async with self._gate.making():
            saved: dict[str, saving.Saved] = {}
            for name in names:
                image, tags = await self._named(name)
                self.exportable(image.id, name)
                _check_platform(image, name, target)
                before = saved[image.id].tags if image.id in saved else ()
                merged = tuple(dict.fromkeys((*before, *tags)))
                saved[image.id] = saving.Saved(image=image, tags=merged)

            def work(outlet: feeds.Outlet) -> None:
                saving.save(self._store, list(saved.values()), outlet.write, outlet.check)

            for image_id in saved:
                self._event("save", image_id, image_id)
            async with aclosing(feeds.drain(work)) as chunks:
                yield chunks

    async def _named(self, name: str) -> tuple[ImageRecord, builtins.list[Reference]]:
        image, reference = await self._resolve(name)
        if reference is None or reference.digest:
            return image, []
        if parse(name).tag:
            return image, [reference]
        return image, [
            tag for tag in map(parse, self._catalogue.tags_of(image.id)) if tag.name == reference.name
        ]

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[dict[str, str]], int]:
        """Remove images that no container uses and that have no tag; with dangling=false tagged ones, too.

        Filters: dangling, until (one), label, label!. Returns what rmi would, and the bytes of the layers that went.
        """
        filters = filters or {}
        with self._pruning:
            wanted = dict(filters) | {"dangling": ()}
            tagged = _wants_tagged(filters)
            done: builtins.list[dict[str, str]] = []
            sizes = {chain_id: layer.size for chain_id, layer in self._catalogue.layers.items()}
            for view in await self.list(filters={key: values for key, values in wanted.items() if values}):
                if view.repo_tags and not tagged:
                    continue
                async with self._lock:
                    image = self._catalogue.images.get(view.id)
                    if image is None or self.in_use(image.id) or self._is_host_base(image):
                        continue
                    tags = self._catalogue.tags_of(image.id)
                    if tags and not tagged:
                        continue  # it was tagged meanwhile
                    plan = removal.Removal(untag=tuple(tags), delete=True)
                    done += await self._carry_out(image.id, plan, prune=True)
            reclaimed = sum(sizes.get(item.get("Deleted", ""), 0) for item in done)
            self._publish("image", "prune", "", {"reclaimed": str(reclaimed)})
            return done, reclaimed

    def usage(self) -> tuple[int, dict[str, int]]:
        """Bytes of all layers, and of each image's layers that other images have, too (by image id)."""
        users = Counter(chain_id for image in self._catalogue.images.values() for chain_id in image.layers)
        layers = self._catalogue.layers
        shared = {
            image.id: sum(layers[chain_id].size for chain_id in image.layers if users[chain_id] > 1)
            for image in self._catalogue.images.values()
        }
        return sum(layer.size for layer in layers.values()), shared

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
            if named and self._is_host_base(image):
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
            await self._gate.collect()
        return done

    async def _collect_files(self) -> None:
        await asyncio.to_thread(self._store.collect, self._catalogue.blobs(), self._catalogue.directories())

    def _event(self, action: str, image_id: str, name: str) -> None:
        view = self._view(self._catalogue.images[image_id]) if image_id in self._catalogue.images else None
        labels = view.config.labels if view else {}
        self._publish("image", action, image_id, {**labels, "name": name})

    # host.local/base

    def _is_host_base(self, image: ImageRecord) -> bool:
        """Whether this is what host.local/base is now (and not something that was committed from it)."""
        return bool(image.synthetic and image.key) and image.key == self._host_key()

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
                async with self._gate.making(), self._lock:
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
