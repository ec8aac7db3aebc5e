"""The images, tags and layers that are here: records in memory, kept in the documents. Names in, records out.

Keys of the documents: `image:<id>`, `tag:<canonical reference>` (the image's id), `layer:<chain id>`. Layers are recorded
before the image that needs them and removed after it, so that a crash in between leaves only garbage.
"""

from __future__ import annotations

from collections.abc import Iterable

from pystack.image.records import (
    ImageRecord,
    LayerRecord,
    image_from_json,
    layer_from_json,
    layer_to_json,
)
from pystack.image.references import Reference, may_be_id, normalise
from pystack.kernel.failpoints import failpoint
from pystack.model.documents import Documents
from pystack.model.errors import InvalidInput, NotFound


class Catalogue:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.images: dict[str, ImageRecord] = {}
        self.tags: dict[str, str] = {}
        self.layers: dict[str, LayerRecord] = {}

    def open(self) -> None:
        """Read everything. Tags of images that are not there are left out."""
        for key, text in self._documents.all().items():
            kind, _, name = key.partition(":")
            if kind == "image":
                self.images[name] = image_from_json(text)
            elif kind == "tag":
                self.tags[name] = text
            elif kind == "layer":
                self.layers[name] = layer_from_json(text)
        self.tags = {name: image for name, image in self.tags.items() if image in self.images}

    def image(self, image_id: str) -> ImageRecord:
        found = self.images.get(image_id)
        if found is None:
            raise NotFound(f"No such image: {image_id}")
        return found

    def layer_directory(self, chain_id: str) -> str:
        found = self.layers.get(chain_id)
        if found is None:
            raise NotFound(
                f"cannot find layer {chain_id}", hint="the image is damaged: load or pull it again"
            )
        return found.directory

    def resolve(self, ref: str) -> tuple[ImageRecord, Reference | None]:
        """(image, the tag by which it was found; None when by id). NotFound in Docker's words."""
        if ref.startswith("sha256:") and ref in self.images:
            return self.images[ref], None
        try:
            reference = normalise(ref)
        except InvalidInput:
            if not may_be_id(ref):
                raise
            reference = None
        if reference is not None and (found := self._by_reference(reference)) is not None:
            return found, reference
        if may_be_id(ref):
            prefix = ref if ref.startswith("sha256:") else f"sha256:{ref}"
            matches = [image for image in self.images if image.startswith(prefix)]
            if len(matches) == 1:
                return self.images[matches[0]], None
            if matches:
                raise InvalidInput(f"cannot tell which image {ref} is: {len(matches)} ids begin with it")
        raise NotFound(f"No such image: {reference.familiar if reference else ref}")

    def _by_reference(self, reference: Reference) -> ImageRecord | None:
        if not reference.digest:
            image_id = self.tags.get(str(reference))
            return self.images.get(image_id) if image_id else None
        wanted = f"{reference.familiar_name}@{reference.digest}"
        for image in self.images.values():
            if wanted in image.repo_digests:
                return image
        return None

    def tags_of(self, image_id: str) -> list[str]:
        """The canonical references of an image, sorted."""
        return sorted(name for name, image in self.tags.items() if image == image_id)

    def orphans(self) -> list[LayerRecord]:
        """Layers that no image has, topmost first."""
        used = {chain_id for image in self.images.values() for chain_id in image.layers}
        return [layer for chain_id, layer in reversed(self.layers.items()) if chain_id not in used]

    def blobs(self) -> set[str]:
        """Digests of the blobs that some image has."""
        return {digest for image in self.images.values() for digest in (image.id, *image.blobs)}

    def directories(self) -> set[str]:
        return {layer.directory for layer in self.layers.values()}

    async def add(self, image: ImageRecord, layers: Iterable[LayerRecord]) -> None:
        for layer in layers:
            await self._documents.put(f"layer:{layer.chain_id}", layer_to_json(layer))
            self.layers[layer.chain_id] = layer
        failpoint("image.layers.recorded")
        await self._documents.put(f"image:{image.id}", image.to_json())
        self.images[image.id] = image
        failpoint("image.image.recorded")

    async def tag(self, reference: Reference, image_id: str) -> str:
        """Point a tag at an image; returns the id that it pointed at before, "" for none."""
        name = str(reference)
        before = self.tags.get(name, "")
        if before != image_id:
            await self._documents.put(f"tag:{name}", image_id)
            self.tags[name] = image_id
            failpoint("image.tag.recorded")
        return before

    async def untag(self, name: str) -> None:
        await self._documents.delete(f"tag:{name}")
        self.tags.pop(name, None)
        failpoint("image.tag.removed")

    async def drop(self, image_id: str) -> list[LayerRecord]:
        """Forget an image and the layers that nobody else has; returns those, topmost first. Their files are left."""
        await self._documents.delete(f"image:{image_id}")
        del self.images[image_id]
        failpoint("image.image.removed")
        return await self.drop_orphans()

    async def drop_orphans(self) -> list[LayerRecord]:
        gone = self.orphans()
        for layer in gone:
            await self._documents.delete(f"layer:{layer.chain_id}")
            del self.layers[layer.chain_id]
            failpoint("image.layer.forgotten")
        return gone
