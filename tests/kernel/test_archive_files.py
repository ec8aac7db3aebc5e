"""Files of containers: status, copies out and in, export and changes, running or not; and tars that mean harm."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import lzma
import os
import stat
import tarfile
from pathlib import Path

import engines
import images
import pytest
import zstandard
from boxes import begin, chunks, get, load_busybox, members, saying, sh

from pystack.engine.interface import PathStat
from pystack.model.container import Mount
from pystack.model.errors import Conflict, Forbidden, InvalidInput, NotFound, PystackError

pytestmark = pytest.mark.kernel

MAKE = """
mkdir -p /d/sub /e /k; echo hi >/d/file; chmod 640 /d/file; chown 7:8 /d/file; ln -s file /d/lf; ln -s /d/sub /ld
ln -s /none/x /broken; ln -s ../../../../d/file /d/sub/up; ln -s /loop /loop; mkfifo /d/fifo; mknod /d/dev c 1 3
cp /bin/busybox /d/suid; chmod 4755 /d/suid; chmod 1777 /d/sub; ln /d/file /d/hard; truncate -s 64M /d/hole
printf end >>/d/hole; echo t >/tmpfs/t; echo v >/vol/v; echo ready
"""


async def put(engine, ref, path, entries, **more):
    data = entries if isinstance(entries, bytes) else images.tar(entries)
    await engine.files.extract(ref, path, chunks(data), **more)


def test_out_of_a_container(tmp_path):
    """Everything that can be in a tree comes out as it is, of a running container and of one that has ended."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        mounts = (
            Mount(type="tmpfs", target="/tmpfs"),
            Mount(type="volume", target="/vol", source="v1"),
            Mount(type="volume", target="/new/deep", source="v1", read_only=True),
        )
        made = await begin(engine, MAKE, "cc", mounts=mounts)
        await saying(engine, made, "ready")
        for running in (True, False):
            await _look_at_everything(engine, running)
            if running:
                _status, found = await get(engine, "cc", "/tmpfs/t")
                assert found["t"].content == b"t\n"
                await engine.containers.kill(made)
                await engine.containers.wait(made)
        actions = [e.action for e in engine.events._ring if e.type == "container"]
        assert "archive-path" in actions
        await engine.containers.remove(made)
        await engine.volumes.remove("v1")


async def _look_at_everything(engine, running):
    status, found = await get(engine, "cc", "/d")
    assert (status.name, stat.S_ISDIR(status.mode)) == ("d", True)
    assert set(found) == {"d"} | {
        f"d/{n}" for n in ["dev", "fifo", "file", "hard", "hole", "lf", "sub", "sub/up", "suid"]
    }
    assert found["d/dev"].ischr()
    assert (found["d/dev"].devmajor, found["d/dev"].devminor) == (1, 3)
    assert found["d/fifo"].isfifo()
    linked = {found["d/file"].type, found["d/hard"].type}
    assert linked == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert found["d/file"].content + found["d/hard"].content == b"hi\n"
    assert (found["d/file"].uid, found["d/file"].gid, found["d/file"].mode) == (7, 8, 0o640)
    assert found["d/hole"].size == (64 << 20) + 3
    assert found["d/hole"].content.endswith(b"\0end")
    assert found["d/suid"].mode == 0o4755
    assert found["d/sub"].mode == 0o1777
    assert found["d/sub/up"].linkname == "../../../../d/file"
    for path, expected in {
        "d/file": PathStat(name="file", size=3, mode=stat.S_IFREG | 0o640, mtime_ns=0),
        "/d/lf": PathStat(name="lf", size=4, mode=stat.S_IFLNK | 0o777, mtime_ns=0, link_target="/d/file"),
        "/ld": PathStat(name="ld", size=6, mode=stat.S_IFLNK | 0o777, mtime_ns=0, link_target="/d/sub"),
        "/broken": PathStat(
            name="broken", size=7, mode=stat.S_IFLNK | 0o777, mtime_ns=0, link_target="/none/x"
        ),
        "/d/sub/up": PathStat(
            name="up", size=18, mode=stat.S_IFLNK | 0o777, mtime_ns=0, link_target="/d/file"
        ),
        "/d/../d/file": PathStat(name="file", size=3, mode=stat.S_IFREG | 0o640, mtime_ns=0),
        "/loop": PathStat(name="loop", size=5, mode=stat.S_IFLNK | 0o777, mtime_ns=0),
    }.items():
        found_status = await engine.files.stat("cc", path)
        seen = (found_status.name, found_status.size, found_status.mode, found_status.link_target)
        assert seen == (expected.name, expected.size, expected.mode, expected.link_target), path
    for path, first, below in (
        ("/ld", "ld", set()),
        ("/ld/", "ld", {"ld/up"}),
        ("/ld/.", ".", {"./up"}),
        ("/vol", "vol", {"vol/v"}),
        ("/new", "new", {"new/deep", "new/deep/v"}),
        ("/proc", "proc", set()),
    ):
        _, found = await get(engine, "cc", path)
        assert (next(iter(found)), set(found) - {first}) == (first, below), path
    for path in (
        "/none",
        "/none/x",
        "/d/file/x/y",
        "/proc/1/environ",
        "/proc/self/root/etc",
        "/proc/1/root/etc",
    ):
        with pytest.raises(PystackError) as caught:
            await engine.files.stat("cc", path)
        assert caught.value.status in {400, 404}, path
    with pytest.raises(NotFound, match=r"Could not find the file /none in container cc"):
        await get(engine, "cc", "/none")
    with pytest.raises(InvalidInput, match=r"lstat /d/file/: not a directory"):
        await get(engine, "cc", "/d/file/")
    with pytest.raises(InvalidInput, match="path cannot be empty"):
        await get(engine, "cc", "")
    status, found = await get(engine, "cc", "/")
    assert (status.name, {"/d/file", "/bin/sh"} - set(found)) == ("/", set())
    assert not any(name.startswith(("/proc/", "/sys/")) for name in found)


def test_into_a_container(tmp_path):
    """Entries land where they are named; what must not be is refused; the same for one that does not run."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        mounts = (
            Mount(type="volume", target="/rw", source="v1"),
            Mount(type="volume", target="/ro", source="v1", read_only=True),
        )
        made = await begin(
            engine, "mkdir /e /t; ln -s /e /le; ln -s /t /e/out; echo ready", "cc", mounts=mounts
        )
        await saying(engine, made, "ready")
        for turn in ("running", "ended"):
            await _put_everything(engine, turn)
            if turn == "running":
                await engine.containers.kill(made)
                await engine.containers.wait(made)
        await engine.containers.remove(made)
        await _copy_into_a_created_one(engine)
        await engine.volumes.remove("v1")


async def _put_everything(engine, turn):
    m = images.member
    entries = [
        images.directory(f"{turn}", 0o750, uid=3, gid=4),
        m(f"{turn}/a", b"1", uid=1000, gid=1001, mode=0o640),
        m(f"{turn}/su", b"x", mode=0o4755),
        m(f"/{turn}/abs", b"2"),
        images.hardlink(f"{turn}/hard", f"{turn}/a"),
        images.hardlink(f"{turn}/hard2", f"/{turn}/a"),
        images.symlink(f"{turn}/s", "/etc"),
        m(f"{turn}/s/made-{turn}", b"3"),
        m(f"out/through-{turn}", b"4"),
        m(f"{turn}/new/deep/x", b"5"),
        m(f"{turn}/nul", type=tarfile.CHRTYPE, device=(1, 3)),
        m(f"{turn}/ff", type=tarfile.FIFOTYPE),
        m(
            f"{turn}/xa",
            b"x",
            pax={"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.k": "v"},
        ),
        m(f"{turn}/.wh.a", b""),
    ]
    await put(engine, "cc", "/le", entries)
    _, found = await get(engine, "cc", f"/e/{turn}")
    assert (found[turn].mode, found[turn].uid, found[turn].mtime) == (0o750, 3, images.EPOCH)
    a = found[f"{turn}/a"] if found[f"{turn}/a"].isreg() else found[f"{turn}/hard"]
    assert (a.uid, a.gid, a.mode, a.content, a.mtime) == (1000, 1001, 0o640, b"1", images.EPOCH)
    assert [found[f"{turn}/{n}"].type for n in ("hard", "hard2")].count(tarfile.LNKTYPE) >= 1
    assert found[f"{turn}/su"].mode == 0o4755
    assert found[f"{turn}/abs"].content == b"2"
    assert found[f"{turn}/s"].linkname == "/etc"
    assert found[f"{turn}/new/deep/x"].content == b"5"
    assert found[f"{turn}/nul"].ischr()
    assert found[f"{turn}/ff"].isfifo()
    assert f"{turn}/.wh.a" in found
    assert set(found[f"{turn}/xa"].pax_headers) == {"SCHILY.xattr.user.k"}
    for path, content in ((f"/etc/made-{turn}", b"3"), (f"/t/through-{turn}", b"4")):
        _, found = await get(engine, "cc", path)
        assert found[os.path.basename(path)].content == content
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress):
        name = f"z-{pack.__module__}-{turn}"
        await put(engine, "cc", "/rw", pack(images.tar([m(name, b"packed")])))
        _, found = await get(engine, "cc", f"/ro/{name}")
        assert found[name].content == b"packed"
    await put(engine, "cc", "/e", [m("kind", b"file")])
    await put(engine, "cc", "/e", [images.directory("kind"), m("kind/x", b"")])
    for entries in ([m("e", b"")], [images.directory("e/kind/x")]):
        with pytest.raises(InvalidInput, match="cannot overwrite"):
            await put(engine, "cc", "/", entries, keep_kinds=True)
    await put(engine, "cc", "/e", [m("kind", b"again")])
    assert (await engine.files.stat("cc", "/e/kind")).size == 5
    await put(engine, "cc", "/e", b"")
    for path, error, text in (
        ("/none", NotFound, "Could not find the file /none in container cc"),
        ("/e/kind", InvalidInput, "extraction point is not a directory"),
        ("/ro", Forbidden, "mounted volume is marked read-only"),
    ):
        with pytest.raises(error, match=text):
            await put(engine, "cc", path, [m("a", b"1")])
    if turn == "running":
        with pytest.raises(Forbidden):
            await put(engine, "cc", "/proc", [m("a", b"1")])
        with pytest.raises(Conflict, match="mounted"):
            await put(engine, "cc", "/", [m("rw", b"a file in place of a volume")])
        with pytest.raises(Conflict, match="mounted"):
            await put(engine, "cc", "/", [m("etc", b"a file in place of what has mounts below it")])
        assert await sh(engine, "cc", "grep -c /etc/hosts /proc/mounts; ls -d /rw/z*") != ""


async def _copy_into_a_created_one(engine):
    """Nothing has run in it yet, its mount points are not there, and its root is read-only."""
    volume = (Mount(type="volume", target="/made/here", source="v1"),)
    made = await engine.containers.create(
        engines.spec("sleep", "1000", image="box", mounts=volume, read_only_rootfs=True, user="www-data"),
        "cr",
    )
    with pytest.raises(Forbidden, match="container rootfs is marked read-only"):
        await put(engine, "cr", "/etc", [images.member("a", b"1")])
    await put(engine, "cr", "/made/here", [images.member("mine", b"1", uid=5, gid=6)], copy_owner=True)
    await put(engine, "cr", "/made/here", [images.member("theirs", b"1", uid=5, gid=6)])
    assert stat.S_IMODE((await engine.files.stat("cr", "/made")).mode) == 0o755
    await engine.containers.start(made.id)
    assert (await sh(engine, "cr", "stat -c %u:%g /made/here/mine /made/here/theirs")).split() == [
        "33:33",
        "5:6",
    ]
    await engine.containers.remove(made.id, force=True)


def hostile():
    """Archives that mean harm, by name; `canary` stands for a directory of the host."""
    m, link = images.member, images.symlink
    yield "dot-dot", [m("../esc", b"1")]
    yield "dot-dot in the middle", [m("x/../../esc", b"1")]
    yield "hard link by dot-dot", [images.hardlink("h", "../../../../{canary}/token")]
    yield "hard link to the host", [images.hardlink("h", "{canary}/token")]
    yield "hard link through a link", [link("s", "{canary}"), images.hardlink("h", "s/token")]
    yield "file through a link", [link("s", "{canary}"), m("s/planted", b"1")]
    yield "file through a relative link", [link("s", "../../../../../../../..{canary}"), m("s/planted", b"1")]
    yield "file over a link", [link("s", "{canary}/token"), m("s", b"1", mode=0o777)]
    yield "directory over a link", [link("s", "{canary}"), images.directory("s", 0o777)]
    yield "link through proc", [link("s", "/proc/self/root{canary}"), m("s/planted", b"1")]
    yield "link to itself", [link("s", "s"), m("s/x", b"1")]
    yield "a name that is too long", [m("n" * 300, b"1")]
    yield "opaque marker", [link("s", "{canary}"), m("s/.wh..wh..opq", b"")]
    yield "whiteout", [link("s", "{canary}"), m("s/.wh.token", b"")]
    yield "the top as a link", [link("./", "{canary}"), m("planted", b"1")]


async def outcome(act):
    """The HTTP status of what an operation raises, 200 for none."""
    try:
        await act
    except PystackError as error:
        return error.status
    return 200


def raw_hostile():
    good = images.tar([images.member("cut", b"x" * 5000)])
    yield "garbage", b"garbage" * 400
    yield "cut", good[:2000]
    yield "cut gzip", gzip.compress(good)[:-20]
    yield "checksum", good[:148] + b"000000\0 " + good[156:]
    yield "negative size", good[:124] + b"\xff" * 12 + good[136:]
    yield "unknown type", _retyped(good, b"Z")
    yield "huge pax", images.tar([images.member("x", b"", pax={"k": "v" * (2 << 20)})])
    yield "pax size beyond", images.tar([images.member("x", b"1", pax={"size": "99999999999999999999999"})])


def _retyped(data, kind):
    block = bytearray(data[:512])
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


def test_archives_that_mean_harm(tmp_path):
    """Whatever an archive holds, it changes the container alone, and the refusal says what is wrong with it."""
    canary = tmp_path / "canary"
    canary.mkdir()
    token = canary / "token"
    token.write_text("token")
    token.chmod(0o600)

    def aimed(entries):
        for info, content in entries:
            info.name = info.name.replace("{canary}", str(canary))
            info.linkname = info.linkname.replace("{canary}", str(canary))
            yield info, content

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        made = await begin(engine, "mkdir /e; echo ready", "cc")
        await saying(engine, made, "ready")
        archives = [(name, images.tar(aimed(entries))) for name, entries in hostile()] + list(raw_hostile())
        refused = []
        for turn in ("running", "ended"):
            for number, (name, data) in enumerate(archives):
                await put(engine, "cc", "/e", [images.directory(f"{turn}{number}")])
                status = await outcome(put(engine, "cc", f"/e/{turn}{number}", data))
                assert status in {200, 400}, name
                if status == 400:
                    refused.append(name)
                assert os.listdir(canary) == ["token"], name
                info = token.stat()
                assert (info.st_nlink, stat.S_IMODE(info.st_mode), token.read_text()) == (
                    1,
                    0o600,
                    "token",
                ), name
            if turn == "running":
                await engine.containers.kill(made)
                await engine.containers.wait(made)
        harmless = {"file over a link", "directory over a link"}
        allowed = {
            "file through a link",
            "file through a relative link",
            "opaque marker",
            "whiteout",
        } | harmless
        assert {name for name, _ in archives} - set(refused) <= allowed
        assert not (tmp_path / "esc").exists()


def test_a_container_that_renames(tmp_path):
    """While a container swaps a directory and a link to the host's, copies both ways stay inside it (CVE-2018-15664)."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "token").write_text("the host's token")
    race = f"""
mkdir -p /w/real{canary} /w/sub; echo inside >/w/sub/token; ln -s {canary} /w/link; mkdir -p {canary}; echo mine >{canary}/token
echo ready
while :; do mv /w/sub /w/x; mv /w/link /w/sub; mv /w/sub /w/link; mv /w/x /w/sub; done
"""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        made = await begin(engine, race, "cc")
        await saying(engine, made, "ready")
        done = {"out": 0, "in": 0}
        for number in range(2000):
            try:
                for path in ("/w/sub/token", "/w/sub/", "/w"):
                    _, found = await get(engine, "cc", path)
                    assert not any(b"host's" in info.content for info in found.values())
                    done["out"] += 1
                await put(
                    engine, "cc", "/w/sub", [images.member(f"n{number}", b"1"), images.member("token", b"2")]
                )
                done["in"] += 1
            except NotFound:
                pass  # between two renames nothing has that name
            except InvalidInput as error:  # the directory was removed after it had been opened
                if "No such file" not in str(error):
                    raise
            assert os.listdir(canary) == ["token"]
            assert (canary / "token").read_text() == "the host's token"
            if min(done.values()) >= 10:
                return
        raise AssertionError(done)


def test_export_and_changes(tmp_path):
    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        script = (
            "rm /etc/passwd; echo new >/etc/new; mkdir -p /a/b; echo x >/a/b/c; chmod 700 /home; rm -r /var/spool; "
            "mkdir /var/spool; rm -r /usr/bin; mkdir /usr/bin; echo y >/usr/bin/own; echo v >/vol/inside; "
            "mv /tmp /tmp2; cat /etc/group >/dev/null; touch /etc/group; echo ready"
        )
        mounts = (Mount(type="volume", target="/vol", source="v1"),)
        made = await begin(engine, script, "cc", mounts=mounts)
        await saying(engine, made, "ready")
        expected = {
            ("/a", 1), ("/a/b", 1), ("/a/b/c", 1), ("/etc", 0), ("/etc/group", 0), ("/etc/new", 1), ("/etc/passwd", 2),
            ("/home", 0), ("/tmp", 2), ("/tmp2", 1), ("/usr", 0), ("/usr/bin", 0), ("/usr/bin/env", 2),
            ("/usr/bin/own", 1), ("/var", 0), ("/var/spool", 0), ("/vol", 1),
        }  # fmt: skip
        for turn in ("running", "ended"):
            changes = await engine.files.changes("cc")
            assert {(c.path, c.kind) for c in changes} == expected, turn
            async with engine.files.export("cc") as stream:
                found = members(b"".join([chunk async for chunk in stream]))
            assert found["a/b/c"].content == b"x\n"
            assert found["bin/sh"].islnk()
            assert "etc/passwd" not in found
            assert found["vol"].isdir()
            assert "vol/inside" not in found
            assert found["etc/hosts"].size == 0
            assert not any(name.startswith("proc/") for name in found)
            assert {n for n in found if n.startswith("usr/bin/")} == {"usr/bin/own"}
            assert found["home"].mode == 0o700
            if turn == "running":
                size = await engine.files.size("cc")
                await engine.containers.kill(made)
                await engine.containers.wait(made)
        assert size == len("new\n" + "x\n" + "y\n") + (await engine.files.stat("cc", "/etc/group")).size
        await engine.containers.remove(made)
        based = await engine.containers.create(engines.spec("true"), "based")
        with pytest.raises(Forbidden, match="cannot export container based"):
            async with engine.files.export(based.id):
                pass
        await engine.volumes.remove("v1")


def test_a_copy_into_an_ended_container_keeps_it_from_starting(tmp_path, monkeypatch):
    """Two overlays never share an upper directory; who does not want to wait is told why."""
    monkeypatch.setattr("pystack.engine.container.WRITING_WAIT", 0.3)

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        made = await engine.containers.create(engines.spec("sleep", "1000", image="box"), "cc")
        data = images.tar([images.member("slow", b"x" * 100_000)])
        more = asyncio.Event()

        async def slowly():
            yield data[:1000]
            await more.wait()
            yield data[1000:]

        copying = asyncio.create_task(engine.files.extract("cc", "/root", slowly()))
        second = asyncio.create_task(engine.files.extract("cc", "/root", chunks(data)))
        await asyncio.sleep(0.1)
        assert (await engine.files.stat("cc", "/etc/group")).size > 0
        for act in (engine.containers.start(made.id), engine.containers.remove(made.id)):
            with pytest.raises(Conflict, match="files are being copied into it"):
                await act
        more.set()
        with pytest.raises(Conflict, match="marked for removal"):
            await asyncio.gather(copying, second)
        await copying

    assert not Path(tmp_path, "root", "containers").exists()
