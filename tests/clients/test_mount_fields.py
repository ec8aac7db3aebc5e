"""Every field of a mount, through the real docker client: what the container sees, and what is refused in which words."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import SECRET, Daemon, hostile_daemon  # noqa: F401 - the fixture `daemon`

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]


def test_subpaths_of_volumes(daemon: Daemon) -> None:
    """A subpath is a place below the volume's top, whatever links the volume holds."""
    daemon.docker("volume", "create", "tree")
    fill = "mkdir -p /v/a/b; echo deep > /v/a/b/f; ln -s a /v/inside; ln -s /a /v/absolute; ln -s ../../.. /v/up; echo file > /v/x"
    daemon.sh(f"{fill}; ln -s {daemon.canary} /v/out; ln -s /proc/self/fd /v/magic", "-v", "tree:/v")

    def mount(subpath: str, more: str = "") -> tuple[str, str]:
        return ("--mount", f"type=volume,src=tree,dst=/m,volume-subpath={subpath}{more}")

    for subpath in ("a/b", "inside/b", "a/./b/", "a/../a/b"):
        assert daemon.sh("cat /m/f; ls /m", *mount(subpath)) == "deep\nf\n"
    assert daemon.sh("cat /m", *mount("x")) == "file\n"
    assert "Read-only file system" in daemon.sh("touch /m/n", *mount("a", ",readonly"), check=False)
    daemon.begin("--name", "sub", *mount("a/b"))
    assert daemon.inspect("sub")["HostConfig"]["Mounts"][0]["VolumeOptions"] == {"Subpath": "a/b"}
    daemon.restart()
    assert daemon.exec("sub", "cat", "/m/f") == "deep\n"
    daemon.docker("restart", "-t", "0", "sub")
    assert daemon.exec("sub", "cat", "/m/f") == "deep\n"
    daemon.docker("rm", "-f", "sub")
    for subpath in ("out", "up", "absolute", "out/token", "magic/0", "missing"):
        said = daemon.refused(*mount(subpath), "box", "true")
        assert "cannot use its subpath" in said, (subpath, said)
        assert SECRET not in said
    for subpath in ("/a", "../tree", "a/../../x"):
        assert "must be a relative path within the volume" in daemon.refused(*mount(subpath), "box", "true")
    anonymous = daemon.refused("--mount", "type=volume,dst=/m,volume-subpath=a", "box", "true")
    assert "must not set Subpath when using anonymous volumes" in anonymous


def test_a_subpath_that_changes_meanwhile(daemon: Daemon) -> None:
    """A container that swaps a directory for a link to the host never gets more than its volume."""
    daemon.docker("volume", "create", "race")
    daemon.sh("mkdir -p /v/d", "-v", "race:/v")
    swap = f"while :; do rm -rf /v/s; ln -s {daemon.canary} /v/s; rm -f /v/s; mkdir /v/s; done"
    daemon.begin("--name", "swap", "-v", "race:/v", command=("sh", "-c", swap))
    found = []

    def look() -> None:
        for _ in range(4):
            mount = ("--mount", "type=volume,src=race,dst=/m,volume-subpath=s")
            done = daemon.docker(
                "run", "--rm", *mount, "box", "sh", "-c", "cat /m/token; touch /m/made", check=False
            )
            found.append(done.stdout + done.stderr)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    daemon.docker("rm", "-f", "swap")
    assert len(found) == 8
    assert not [text for text in found if SECRET in text]
    assert daemon.canary_is_whole()


def test_images_as_mounts(daemon: Daemon) -> None:
    """Its files, a layer of the container's own above them, and the image stays while the container is there."""
    whole = ("--mount", "type=image,src=evil:ps,dst=/i")
    below = ("--mount", "type=image,src=evil:ps,dst=/b,image-subpath=bin")
    daemon.begin("--name", "eye", *whole, *below, "--mount", "type=image,src=evil:ps,dst=/r,readonly")
    script = "ls /i/etc /b/tar; echo mine > /i/new; echo more >> /b/nsenter; touch /r/x; ls /dev/mapper"
    said = daemon.exec("eye", "sh", "-c", f"exec 2>&1; {script}", check=False)
    assert "/b/tar" in said
    assert "touch: /r/x: Read-only file system" in said
    daemon.docker("restart", "-t", "0", "eye")
    daemon.restart()
    assert daemon.exec("eye", "cat", "/i/new", "/b/nsenter") == "mine\n#!/bin/sh\n: > /marker\nmore\n"
    assert daemon.sh("cat /bin/nsenter", image="evil:ps") == "#!/bin/sh\n: > /marker\n"
    assert daemon.sh("cat /i/bin/nsenter; ls /i/new", *whole, check=False).splitlines()[1] == ": > /marker"
    assert "is using" in daemon.docker("rmi", "evil:ps", check=False).stderr
    mounts = {mount["Destination"]: mount for mount in daemon.inspect("eye")["Mounts"]}
    assert (mounts["/i"]["Type"], mounts["/i"]["RW"], mounts["/r"]["RW"]) == ("image", True, False)
    daemon.docker("rm", "-f", "eye")
    assert daemon.canary.name not in "".join(os.listdir(daemon.instance.root))
    for subpath in ("../etc", "/etc"):
        wrong = f"type=image,src=evil:links,dst=/i,image-subpath={subpath}"
        assert "must be a relative path" in daemon.refused("--mount", wrong, "box", "true")
    out = daemon.refused("--mount", "type=image,src=evil:links,dst=/i,image-subpath=evil", "box", "true")
    assert "cannot use its subpath" in out
    host = daemon.refused("--mount", "type=image,src=host.local/base,dst=/i", "box", "true")
    assert "this host's own files" in host
    daemon.refused("--mount", "type=image,src=nope:1,dst=/i", "box", "true")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host's, with a mount below it."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", place], check=True)
    subprocess.run(["mount", "--make-shared", place], check=True)
    (place / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "y", place / "sub"], check=True)
    yield place
    subprocess.run(["umount", "-R", place], check=True)
    shutil.rmtree(place)


def test_propagation_of_binds(daemon: Daemon, shared: Path, tmp_path: Path) -> None:
    def late(name: str) -> None:
        (shared / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", name, shared / name], check=True)

    for mode in ("", ":rslave", ":rshared", ":slave", ":private"):
        daemon.begin("--name", f"prop{mode[1:]}", "--cap-add", "SYS_ADMIN", "-v", f"{shared}:/m{mode}")
    late("late")
    for mode, sees in (("", 0), ("rslave", 1), ("rshared", 1), ("slave", 1), ("private", 0)):
        count = daemon.exec(
            f"prop{mode}", "grep", "-c", " /m/late ", "/proc/self/mountinfo", check=False
        ).strip()
        assert int(count) == sees, mode
    inner = "mkdir /m/inner; mount -t tmpfs in /m/inner"
    daemon.exec("proprslave", "sh", "-c", inner)
    assert "/inner " not in Path("/proc/self/mountinfo").read_text()
    daemon.exec("proprshared", "sh", "-c", "mount -t tmpfs in /m/inner")
    assert "/inner " in Path("/proc/self/mountinfo").read_text()
    for mode in ("", "rslave", "rshared", "slave", "private"):
        daemon.docker("rm", "-f", f"prop{mode}")
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", lonely], check=True)
    subprocess.run(["mount", "--make-private", lonely], check=True)
    try:
        said = daemon.refused("-v", f"{lonely}:/m:rshared", "box", "true")
        assert f"path {lonely} is mounted on {lonely} but it is not a shared mount" in said
        said = daemon.refused("-v", f"{lonely}:/m:rslave", "box", "true")
        assert "but it is not a shared or slave mount" in said
    finally:
        subprocess.run(["umount", lonely], check=True)


def test_read_only_binds(daemon: Daemon, shared: Path) -> None:
    script = "touch /m/f; touch /m/sub/f; ls /m/sub"

    def try_(options: str) -> list[str]:
        said = daemon.sh(script, "--mount", f"type=bind,src={shared},dst=/m,readonly,{options}", check=False)
        return [line.rpartition(": ")[2] for line in said.splitlines() if line.startswith("touch")]

    readonly = "Read-only file system"
    assert try_("bind-propagation=rprivate") == [readonly, readonly]
    assert try_("bind-recursive=readonly,bind-propagation=rprivate") == [readonly, readonly]
    assert try_("bind-recursive=writable") == [readonly]
    (shared / "sub" / "f").unlink()
    assert try_("bind-recursive=disabled") == [readonly, readonly]
    assert daemon.sh("ls /m/sub", "-v", f"{shared}:/m:ro,z") == ""
    missing = daemon.refused("--mount", f"type=bind,src={shared}/none,dst=/m", "box", "true")
    assert "bind source path does not exist" in missing
    daemon.sh("true", "-v", f"{shared}/made/below:/m:Z")
    assert (shared / "made/below").stat().st_mode & 0o7777 == 0o755


def test_tmpfs_options_and_modes(daemon: Daemon) -> None:
    """As runc: an existing directory gives its mode, a new one the kernel's; options are checked at create."""
    script = "for d in /root /tmp /new /asked; do stat -c '%n %a %u' $d; done; grep ' /asked ' /proc/mounts"
    options = ("--tmpfs", "/root", "--tmpfs", "/tmp", "--tmpfs", "/new", "--tmpfs")
    said = daemon.sh(script, *options, "/asked:mode=701,size=64k,uid=7,exec").splitlines()
    assert said[:2] == [daemon.sh(f"stat -c '%n %a %u' {name}").strip() for name in ("/root", "/tmp")]
    assert said[2:4] == ["/new 1777 0", "/asked 701 7"]
    assert {"rw", "nosuid", "nodev", "size=64k"} <= set(said[4].split()[3].split(","))
    assert "noexec" not in said[4]
    mount = "type=tmpfs,dst=/asked,tmpfs-mode=700,tmpfs-size=1m"
    assert "size=1024k" in daemon.sh("grep ' /asked ' /proc/mounts", "--mount", mount)
    assert "Invalid tmpfs option" in daemon.refused("--tmpfs", "/x:nonsense", "box", "true")
    assert "Invalid tmpfs option" in daemon.refused("--tmpfs", "/x:size", "box", "true")


def test_volumes_from(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("bound")
    (tmp_path / "f").chmod(0o644)
    daemon.begin(
        "--name", "donor", "-v", "given:/v", "-v", "/anon", "-v", f"{tmp_path}:/b:ro", "--tmpfs", "/t"
    )
    daemon.exec("donor", "sh", "-c", "echo data > /v/f; echo x > /anon/f; echo t > /t/f")
    read = "cat /v/f /anon/f /b/f; ls /t; touch /v/w /b/w"
    said = daemon.sh(read, "--volumes-from", "donor", check=False)
    assert said.startswith("data\nx\nboundls: /t: No such file")
    assert said.count("Read-only file system") == 1
    said = daemon.sh(read, "--volumes-from", "donor:ro", check=False)
    assert said.count("Read-only file system") == 2
    assert "invalid mode" in daemon.refused("--volumes-from", "donor:rx", "box", "true")
    daemon.docker("rm", "-fv", "donor")
