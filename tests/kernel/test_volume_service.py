"""Volumes on the real file system: names, removal, copy-up, binds, and what a crash leaves."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from fake.documents import MemoryDocuments

from pystack.kernel import failpoints
from pystack.model.container import Mount, VolumeSpec
from pystack.model.errors import Conflict, InvalidInput, NotFound, Unsupported
from pystack.volume import binds
from pystack.volume.service import Materialised, VolumeService

pytestmark = pytest.mark.kernel

T = TypeVar("T")


class World:
    def __init__(self, root: Path, documents: MemoryDocuments | None = None) -> None:
        self.root = root
        self.documents = documents or MemoryDocuments()
        self.events: list[tuple[str, str]] = []
        self.users: dict[str, list[str]] = {}
        self.service = VolumeService(
            str(root),
            self.documents,
            lambda _type, action, actor, _attributes: self.events.append((action, actor)),
            lambda name: self.users.get(name, []),
        )

    def run(self, act: Callable[[VolumeService], Awaitable[T]]) -> T:
        async def main() -> T:
            await self.service.open()
            return await act(self.service)

        return asyncio.run(main())

    def names(self) -> list[str]:
        return sorted(os.listdir(self.root / "volumes"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A container's root as an opener would give it: a directory."""
    top = tmp_path / "image"
    data = top / "srv/data"
    data.mkdir(parents=True)
    data.chmod(0o2770)
    os.chown(data, 70, 71)
    os.setxattr(data, "user.mine", b"1")
    (data / "file").write_text("content")
    (data / "file").chmod(0o640)
    os.chown(data / "file", 70, 71)
    os.link(data / "file", data / "same")
    (data / "below").mkdir()
    (data / "link").symlink_to("file")
    return top


def opener(top: Path) -> Callable[[], int]:
    return lambda: os.open(top, os.O_PATH | os.O_DIRECTORY)


def test_create_is_idempotent_and_names_are_checked(world: World) -> None:
    async def act(service: VolumeService) -> None:
        made = await service.create(VolumeSpec(name="data", labels={"a": "1"}))
        assert made.mountpoint == str(world.root / "volumes/data/_data")
        assert await service.create(VolumeSpec(name="data")) == made
        assert await service.inspect("data") == made
        anonymous = await service.create(VolumeSpec(name=""))
        assert len(anonymous.name) == 64
        assert anonymous.anonymous
        assert anonymous.labels == {"com.docker.volume.anonymous": ""}
        for name in ("../x", "a", ".new-x", "a/b", "", "x" * 256):
            if name:
                with pytest.raises(InvalidInput, match="invalid characters for a local volume name"):
                    await service.create(VolumeSpec(name=name))
        with pytest.raises(NotFound, match='plugin "nfs" not found'):
            await service.create(VolumeSpec(name="other", driver="nfs"))
        with pytest.raises(Unsupported, match="of type tmpfs"):
            await service.create(
                VolumeSpec(name="other", driver_options={"type": "tmpfs", "device": "tmpfs"})
            )
        assert [view.name for view in await service.list({"label": ["a=1"]})] == ["data"]
        assert [view.name for view in await service.list({"name": ["dat"], "dangling": ["true"]})] == ["data"]
        world.users["data"] = ["c1"]
        assert await service.list({"name": ["dat"], "dangling": ["true"]}) == []
        with pytest.raises(InvalidInput, match="invalid filter 'colour'"):
            await service.list({"colour": ["red"]})

    world.run(act)
    assert stat.S_IMODE((world.root / "volumes/data/_data").stat().st_mode) == 0o755
    assert ("create", "data") in world.events


def test_removal_follows_docker(world: World) -> None:
    async def act(service: VolumeService) -> None:
        await service.create(VolumeSpec(name="data"))
        (world.root / "volumes/data/_data/file").write_text("x")
        world.users["data"] = ["c" * 64]
        with pytest.raises(Conflict, match=rf"remove data: volume is in use - \[{'c' * 64}\]"):
            await service.remove("data", force=True)
        world.users.clear()
        await service.remove("data")
        with pytest.raises(NotFound, match="get data: no such volume"):
            await service.remove("data")
        await service.remove("data", force=True)

    world.run(act)
    assert world.names() == []
    assert world.documents.content == {}
    assert world.events[-1] == ("destroy", "data")


def test_prune_takes_unused_anonymous_volumes_unless_all(world: World) -> None:
    async def act(service: VolumeService) -> None:
        await service.create(VolumeSpec(name="named"))
        used = (await service.create(VolumeSpec(name=""))).name
        unused = (await service.create(VolumeSpec(name=""))).name
        (world.root / f"volumes/{unused}/_data/file").write_bytes(bytes(10_000))
        world.users[used] = ["c1"]
        removed, size = await service.prune()
        assert removed == [unused]
        assert 10_000 <= size < 40_000
        assert (await service.prune({"all": ["true"], "label": ["x"]}))[0] == []
        assert (await service.prune({"all": ["true"]}))[0] == ["named"]
        assert [view.name for view in await service.list()] == [used]

    world.run(act)


def materialised(world: World, mount: Mount, open_view: Callable[[], int]) -> Materialised:
    return world.run(lambda service: service.materialise(mount, open_view))


def test_copy_up_keeps_owner_mode_links_and_attributes(world: World, image: Path) -> None:
    made = materialised(world, Mount(type="volume", source="data", target="/srv/data"), opener(image))
    place = Path(made.source)
    assert place == world.root / "volumes/data/_data"
    info = place.stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (70, 71, 0o2770)
    assert os.getxattr(place, "user.mine") == b"1"
    assert sorted(os.listdir(place)) == ["below", "file", "link", "same"]
    assert (place / "file").read_text() == "content"
    assert (place / "file").stat().st_ino == (place / "same").stat().st_ino
    assert (place / "file").stat().st_uid == 70
    assert sorted(os.listdir(world.root / "volumes/data")) == ["_data"]
    (place / "file").unlink()

    def never() -> int:
        raise AssertionError("the image is opened for a volume that has content")

    materialised(world, Mount(type="volume", source="data", target="/srv/data"), never)
    assert not (place / "file").exists()


def test_no_copy_up_where_there_is_none_to_be_had(world: World, image: Path) -> None:
    nocopy = materialised(world, Mount(type="volume", target="/srv/data", nocopy=True), opener(image))
    assert os.listdir(nocopy.source) == []
    assert nocopy.volume.anonymous
    missing = materialised(world, Mount(type="volume", source="other", target="/not/there"), opener(image))
    assert os.listdir(missing.source) == []
    file = materialised(world, Mount(type="volume", source="file", target="/srv/data/file"), opener(image))
    assert os.listdir(file.source) == []


def test_copy_up_never_leaves_the_root(world: World, image: Path, tmp_path: Path) -> None:
    secret = tmp_path / "canary"
    secret.mkdir()
    (secret / "token").write_text("secret")
    (image / "evil").symlink_to(secret)
    (image / "up").symlink_to("../../../../../../../.." + str(secret))
    for number, target in enumerate(("/evil", "/up", f"/../../../../../..{secret}", str(secret))):
        made = materialised(world, Mount(type="volume", source=f"v{number}", target=target), opener(image))
        assert os.listdir(made.source) == []
    (image / "inside").symlink_to("/srv/data")
    made = materialised(world, Mount(type="volume", source="inside", target="/inside"), opener(image))
    assert "file" in os.listdir(made.source)


def test_a_volume_that_is_a_bind(world: World, image: Path, tmp_path: Path) -> None:
    options = {"type": "none", "o": "bind", "device": str(tmp_path / "there")}
    mount = Mount(type="volume", source="there", target="/srv/data", driver_options=options)
    with pytest.raises(InvalidInput, match="no such file or directory"):
        materialised(world, mount, opener(image))
    (tmp_path / "there").mkdir()
    made = materialised(world, mount, opener(image))
    assert made.source == str(tmp_path / "there")
    assert os.listdir(made.source) == []
    world.run(lambda service: service.remove("there"))
    assert (tmp_path / "there").is_dir()


@pytest.mark.parametrize(
    "point",
    ["volume.directory.made", "rootpath.tree.copied", "volume.copyup.copied", "volume.copyup.ready", "volume.copyup.moved", "volume.copyup.done"],
)  # fmt: skip
def test_a_fault_anywhere_in_copy_up_leaves_all_or_nothing(world: World, image: Path, point: str) -> None:
    mount = Mount(type="volume", source="data", target="/srv/data")
    failpoints.configure(f"{point}=error")
    try:
        with pytest.raises(OSError, match=point):
            materialised(world, mount, opener(image))
    finally:
        failpoints.configure("")
    again = World(world.root, world.documents)
    made = materialised(again, mount, opener(image))
    assert sorted(os.listdir(made.source)) == ["below", "file", "link", "same"]
    assert Path(made.source).stat().st_uid == 70
    assert again.names() == ["data"]
    assert os.listdir(world.root / "volumes/data") == ["_data"]


@pytest.mark.parametrize("point", ["volume.directory.doomed", "volume.forgotten", "volume.directory.removed"])
def test_a_fault_in_removal_is_finished_by_the_next_start(world: World, point: str) -> None:
    async def act(service: VolumeService) -> None:
        await service.create(VolumeSpec(name="data"))
        (world.root / "volumes/data/_data/file").write_text("x")
        failpoints.configure(f"{point}=error")
        try:
            with pytest.raises(OSError, match=point):
                await service.remove("data")
        finally:
            failpoints.configure("")

    world.run(act)
    again = World(world.root, world.documents)
    assert again.run(lambda service: service.list()) == []
    assert again.names() == []


def test_a_directory_with_data_and_no_record_is_adopted(world: World) -> None:
    (world.root / "volumes/lost/_data").mkdir(parents=True)
    (world.root / "volumes/lost/_data/file").write_text("precious")
    (world.root / "volumes/empty/_data").mkdir(parents=True)
    (world.root / "volumes/.new-1/_data").mkdir(parents=True)
    assert [view.name for view in world.run(lambda service: service.list())] == ["lost"]
    assert world.names() == ["lost"]
    assert (world.root / "volumes/lost/_data/file").read_text() == "precious"


def test_concurrent_users_of_a_new_volume_share_one_copy(world: World, image: Path) -> None:
    async def act(service: VolumeService) -> None:
        mount = Mount(type="volume", source="data", target="/srv/data")
        made = await asyncio.gather(*(service.materialise(mount, opener(image)) for _ in range(8)))
        assert len({found.source for found in made}) == 1
        assert (Path(made[0].source) / "file").read_text() == "content"

    world.run(act)
    assert [event for event in world.events if event == ("create", "data")] == [("create", "data")]


def test_bind_sources(tmp_path: Path) -> None:
    missing = tmp_path / "a/b"
    with pytest.raises(InvalidInput, match=f"bind source path does not exist: {missing}"):
        binds.prepare(Mount(type="bind", source=str(missing), target="/x"))
    before = os.umask(0o077)
    try:
        assert binds.prepare(
            Mount(type="bind", source=f"{missing}/", target="/x", create_host_path=True)
        ) == str(missing)
    finally:
        os.umask(before)
    assert stat.S_IMODE(missing.parent.stat().st_mode) == 0o755
    with pytest.raises(InvalidInput, match="must be absolute"):
        binds.prepare(Mount(type="bind", source="relative", target="/x"))
