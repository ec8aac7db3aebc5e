"""An image service on a root of its own, for tests on the real kernel; the fixture `world`, and two small layers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import images
import pytest
from fake.documents import MemoryDocuments

from pystack.image.service import ImageService
from pystack.model.errors import InvalidInput, PystackError

T = TypeVar("T")


class World:
    """One image service on a root of its own."""

    def __init__(self, root: Path, documents: MemoryDocuments | None = None) -> None:
        self.root = root
        self.documents = documents or MemoryDocuments()
        self.events: list[tuple[str, str]] = []
        self.service = ImageService(
            str(root),
            self.documents,
            lambda _type, action, actor, _attributes: self.events.append((action, actor)),
        )

    def run(self, act: Callable[[ImageService], Awaitable[T]]) -> T:
        async def main() -> T:
            await self.service.open()
            try:
                return await act(self.service)
            finally:
                await self.service.close()

        return asyncio.run(main())

    def load(self, data: bytes, chunk: int = 50_000) -> list[str]:
        async def act(service: ImageService) -> list[str]:
            return [line async for line in service.load(chunks(data, chunk))]

        return self.run(act)

    def layer_of(self, ref: str, number: int = 0) -> Path:
        view = self.service.find(ref)
        record = self.service._catalogue.image(view.id)
        return self.root / "layers" / self.service._catalogue.layers[record.layers[number]].directory

    def left(self) -> tuple[set[str], set[str], list[str]]:
        """(blobs, layers, half-done things) on disk, without what is always there."""
        blobs = set(os.listdir(self.root / "images/blobs/sha256"))
        layers = (
            set(os.listdir(self.root / "layers"))
            - {"init-1", "empty"}
            - self.service._catalogue.directories()
        )
        return blobs, layers, os.listdir(self.root / "images/ingest")


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.fixture(name="world")
def image_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # The host's image is tested in test_image_hostbase.py; here its scan and its many links would only cost time.
    monkeypatch.setattr("pystack.image.hostbase.masks", lambda _top: iter(()))
    monkeypatch.setattr("pystack.image.hostskeleton._names", lambda _path: [])
    return World(tmp_path / "root")


def layer(*members: Any) -> bytes:
    return images.tar(members)


SIMPLE = layer(images.directory("etc"), images.member("etc/motd", b"hello\n"))
OTHER = layer(images.directory("bin"), images.member("bin/run", b"#!\n", mode=0o4755, uid=7, gid=8))


def refuses(world: World, data: bytes, words: str) -> None:
    """The archive is refused with our own error, and leaves nothing."""
    with pytest.raises(PystackError, match=words) as caught:
        world.load(data)
    assert isinstance(caught.value, InvalidInput)
    kept = {digest[7:] for digest in world.service._catalogue.blobs()}
    blobs, layers, half = world.left()
    assert (blobs - kept, layers, half) == (set(), set(), [])
