"""host.local/base: programs of the host run in it, and nothing of the host that is private is in it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake.documents import MemoryDocuments

from pystack.image import hostbase, hostskeleton
from pystack.image.service import ImageService
from pystack.image.snapshots import RootSnapshot
from pystack.model.errors import Forbidden, NotFound

pytestmark = pytest.mark.kernel


class Base:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents = MemoryDocuments()
        begin = os.times().user
        self.service = self.opened()
        self.seconds = os.times().user - begin
        self.view = self.service.find("host.local/base")
        (root / "containers/c").mkdir(parents=True)
        self.snapshot: RootSnapshot = self.service.prepare("c", self.view.id)
        self.skeleton = Path(self.snapshot.lower[1])

    def opened(self) -> ImageService:
        async def act() -> ImageService:
            service = ImageService(str(self.root), self.documents, lambda *_: None)
            await service.open()
            await service.list()
            await service.close()
            return service

        return asyncio.run(act())

    def run(self, *argv: str, user: str = "") -> str:
        """Run a program in a root made of the snapshot, in a mount namespace of its own."""
        merged = self.root / "merged"
        merged.mkdir(exist_ok=True)
        snapshot = self.snapshot
        script = ["set -e", "mount --make-rprivate /"]
        options = f"lowerdir={':'.join(snapshot.lower)},upperdir={snapshot.upper},workdir={snapshot.work}"
        script.append(f"mount -t overlay overlay -o {options} {merged}")
        script += [f"mount --bind '{source}' '{merged}{target}'" for source, target in snapshot.binds]
        script.append(
            f"mount -t tmpfs tmpfs {merged}/dev && mknod -m 666 {merged}/dev/null c 1 3 && mknod -m 666 {merged}/dev/urandom c 1 9"
        )
        script.append(f'exec chroot {f"--userspec={user}" if user else ""} {merged} "$@"')
        path = next(item for item in self.view.config.env if item.startswith("PATH="))
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", "\n".join(script), "sh", *argv],
            env={"PATH": f"{path[5:]}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("hostbase"))


def test_it_is_an_image_like_others_that_cannot_leave_the_host(base: Base) -> None:
    assert base.seconds < 1.5  # 0.3 s of user time here, most of it the look for what must be covered
    assert base.view.repo_tags == ("host.local/base:latest",)
    assert base.view.synthetic
    with pytest.raises(Forbidden, match="cannot save or push host"):
        base.service.exportable("host.local/base")

    async def act() -> None:
        assert len(await base.service.history("host.local/base")) == 1
        with pytest.raises(NotFound, match="No such image: host") as caught:
            await base.service.ensure("host.local/other")
        assert caught.value.hint == "host.local has one image: host.local/base"
        assert (await base.service.ensure("host.local/base")).id == base.view.id

    asyncio.run(act())


@pytest.mark.parametrize("user", ["", "1000:1000"])
def test_python_and_the_shell_run_in_it(base: Base, user: str) -> None:
    program = "import ssl, sqlite3, sys, json; print(json.dumps([sys.base_prefix, list(sys.version_info[:2]), len(ssl.create_default_context().get_ca_certs()) >= 0]))"
    prefix, version, _ = json.loads(base.run("python3", "-c", program, user=user))
    assert os.path.realpath(prefix) == os.path.realpath(sys.base_prefix)
    assert version == list(sys.version_info[:2])
    assert (
        base.run("sh", "-c", "echo $((6 * 7)); ls -d /etc/os-release", user=user) == "42\n/etc/os-release\n"
    )
    assert base.run("id", "-un", "33", user=user) == "www-data\n"
    assert base.run("id", "-u", user=user) == ("1000\n" if user else "0\n")


def test_usr_cannot_be_written_and_the_rest_can(base: Base) -> None:
    # The engine mounts the binds read-only; the skeleton is the container's own to write.
    assert base.snapshot.binds[0] == ("/usr", "/usr")
    base.run("sh", "-c", "echo x > /etc/mine; echo x > /tmp/mine; echo x > /root/mine")
    assert (Path(base.snapshot.upper) / "etc/mine").exists()
    assert not Path("/etc/mine").exists()


def test_etc_holds_nothing_of_the_host_but_what_is_public(base: Base) -> None:
    """Every file outside /usr is one that we wrote, a listed public one, a certificate, or the linker's."""
    ours = {f"etc/{name}" for name in hostskeleton.TEXTS}
    public = {f"etc/{name}" for name in (*hostskeleton.PUBLIC_FILES, hostskeleton.BUNDLE)}
    host = os.uname().nodename
    for place, _, files in os.walk(base.skeleton):
        for name in files:
            path = Path(place, name)
            inside = str(path.relative_to(base.skeleton))
            if path.is_symlink():
                continue
            assert inside in ours | public or inside.startswith("etc/ld.so.conf.d/"), inside
            content = path.read_bytes()
            assert b"PRIVATE KEY" not in content
            if len(host) > 3:
                assert host.encode() not in content, inside
    for name in (
        "shadow",
        "gshadow",
        "machine-id",
        "hostname",
        "hosts",
        "resolv.conf",
        "ssh",
        "sudoers",
        "fstab",
    ):
        assert not os.path.lexists(base.skeleton / "etc" / name)
    bundle = (base.skeleton / "etc" / hostskeleton.BUNDLE).read_text()
    assert bundle.count("BEGIN CERTIFICATE") > 20
    for name in os.listdir(base.skeleton / "etc/alternatives"):
        assert (base.skeleton / "etc/alternatives" / name).is_symlink()


def test_nothing_private_below_usr_can_be_read(base: Base) -> None:
    covered = {target for source, target in base.snapshot.binds if source != target}
    assert all(os.path.lexists(path) for path in covered)
    if os.path.isdir("/usr/local/etc"):
        assert "/usr/local/etc" in covered
    for source, target in base.snapshot.binds:
        if source == target:
            for path, mode in files_below(target, covered):
                program = mode & 0o111 or path.endswith(hostbase.CODE)
                assert mode & 0o004 or program or path.startswith(tuple(hostbase.PUBLIC_TREES)), path
                assert os.path.basename(path) not in hostbase.CREDENTIALS, path
    assert base.run("ls", "-A", "/usr/local/etc") == ""


def files_below(top: str, covered: set[str]) -> Iterator[tuple[str, int]]:
    for place, directories, files in os.walk(top):
        directories[:] = [name for name in directories if os.path.join(place, name) not in covered]
        for name in files:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if path not in covered and not stat.S_ISLNK(mode):
                assert stat.S_ISREG(mode), path
                yield path, mode


def test_the_rule_of_masks(tmp_path: Path) -> None:
    top = tmp_path / "usr"
    for path, mode in {
        "open/a": 0o644,
        "open/secret": 0o640,
        "open/program": 0o750,
        "open/npmrc": 0o644,
        "x.js/pip.conf": 0o644,
        "shut/a": 0o644,
    }.items():
        file = top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        file.chmod(mode)
    (top / "shut").chmod(0o700)
    (top / "loop").symlink_to("/etc")
    os.mkfifo(top / "pipe")
    found = dict(hostbase.masks(str(top)))
    assert {path.removeprefix(f"{top}/"): directory for path, directory in found.items()} == {
        "open/secret": False, "open/npmrc": False, "x.js/pip.conf": False, "shut": True, "pipe": False,
    }  # fmt: skip


def test_the_skeleton_takes_only_certificates_and_public_files(tmp_path: Path) -> None:
    etc, place = tmp_path / "etc", tmp_path / "place"
    (etc / "ssl/certs").mkdir(parents=True)
    (etc / "ld.so.conf.d").mkdir()
    certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (etc / "ssl/certs/ca-certificates.crt").write_text(
        f"{certificate}-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n"
    )
    (etc / "ssl/certs/own.pem").write_text("key")
    (etc / "services").write_text("private")
    (etc / "services").chmod(0o600)
    (etc / "protocols").write_text("public")
    place.mkdir()
    hostskeleton.make_skeleton(str(place), {"bin": "usr/bin"}, ["/usr", "/root/here/python"], etc=str(etc))
    assert (place / "etc/ssl/certs/ca-certificates.crt").read_text() == certificate
    assert os.listdir(place / "etc/ssl/certs") == ["ca-certificates.crt"]
    assert not (place / "etc/services").exists()
    assert (place / "etc/protocols").read_text() == "public"
    for path in ("root", "root/here"):
        assert stat.S_IMODE((place / path).stat().st_mode) == 0o711
    assert stat.S_IMODE((place / "tmp").stat().st_mode) == 0o1777


def test_its_id_changes_only_with_what_is_in_it(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base.opened().find("host.local/base").id == base.view.id
    key = base.service._host_key()
    monkeypatch.setattr(hostbase, "_WITNESSES", (*hostbase._WITNESSES, "/etc"))
    same = base.opened()
    assert same.find("host.local/base").id == base.view.id
    assert same._host_key() != key
    monkeypatch.setattr(hostbase, "_RECIPE", 2)
    assert base.opened().find("host.local/base").id != base.view.id
    assert len(os.listdir(base.root / "layers")) == 3  # init, empty, and one skeleton
