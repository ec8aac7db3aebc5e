"""Images made here: commit, import, save and load again, what they cost, and prunes; on the real kernel."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import tarfile
from contextlib import aclosing
from shutil import which

import engines
import images
import pytest
from boxes import begin, chunks, get, load_busybox, members, saying, sh

from pystack.engine.interface import CommitRequest
from pystack.image.newimage import About
from pystack.image.references import normalise
from pystack.kernel import failpoints
from pystack.model.errors import Conflict, Forbidden, InvalidInput, NotFound

pytestmark = pytest.mark.kernel

WORK = """
rm /etc/passwd; mkdir /new; echo new >/new/file; ln /new/file /new/hard; rm -r /var/spool; mkdir /var/spool; echo own >/var/spool/own
cp /bin/busybox /cap; chmod 4755 /cap; setfattr -n user.k -v v /cap 2>/dev/null; mkfifo /fifo; echo ready
"""
CAPABILITY = bytes.fromhex(
    "0100000200040000000000000000000000000000"
)  # cap_net_bind_service=ep, as setcap writes it


async def saved(engine, *names, **more):
    async with engine.images.save(names, **more) as stream:
        return b"".join([chunk async for chunk in stream])


async def loaded(engine, data):
    return [line async for line in engine.images.load(chunks(data, 1 << 20))]


def archive_json(data, name):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return json.load(archive.extractfile(name))


def test_commit(tmp_path):
    """A running container becomes an image with its files, whiteouts, attributes and config; another runs from it."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        made = await begin(engine, WORK, "cc", labels={"from": "me"}, env=("A=1",), user="")
        await saying(engine, made, "ready")
        put = images.tar(
            [
                images.member(
                    "net",
                    b"x",
                    mode=0o755,
                    pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")},
                )
            ]
        )
        await engine.files.extract("cc", "/new", chunks(put))
        request = CommitRequest(
            repository="mine", tag="one", author="a", comment="hello",
            changes=("ENV B=${A}2", 'CMD ["cat", "/new/file"]', "WORKDIR /new", "ONBUILD RUN x", "EXPOSE 80"),
        )  # fmt: skip
        image = await engine.files.commit("cc", request)
        view = await engine.images.inspect("mine:one")
        assert (view.id, view.author, view.comment, len(view.layers)) == (image, "a", "hello", 2)
        assert set(view.config.env) >= {"A=1", "B=12"}
        assert (view.config.command, view.config.working_dir) == (("cat", "/new/file"), "/new")
        assert (view.config.labels, view.config.on_build) == ({"from": "me"}, ("RUN x",))
        assert view.config.exposed_ports == ("80/tcp",)
        newest = (await engine.images.history("mine:one"))[0]
        assert (newest["Id"], newest["Comment"], newest["Tags"]) == (image, "hello", ["mine:one"])
        assert newest["CreatedBy"].startswith("sh -c"), newest
        assert newest["Size"] > 2_000_000
        second = await engine.containers.create(engines.spec(image="mine:one", command=None), "dd")
        await engine.containers.start(second.id)
        assert (await engine.containers.wait(second.id)).exit_code == 0
        assert await engines.output(engine, second.id) == "new\n"
        await _same_files(engine, "cc", "dd")
        actions = [e.action for e in engine.events._ring if e.type == "container" and e.actor_id == made]
        assert actions[-4:-1] == ["pause", "commit", "unpause"] or "commit" in actions
        empty = await engine.containers.create(engines.spec("true", image="box"), "ee")
        image = await engine.files.commit("ee", CommitRequest(pause=False))
        assert len((await engine.images.inspect(image)).layers) == 1
        assert (await engine.images.history(image))[0]["Size"] == 0
        given = await engine.files.commit(
            "cc", CommitRequest(config={"Env": ["X=1"], "Cmd": ["z"], "Labels": {"q": "r"}})
        )
        config = (await engine.images.inspect(given)).config
        assert (config.command, config.labels["q"], config.labels["from"]) == (("z",), "r", "me")
        assert {"X=1", "A=1"} <= set(config.env)
        for bad in (
            CommitRequest(changes=("RUN x",)),
            CommitRequest(repository="BAD"),
            CommitRequest(repository="a:b", tag="c"),
        ):
            with pytest.raises(InvalidInput):
                await engine.files.commit("cc", bad)
        with pytest.raises(NotFound):
            await engine.files.commit("none", CommitRequest())
        with pytest.raises(Forbidden):
            await engine.files.commit("cc", CommitRequest(repository="host.local/mine"))
        assert (await engines.state(engine, "cc")) == "running"
        assert await sh(engine, "cc", "echo alive") == "alive\n"
        assert empty.id


async def _same_files(engine, before, after):
    _, found = await get(engine, after, "/")
    _, asked = await get(engine, before, "/new/net")
    assert "/etc/passwd" not in found
    assert {name for name in found if name.startswith("/var/spool/")} == {"/var/spool/own"}
    assert found["/cap"].mode == 0o4755
    assert found["/fifo"].isfifo()
    assert {found["/new/file"].type, found["/new/hard"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    name = "SCHILY.xattr.security.capability"
    assert found["/new/net"].pax_headers[name] == asked["net"].pax_headers[name]


def test_commit_of_the_hosts_own_image(tmp_path):
    """What is committed from host.local/base runs here, and cannot leave this host; nor is it the base itself."""

    @engines.scene(tmp_path)
    async def scene(engine):
        made = await engine.containers.create(engines.shell("echo kept >/root/x"), "cc")
        await engine.containers.start(made.id)
        await engine.containers.wait(made.id)
        await engine.files.commit("cc", CommitRequest(repository="based"))
        code, out = await engines.run(engine, "cat /root/x; ls /usr/bin/env", image="based", name="dd")
        assert (code, out) == (0, "kept\n/usr/bin/env\n")
        with pytest.raises(Forbidden, match="cannot save or push based"):
            await saved(engine, "based")
        await engine.containers.remove("dd")
        await engine.containers.remove("cc")
        removed, reclaimed = await engine.images.prune({"dangling": ["false"]})
        assert {"Untagged": "based:latest"} in removed
        assert reclaimed > 0
        assert (await engine.images.inspect("host.local/base")).id


def test_an_engine_that_dies_while_it_commits(tmp_path):
    """The next one finds the container frozen, and lets it go on."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)

    async def main():
        async with engines.engine_at(tmp_path, clean=False) as engine:
            made = await begin(engine, "while :; do date >>/ticks; sleep 0.05; done", "cc")
            await engine._services.cgroups.freeze(made)
        async with engines.engine_at(tmp_path) as engine:
            assert await engines.state(engine, "cc") == "running"
            before = (await engine.files.stat("cc", "/ticks")).size
            for _ in range(200):
                if (await engine.files.stat("cc", "/ticks")).size > before:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("it stands still")

    asyncio.run(main())


def test_save_and_load(tmp_path):
    """Several images in one archive, shared layers once; other programs read it; it comes back as it was."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        await engine.images.tag("box", "box:two")
        made = await begin(engine, "echo one >/one; echo ready", "cc")
        await saying(engine, made, "ready")
        await engine.files.commit("cc", CommitRequest(repository="mine", tag="one"))
        await engine.containers.remove("cc", force=True)
        data = await saved(engine, "box", "mine:one")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = archive.getnames()
        assert len(names) == len(set(names))
        assert sum(name.startswith("blobs/sha256/") for name in names) == 6  # two layers, configs, manifests
        manifest = archive_json(data, "manifest.json")
        assert [item["RepoTags"] for item in manifest] == [["box:latest", "box:two"], ["mine:one"]]
        assert manifest[1]["Layers"][:1] == manifest[0]["Layers"]
        names = [
            entry["annotations"]["io.containerd.image.name"]
            for entry in archive_json(data, "index.json")["manifests"]
        ]
        assert names == [
            "docker.io/library/box:latest",
            "docker.io/library/box:two",
            "docker.io/library/mine:one",
        ]
        _read_by_skopeo(tmp_path / "saved.tar", data)
        ids = [(await engine.images.inspect(name)).id for name in ("box", "mine:one")]
        for name in ("box:latest", "box:two", "mine:one"):
            await engine.images.remove(name)
        assert await loaded(engine, data) == [
            "Loaded image: box:latest\n", "Loaded image: box:two\n", "Loaded image: mine:one\n",
        ]  # fmt: skip
        assert [(await engine.images.inspect(name)).id for name in ("box", "mine:one")] == ids
        assert await saved(engine, "box", "mine:one") == data
        by_id = await saved(engine, ids[0])
        assert archive_json(by_id, "manifest.json")[0]["RepoTags"] is None
        await engine.images.remove("box:two")
        await engine.images.remove("box:latest")
        assert (await loaded(engine, by_id)) == [f"Loaded image ID: {ids[0]}\n"]
        for names, error in ((["none"], NotFound), ([], InvalidInput), (["host.local/base"], Forbidden)):
            with pytest.raises(error):
                await saved(engine, *names)
        with pytest.raises(NotFound, match="does not provide the specified platform"):
            await saved(engine, "mine:one", target=("s390x", ""))


def _read_by_skopeo(path, data):
    path.write_bytes(data)
    if not which("skopeo"):
        pytest.skip("skopeo is not installed (Debian: skopeo): nobody else read the archive")
    for source in (f"docker-archive:{path}:mine:one", f"oci-archive:{path}:docker.io/library/mine:one"):
        done = subprocess.run(["skopeo", "inspect", source], capture_output=True, text=True, check=False)
        if done.returncode and source.startswith("oci"):
            done = subprocess.run(
                ["skopeo", "inspect", f"oci-archive:{path}:one"], capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["Layers"]) == 2


def test_removed_while_it_is_saved(tmp_path):
    """Whoever saves gets the whole image, and what was removed meanwhile is collected when he is done."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        whole = await saved(engine, "box")
        async with engine.images.save(["box"]) as stream, aclosing(stream):
            first = await anext(stream)
            await engine.images.remove("box")
            data = first + b"".join([chunk async for chunk in stream])
        assert data == whole
        store = engine.images._store
        assert not any(store.has_blob(f"sha256:{name}") for name in _blob_names(whole))


def _blob_names(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [name[13:] for name in archive.getnames() if len(name) == 77]


def test_import(tmp_path):
    @engines.scene(tmp_path)
    async def scene(engine):
        about = About(
            config={"Cmd": ["cat", "/x"]}, created="2026-01-01T00:00:00Z", comment="Imported from -"
        )
        root = images.tar([images.member("x", b"imported\n"), images.member("a/.wh.b", b"")])
        image = await engine.images.import_root(
            chunks(gzip.compress(root)), about, normalise("imp:t"), ("arm64", "v8")
        )
        view = await engine.images.inspect("imp:t")
        assert (view.id, view.architecture, view.variant, view.comment) == (
            image,
            "arm64",
            "v8",
            "Imported from -",
        )
        assert view.config.command == ("cat", "/x")
        made = await engine.containers.create(engines.spec(image="imp:t", command=None), "cc")
        _, found = await get(engine, "cc", "/x")
        assert found["x"].content == b"imported\n"
        for bad in (b"junk" * 300, gzip.compress(root)[:-10], images.tar([images.member("../x", b"")])):
            with pytest.raises(InvalidInput):
                await engine.images.import_root(chunks(bad), about)
        assert {v.id for v in await engine.images.list() if not v.synthetic} == {image}
        assert made.id
        actions = [e.action for e in engine.events._ring if e.type == "image"]
        assert actions[-2:] == ["tag", "import"]


def test_what_it_costs_and_prunes(tmp_path):
    """Sizes as Docker counts them; a prune takes what nobody uses; one of a kind at a time."""

    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        code, _ = await engines.run(engine, "head -c 5000 /dev/zero >/f", image="box", name="cc")
        assert code == 0
        assert await engine.files.size("cc") == 5000
        await engine.files.commit("cc", CommitRequest(repository="mine", changes=("LABEL k=v",)))
        box, mine = (await engine.images.inspect("box"), await engine.images.inspect("mine"))
        total, shared = engine.images.usage()
        assert mine.size == box.size + 5000
        assert (shared[box.id], shared[mine.id]) == (box.size, box.size)
        assert total >= mine.size
        with engine.images._pruning, pytest.raises(Conflict, match="a prune operation is already running"):
            await engine.images.prune()
        for filters in ({"dangling": ["maybe"]}, {"until": ["1h", "2h"]}, {"until": ["x"]}, {"nope": ["x"]}):
            with pytest.raises(InvalidInput):
                await engine.images.prune(filters)
        for filters in (
            {},
            {"dangling": ["false"], "label": ["none"]},
            {"dangling": ["false"], "until": ["1h"], "label": ["k=v"]},
        ):
            assert await engine.images.prune(filters) == ([], 0)
        removed, reclaimed = await engine.images.prune({"dangling": ["false"], "label": ["k=v"]})
        assert removed[:2] == [{"Untagged": "mine:latest"}, {"Deleted": mine.id}]
        assert (len(removed), reclaimed) == (3, 5000)
        assert await engine.images.prune({"dangling": ["false"]}) == ([], 0)  # cc uses box
        assert (await engine.containers.prune({"until": ["1h"]})) == ([], 0)
        ids, reclaimed = await engine.containers.prune()
        assert (len(ids), reclaimed) == (1, 5000)
        removed, reclaimed = await engine.images.prune({"dangling": ["false"]})
        assert reclaimed == box.size
        pruned = [(e.type, e.attributes["reclaimed"]) for e in engine.events._ring if e.action == "prune"]
        assert pruned[-1] == ("image", str(box.size))


POINTS = ("image.layer.spooled", "image.layer.committed", "image.blob.committed", "image.new.written", "image.layers.recorded", "image.image.recorded")  # fmt: skip


def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path):
    @engines.scene(tmp_path)
    async def scene(engine):
        await load_busybox(engine)
        await engines.run(engine, "echo x >/f", image="box", name="cc")
        assert await engine.images.inspect("host.local/base")  # it is made beside all else
        before = await _state(engine)
        for point in POINTS:
            failpoints.configure(f"{point}=error")
            try:
                with pytest.raises(OSError, match="failpoint"):
                    await engine.files.commit("cc", CommitRequest(repository="mine"))
            finally:
                failpoints.configure("")
            if point == "image.image.recorded":
                await engine.images.prune()
            assert await _state(engine) == before, point
        await engine.files.commit("cc", CommitRequest(repository="mine"))
        assert members(await saved(engine, "mine"))


async def _state(engine):
    store = engine.images._store
    await engine.images._gate.collect()
    return sorted(os.listdir(store._blobs)), sorted(os.listdir(store.layers)), os.listdir(store._ingest)
