"""Images that lie, attack or end too early: refused, and nothing is left of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import images
import pytest
import zstandard
from imagestore import OTHER, SIMPLE, World, image_world, layer, refuses  # noqa: F401 - the fixture `world`

pytestmark = pytest.mark.kernel


# Hostile archives


def canary(tmp_path: Path) -> Path:
    place = tmp_path / "canary"
    place.mkdir()
    (place / "token").write_text("secret")
    (place / "token").chmod(0o600)
    return place


def hostile(*members: Any) -> bytes:
    return images.docker_archive([layer(*members)], ["evil:1"])


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (lambda c: [images.member(f"../../..{c}/p", b"x")], "holds '..'"),
        (lambda c: [images.member(f"a/../../../..{c}/p", b"x")], "holds '..'"),
        (lambda c: [images.hardlink("h", f"../../..{c}/token")], "holds '..'"),
        (lambda c: [images.hardlink("h", f"{c}/token")], "cannot unpack 'h'"),
        (lambda c: [images.symlink("x", str(c)), images.hardlink("h", "x/token")], "cannot unpack 'h'"),
        (lambda _: [images.symlink("./", "/etc")], "top is not a directory"),
        (lambda _: [images.member("d/.wh...", b"")], "hides no name"),
        (lambda _: [images.member("d/.wh..", b"")], "hides no name"),
        (lambda _: [images.member("d/.wh.", b"")], "hides no name"),
        (lambda _: [images.member("a", b"x"), images.member("a/b", b"y")], "cannot unpack 'a/b'"),
        (lambda _: [images.member("n", pax={"path": "a\0b"})], "is not a name"),
        (lambda _: [images.member("a/" * 3000 + "b")], "a name of 6001 bytes"),
        (lambda _: [images.member("n", pax={"GNU.sparse.major": "1"})], "sparse"),
        (lambda _: [images.member("n", pax={"size": "-5"})], "size is"),
        (lambda _: [images.member("n", uid=2**33)], "belongs to"),
        (lambda _: [images.member("n", type=b"Z")], "has type"),
    ],
    ids=[
        "dotdot", "dotdot in the middle", "hardlink dotdot", "hardlink absolute", "hardlink through a link",
        "top is a link", "whiteout of ..", "whiteout of .", "whiteout of nothing", "file as parent", "NUL", "long name",
        "sparse", "negative size", "huge uid", "unknown type",
    ],
)  # fmt: skip
def test_hostile_layers_are_refused(world: World, tmp_path: Path, members: Any, words: str) -> None:
    place = canary(tmp_path)
    refuses(world, hostile(*members(place)), words)
    assert (place / "token").read_text() == "secret"
    assert (place / "token").stat().st_nlink == 1
    assert os.listdir(place) == ["token"]


def test_links_and_absolute_names_stay_inside_the_layer(world: World, tmp_path: Path) -> None:
    place = canary(tmp_path)
    world.load(
        hostile(
            images.member(f"{place}/absolute", b"1"),
            images.symlink("x", str(place)),
            images.member("x/p", b"2", mode=0o777),
            images.member("x/.wh.token"),
            images.member("x/.wh..wh..opq"),
            images.symlink("y", "../../../../../.."),
            images.member("y/escaped", b"3"),
        )
    )
    top = world.layer_of("evil:1")
    inside = top / str(place)[1:]
    assert (inside / "absolute").read_bytes() == b"1"
    assert (inside / "p").read_bytes() == b"2"
    assert (top / "escaped").read_bytes() == b"3"
    assert os.getxattr(inside, "trusted.overlay.opaque") == b"y"
    assert os.listdir(place) == ["token"]
    assert not Path("/escaped").exists()
    assert stat.S_IMODE((place / "token").stat().st_mode) == 0o600


def test_attributes_that_steer_overlayfs_are_dropped_and_capabilities_kept(world: World) -> None:
    net_raw = b"\x01\x00\x00\x02" + bytes([0, 0x20, 0, 0]) + bytes(12)
    revision3 = net_raw[:3] + b"\x03" + net_raw[4:] + (1000).to_bytes(4, "little")
    text = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.trusted.other": "y",
        "SCHILY.xattr.user.mine": "kept",
    }
    capable = {"SCHILY.xattr.security.capability": net_raw.decode("latin-1")}
    foreign = {"SCHILY.xattr.security.capability": revision3.decode("latin-1").replace("\xe8", "\x01")}
    world.load(
        hostile(
            images.directory("d", pax=text),
            images.member("ping", b"x", mode=0o755, pax=capable),
            images.member("ping3", b"x", mode=0o755, pax=foreign),
        )
    )
    top = world.layer_of("evil:1")
    assert os.listxattr(top / "d") == ["user.mine"]
    assert os.getxattr(top / "ping", "security.capability") == net_raw
    assert len(os.getxattr(top / "ping3", "security.capability")) == 20


def test_whiteouts_replacements_and_devices(world: World) -> None:
    world.load(
        hostile(
            images.member(".wh.gone"),
            images.member(".wh.again"),
            images.directory("again"),
            images.directory("kept"),
            images.member("kept/mine", b"1"),
            images.member(".wh.kept"),
            images.member("twice", b"first"),
            images.member("twice", b"second"),
            images.directory("was"),
            images.member("was/below", b"1"),
            images.symlink("was", "twice"),
            images.member("null", type=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
            images.member("pipe", type=tarfile.FIFOTYPE),
            images.hardlink("copy", "/twice", mode=0o644),
            images.directory("late", mtime=1_000),
            images.member("late/file", b"1"),
            images.member(b"caf\xe9".decode("utf-8", "surrogateescape"), b"bytes"),
        )
    )
    top = world.layer_of("evil:1")
    gone = (top / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(top / "again", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(top / "kept", "trusted.overlay.opaque") == b"y"
    assert (top / "kept/mine").read_bytes() == b"1"
    assert (top / "twice").read_bytes() == b"second"
    assert os.readlink(top / "was") == "twice"
    null = (top / "null").lstat()
    assert (null.st_rdev, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 0o666)
    assert stat.S_ISFIFO((top / "pipe").lstat().st_mode)
    assert (top / "copy").stat().st_ino == (top / "twice").stat().st_ino
    assert (top / "late").stat().st_mtime == 1_000
    assert b"caf\xe9" in os.listdir(os.fsencode(top))


def rewritten(data: bytes, replace: dict[str, bytes | None], extra: Iterable[Any] = ()) -> bytes:
    """An archive with some members' content replaced or (None) left out, and others added."""
    members = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            content = archive.extractfile(info).read()  # type: ignore[union-attr]
            new = replace.get(info.name, content)
            if new is not None:
                members.append(images.member(info.name, new))
    return images.tar([*members, *extra])


def test_archives_that_lie_are_refused(world: World, tmp_path: Path) -> None:
    docker, oci = images.docker_archive([SIMPLE], ["a:1"]), images.oci_archive([SIMPLE], "a:1")
    blob = f"blobs/sha256/{images.digest(SIMPLE)[7:]}"
    refuses(world, rewritten(docker, {blob: OTHER}), "has digest")
    refuses(world, rewritten(oci, {blob: None}), "is not in it")
    place = canary(tmp_path)
    manifest = [{"Config": f"../../..{place}/token", "RepoTags": None, "Layers": []}]
    refuses(world, rewritten(docker, {"manifest.json": json.dumps(manifest).encode()}), "is not in it")
    manifest = [{"Config": "c", "RepoTags": None, "Layers": ["l"]}]
    linked = [images.member("c", images.image_config([SIMPLE])), images.symlink("l", str(place / "token"))]
    refuses(
        world, rewritten(docker, {"manifest.json": json.dumps(manifest).encode()}, linked), "is not in it"
    )
    linked[1] = images.member("l", OTHER)
    refuses(world, rewritten(docker, {"manifest.json": json.dumps(manifest).encode()}, linked), "diff id")
    refuses(world, rewritten(docker, {}, [images.member("manifest.json", b"[]")]), "is in it twice")
    refuses(world, rewritten(docker, {}, [images.member("../manifest.json", b"[]")]), "holds the name")
    manifest = [
        {
            "Config": f"blobs/sha256/{images.digest(images.image_config([SIMPLE]))[7:]}",
            "RepoTags": ["../x:1"],
            "Layers": [blob],
        }
    ]
    refuses(
        world, rewritten(docker, {"manifest.json": json.dumps(manifest).encode()}), "invalid reference format"
    )
    refuses(
        world,
        rewritten(oci, {"index.json": b'{"manifests": [{"digest": "sha256:../../x", "size": 1}]}'}),
        "has digest",
    )
    refuses(world, rewritten(oci, {"index.json": b'{"manifests": [], "layers": []}'}), "manifest, too")
    refuses(world, rewritten(docker, {"manifest.json": None}), "neither manifest.json nor index.json")
    refuses(world, b"this is not a tar at all" * 100, "cannot read the archive")
    refuses(world, images.docker_archive([SIMPLE], ["A/B:1"]), "must be lowercase")


def test_archives_cut_short_anywhere_are_refused_and_leave_nothing(world: World) -> None:
    whole = images.docker_archive([SIMPLE, OTHER], ["a:1"])
    end = whole.rstrip(b"\0")
    for cut in range(700, len(end), 2311):
        refuses(world, whole[:cut], "cannot")
    packed = gzip.compress(whole)
    for cut in range(20, len(packed) - 10, 301):
        refuses(world, packed[:cut], "cannot")
    assert world.load(whole) == ["Loaded image: a:1\n"]


def test_a_bomb_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pystack.image.load.LIMITS", images_limits(4 << 20))
    refuses(world, hostile(images.member("zeros", bytes(5 << 20))), "larger than")
    refuses(world, gzip.compress(bytes(6 << 20)), "cannot read the archive")
    bomb = images.oci_archive(
        [layer(images.member("zeros", bytes(5 << 20)))],
        "b:1",
        stored=[gzip.compress(layer(images.member("zeros", bytes(5 << 20))))],
    )
    refuses(world, bomb, "larger than")
    big = (
        zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28))
        .compressobj()
        .compress(b"x")
    )
    refuses(world, big + b"rest" * 100, "cannot")


def images_limits(size: int) -> Any:
    from pystack.image.tarstream import Limits

    return Limits(bytes=size)
