"""Faults, crashes and cancelled callers: the image store works on, and what was begun is finished or undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import images
import pytest
from imagestore import OTHER, SIMPLE, World, chunks, image_world, layer  # noqa: F401 - the fixture `world`

from pystack.image.service import ImageService
from pystack.kernel import failpoints

pytestmark = pytest.mark.kernel


def test_a_cancelled_load_ends_and_leaves_nothing(world: World) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield images.docker_archive([SIMPLE], ["a:1"])[:1500]
        await asyncio.sleep(3600)

    async def act(service: ImageService) -> None:
        async def consume() -> None:
            async for _ in service.load(stalled()):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert [
            line async for line in service.load(chunks(images.docker_archive([SIMPLE], ["b:1"]), 999))
        ] == ["Loaded image: b:1\n"]

    world.run(act)
    assert world.left()[1:] == (set(), [])


def test_opening_removes_what_a_crash_left(world: World) -> None:
    world.load(images.docker_archive([SIMPLE], ["a:1"]))
    (world.root / "layers/tmp-1234/x").mkdir(parents=True)
    (world.root / "layers/abcde/x").mkdir(parents=True)
    (world.root / "images/ingest/1/2").mkdir(parents=True)
    (world.root / "images/blobs/sha256/00").write_text("garbage")
    again = World(world.root, world.documents)

    async def act(service: ImageService) -> str:
        return (await service.inspect("a:1")).id

    assert again.run(act) == world.service.find("a:1").id
    assert again.left()[1:] == (set(), [])
    assert "00" not in again.left()[0]
    assert (again.layer_of("a:1") / "etc/motd").exists()


LOAD_POINTS = [
    "image.archive.received", "image.layer.unpacked", "image.layer.committed", "image.blob.committed",
    "image.store.synced", "image.archive.loaded", "image.layers.recorded", "image.image.recorded", "image.tag.recorded",
]  # fmt: skip


@pytest.mark.parametrize("point", LOAD_POINTS)
def test_a_fault_anywhere_in_a_load_leaves_a_store_that_works(world: World, point: str) -> None:
    archive = images.docker_archive([SIMPLE, OTHER], ["a:1"])
    world.run(lambda service: service.list())
    failpoints.configure(f"{point}=error")
    try:
        with pytest.raises(OSError, match=point):
            world.load(archive)
    finally:
        failpoints.configure("")
    kept = {digest[7:] for digest in world.service._catalogue.blobs()}
    assert world.left()[0] <= kept
    assert world.left()[1:] == (set(), [])
    again = World(world.root, world.documents)
    assert again.load(archive)[-1] == "Loaded image: a:1\n"
    assert (again.layer_of("a:1", 1) / "bin/run").exists()
    assert again.left()[1:] == (set(), [])


@pytest.mark.parametrize(
    "point", ["image.tag.removed", "image.image.removed", "image.layer.forgotten", "image.blob.removed", "image.layer.doomed", "image.layer.removed"]
)  # fmt: skip
def test_a_fault_in_a_removal_is_finished_by_the_next_start(world: World, point: str) -> None:
    world.load(images.docker_archive([SIMPLE, OTHER], ["a:1"]))
    image = world.service.find("a:1").id
    failpoints.configure(f"{point}=error")
    try:
        with pytest.raises(OSError, match=point):
            world.run(lambda service: service.remove("a:1"))
    finally:
        failpoints.configure("")
    again = World(world.root, world.documents)
    found = [view.id for view in again.run(lambda service: service.list())]
    assert (image in found) == (point == "image.tag.removed")
    assert len(again.left()[0]) == (3 if image in found else 0)
    assert again.left()[1:] == (set(), [])
