"""The image service: what is loaded, in every form; roots of containers; tags, removal, lists."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import images
import pytest
import zstandard
from imagestore import OTHER, SIMPLE, World, image_world, layer, refuses  # noqa: F401 - the fixture `world`

from pystack.image.records import ImageUser
from pystack.image.service import ImageService
from pystack.kernel.rootpath import Root
from pystack.model.errors import Conflict, Forbidden, InvalidInput, NotFound

pytestmark = pytest.mark.kernel


def test_loading_a_docker_archive_prints_what_docker_prints(world: World) -> None:
    lines = world.load(images.docker_archive([SIMPLE, OTHER], ["demo:1", "other/demo:2"], {"Cmd": ["run"]}))
    assert lines == ["Loaded image: demo:1\n", "Loaded image: other/demo:2\n"]
    view = world.service.find("demo:1")
    assert view.repo_tags == ("demo:1", "other/demo:2")
    assert view.config.command == ("run",)
    assert view.size == 9
    assert view.layers == (images.digest(SIMPLE), images.digest(OTHER))
    assert ("tag", view.id) in world.events
    assert (world.layer_of("demo:1") / "etc/motd").read_bytes() == b"hello\n"
    run = (world.layer_of("demo:1", 1) / "bin/run").stat()
    assert (stat.S_IMODE(run.st_mode), run.st_uid, run.st_gid, run.st_mtime) == (0o4755, 7, 8, images.EPOCH)


def test_an_archive_without_a_name_prints_the_id(world: World) -> None:
    lines = world.load(images.docker_archive([SIMPLE]))
    image_id = images.digest(images.image_config([SIMPLE]))
    assert lines == [f"Loaded image ID: {image_id}\n"]
    assert world.service.find(image_id[7:19]).id == image_id


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("inner", ["none", "gzip", "zstd"])
def test_every_compression_of_archive_and_layers(world: World, kind: str, inner: str) -> None:
    stored = [COMPRESSIONS[inner](SIMPLE)]
    archive = images.oci_archive(
        [SIMPLE], "docker.io/library/demo:3", stored=stored, compression="" if inner == "none" else inner
    )
    assert world.load(COMPRESSIONS[kind](archive)) == ["Loaded image: demo:3\n"]
    assert (world.layer_of("demo:3") / "etc/motd").read_bytes() == b"hello\n"
    assert images.digest(stored[0])[7:] in world.left()[0]


def test_the_layout_before_docker_25(world: World) -> None:
    text = images.image_config([SIMPLE, SIMPLE[:0] + OTHER])
    name = images.digest(text)[7:] + ".json"
    manifest = [{"Config": name, "RepoTags": ["old:1"], "Layers": ["aa/layer.tar", "bb/layer.tar"]}]
    archive = images.tar(
        [
            images.directory("aa"),
            images.member("aa/layer.tar", SIMPLE),
            images.directory("cc"),
            images.member("cc/layer.tar", OTHER),
            images.directory("bb"),
            images.symlink("bb/layer.tar", "../cc/layer.tar"),
            images.member(name, text),
            images.member("manifest.json", json.dumps(manifest).encode()),
        ]
    )
    assert world.load(archive) == ["Loaded image: old:1\n"]
    assert (world.layer_of("old:1", 1) / "bin/run").exists()


def test_several_images_share_their_layers(world: World) -> None:
    one, two = images.docker_archive([SIMPLE], ["a:1"]), images.docker_archive([SIMPLE, OTHER], ["b:1"])
    world.load(one)
    world.load(two)
    assert world.layer_of("a:1") == world.layer_of("b:1")

    async def act(service: ImageService) -> list[dict[str, str]]:
        return await service.remove("b:1")

    removed = world.run(act)
    assert removed[0] == {"Untagged": "b:1"}
    assert len(removed) == 3  # untagged, the image, the layer that only it had
    assert (world.layer_of("a:1") / "etc/motd").exists()
    assert images.digest(OTHER)[7:] not in world.left()[0]
    assert world.left()[1:] == (set(), [])


def test_loading_takes_over_a_tag_and_says_so(world: World) -> None:
    world.load(images.docker_archive([SIMPLE], ["demo:1"]))
    before = world.service.find("demo:1").id
    lines = world.load(images.docker_archive([OTHER], ["demo:1"]))
    assert lines == [
        f"The image demo:1 already exists, renaming the old one with ID {before} to empty string\n",
        "Loaded image: demo:1\n",
    ]
    assert ("untag", before) in world.events
    assert world.service.find(before).repo_tags == ()


def listing(top: Path) -> str:
    """Every entry below a directory with type, mode, owner, size, links, time and target, and its content's checksum."""
    look = "cd $0 && find . -mindepth 1 -printf '%y %m %U:%G %n %T@ %P -> %l\\n' | LC_ALL=C sort; find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum"
    return subprocess.run(["sh", "-c", look, top], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("format", ["gnu", "pax", "ustar", "v7"])
def test_a_layer_by_gnu_tar_unpacks_as_gnu_tar_unpacks_it(world: World, tmp_path: Path, format: str) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    deep = source / ("a" * 40) / ("b" * (90 if format in {"gnu", "pax"} else 20)) / "c"
    deep.mkdir(parents=True)
    other.mkdir()
    for n in range(30):
        (deep / f"file{n}").write_bytes(os.urandom(n * 700))
    (deep / "set").write_text("x")
    (deep / "set").chmod(0o6755)
    os.chown(deep / "file1", 1234, 4321)
    os.link(deep / "file2", source / "hard")
    (source / "link").symlink_to("/absolute/" + "t" * (80 if format != "gnu" else 150))
    if format != "v7":
        os.mkfifo(source / "pipe")
    os.utime(deep / "file3", (1, 1_500_000_000.25))
    if format == "pax":
        os.setxattr(deep / "file4", "user.note", b"x=y")
    options = ["--xattrs"] if format == "pax" else []
    made = subprocess.run(
        ["tar", "-c", f"--format={format}", *options, "-C", source, "."], capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-xp", "--numeric-owner", "--xattrs", "-C", other], input=made, check=True)
    world.load(images.docker_archive([made], ["gnu:1"]))
    assert listing(world.layer_of("gnu:1")) == listing(other)
    assert "file29" in listing(other)
    note = world.layer_of("gnu:1") / (deep / "file4").relative_to(source)
    assert os.listxattr(note) == (["user.note"] if format == "pax" else [])


def test_a_big_layer_unpacks_fast_and_in_little_memory(world: World) -> None:
    members = [images.directory(f"d{n}") for n in range(50)]
    members += [images.member(f"d{n % 50}/file{n}", b"x" * 300) for n in range(5_000)]
    archive = images.docker_archive([layer(*members)], ["big:1"])
    world.run(lambda service: service.inspect("host.local/base"))
    begin = os.times().user
    world.load(archive, chunk=1 << 20)
    assert (
        os.times().user - begin < 1.5
    )  # 0.2 s here. System time is the disk's: it varies with who else uses it
    assert len(os.listdir(world.layer_of("big:1") / "d7")) == 100


# Roots


def read_root(fd: int, path: str) -> bytes:
    with Root(fd) as root:
        return root.read_file(path)


def test_a_root_is_the_image_below_the_init_layer_and_the_containers_own(world: World) -> None:
    hosts = layer(
        images.directory("", mode=0o750, uid=5), images.symlink("etc", "/tmp"), images.symlink("proc", "/etc")
    )
    world.load(
        images.docker_archive(
            [SIMPLE, layer(images.member("etc/.wh.motd"), images.member("etc/new", b"2"))], ["a:1"]
        )
    )
    world.load(images.docker_archive([hosts], ["evil:1"]))
    image = world.service.find("a:1").id
    place = world.root / "containers/c1"
    place.mkdir(parents=True)
    snapshot = world.service.prepare("c1", image)
    assert snapshot.lower[0] == str(world.root / "layers/init-1")
    assert [Path(path) for path in snapshot.lower[1:]] == [world.layer_of("a:1", 1), world.layer_of("a:1", 0)]
    assert snapshot.binds == []
    fd = world.service.snapshots.open_view(image, "c1", writable=True)
    with Root(fd) as root:
        assert root.read_file("/etc/new") == b"2"
        assert not root.exists("/etc/motd")
        assert root.readlink("/etc/mtab") == b"/proc/mounts"
        assert root.read_file("/etc/hosts") == b""
        assert stat.S_ISDIR(root.lstat("/dev/shm").st_mode)
        root.write_file("/etc/mine", b"3")
    assert (place / "u/etc/mine").read_bytes() == b"3"
    assert read_root(world.service.snapshots.open_view(image, "c1"), "/etc/mine") == b"3"
    with pytest.raises(OSError):
        read_root(world.service.snapshots.open_view(image), "/etc/mine")
    with (
        Root(world.service.snapshots.open_view(image, "c1")) as root,
        pytest.raises(OSError, match="Read-only"),
    ):
        root.write_file("/x", b"")
    assert world.service.prepare("c1", image) == snapshot
    world.service.snapshots.remove("c1")
    assert os.listdir(place) == []

    evil = world.service.find("evil:1").id
    snapshot = world.service.prepare("c1", evil)
    info = os.stat(snapshot.upper)
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o750, 5)
    with Root(world.service.snapshots.open_view(evil, "c1")) as root:
        assert stat.S_ISDIR(root.lstat("/etc").st_mode)
        assert stat.S_ISDIR(root.lstat("/proc").st_mode)
    assert not [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(world.root) in line
    ]


def test_125_layers_fit_and_126_are_refused(world: World) -> None:
    layers = [layer(images.member(f"f{n}", str(n).encode())) for n in range(125)]
    world.load(images.docker_archive(layers, ["deep:1"]))
    image = world.service.find("deep:1").id
    assert read_root(world.service.snapshots.open_view(image), "/f124") == b"124"
    names = {path.rpartition("/")[2] for path in world.service.snapshots._base(image).lower[1:]}
    data = "lowerdir=" + ":".join(f"/var/lib/pystack/layers/{name}" for name in ["init-1", *names])
    data += (
        f",upperdir=/var/lib/pystack/containers/{'f' * 64}/u,workdir=/var/lib/pystack/containers/{'f' * 64}/w"
    )
    assert len(names) == 125
    assert len(data) < 4096
    refuses(world, images.docker_archive([*layers, SIMPLE], ["deeper:1"]), "126 layers")


def test_preparing_a_root_is_cheap(world: World) -> None:
    world.load(images.docker_archive([SIMPLE], ["a:1"]))
    image = world.service.find("a:1").id
    for n in range(101):
        (world.root / f"containers/c{n}").mkdir(parents=True)
    world.service.prepare("c100", image)
    begin = os.times().user
    for n in range(100):
        world.service.prepare(f"c{n}", image)
    assert (os.times().user - begin) / 100 < 0.001  # 0.02 ms here, and as much again for the kernel


# Tags, removal, listing


def test_removal_follows_docker(world: World) -> None:
    world.load(images.docker_archive([SIMPLE], ["a:1"]))
    image = world.service.find("a:1").id
    users = [ImageUser(id="c" * 64, name="web", running=True)]

    async def act(service: ImageService) -> None:
        service.in_use = lambda found: users if found == image else []
        with pytest.raises(
            Conflict,
            match=r'unable to remove repository reference "a:1" \(must force\) - container cccccccccccc is using',
        ):
            await service.remove("a:1")
        with pytest.raises(
            Conflict, match=r"\(cannot be forced\) - image is being used by running container cccccccccccc"
        ):
            await service.remove(image, force=True)
        users[0] = ImageUser(id="c" * 64, name="web", running=False)
        with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container"):
            await service.remove(image[7:19])
        await service.tag("a:1", "b/c")
        assert await service.remove("b/c:latest") == [{"Untagged": "b/c:latest"}]
        await service.tag("a:1", "b/c")
        users.clear()
        with pytest.raises(
            Conflict, match=r"\(must be forced\) - image is referenced in multiple repositories"
        ):
            await service.remove(image)
        removed = await service.remove(image, force=True)
        assert removed[:3] == [{"Untagged": "b/c:latest"}, {"Untagged": "a:1"}, {"Deleted": image}]
        with pytest.raises(NotFound, match="No such image: a:1"):
            await service.inspect("a:1")
        with pytest.raises(NotFound, match="No such image: nginx:alpine"):
            await service.ensure("nginx:alpine")
        with pytest.raises(InvalidInput, match="invalid reference format"):
            await service.tag("host.local/base", "../../y")
        with pytest.raises(Forbidden):
            await service.tag("host.local/base", "host.local/mine")
        with pytest.raises(Forbidden):
            await service.remove("host.local/base")
        await service.tag("host.local/base", "mine:1")
        assert await service.remove("mine:1") == [{"Untagged": "mine:1"}]

    world.run(act)
    assert world.left() == (set(), set(), [])


def test_lists_and_history(world: World) -> None:
    world.load(images.docker_archive([SIMPLE, OTHER], ["app/web:1"], {"Labels": {"tier": "front"}}))
    world.load(images.docker_archive([SIMPLE]))

    async def act(service: ImageService) -> None:
        async def names(**filters: list[str]) -> set[str]:
            return {
                tag for view in await service.list(filters=filters) for tag in view.repo_tags or ("<none>",)
            }

        assert await names() == {"app/web:1", "<none>", "host.local/base:latest"}
        assert await names(dangling=["true"]) == {"<none>"}
        assert await names(label=["tier=front"]) == {"app/web:1"}
        assert await names(reference=["app/*"]) == {"app/web:1"}
        assert await names(reference=["web*"]) == set()
        assert await names(before=["host.local/base"]) == {"app/web:1", "<none>"}
        with pytest.raises(InvalidInput, match="invalid filter 'colour'"):
            await names(colour=["red"])
        history = await service.history("app/web:1")
        assert [(entry["Id"], entry["CreatedBy"], entry["Size"]) for entry in history] == [
            (service.find("app/web:1").id, "layer 1", 3),
            ("<missing>", "layer 0", 6),
        ]

    world.run(act)
