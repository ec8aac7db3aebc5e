"""docker cp, diff, export, import, commit, save, load, df and prune, by the real client."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import harness
import images
import pytest

from pystack.cli.client import ApiError

pytestmark = pytest.mark.clients


def raw(daemon: harness.Engine, *arguments: str, data: bytes = b"", status: int = 0) -> bytes:
    """Standard output of the client as bytes, with `data` on its standard input."""
    done = subprocess.run(
        ["docker", *arguments],
        env=daemon.environment | {"DOCKER_HOST": daemon.environment["PYSTACK_HOST"]},
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def sleeper(daemon: harness.Engine, name: str, *options: str) -> None:
    daemon.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "1000")


def sh(daemon: harness.Engine, name: str, script: str) -> str:
    return daemon.docker("exec", name, "sh", "-c", script).stdout


def test_cp_both_ways(daemon: harness.Engine, tmp_path: Path) -> None:
    """Files, folders, links and streams, as the manual of docker cp says; the container runs, then it does not."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content")
    (source / "sub" / "deep").write_text("deep")
    (source / "link").symlink_to("file")
    os.chown(source / "file", 1234, 1235)
    sleeper(daemon, "cc", "-u", "33:33", "-v", "files:/vol", "--tmpfs", "/fast")
    daemon.docker("cp", f"{source}/file", "cc:/root/")
    daemon.docker("cp", f"{source}/file", "cc:/root/renamed")
    daemon.docker("cp", "-a", f"{source}/file", "cc:/tmp/mine")
    daemon.docker("cp", str(source), "cc:/new")
    daemon.docker("cp", f"{source}/.", "cc:/vol")
    daemon.docker("cp", f"{source}/file", "cc:/fast/")
    daemon.docker("cp", "-L", f"{source}/link", "cc:/root/followed")
    daemon.docker("cp", f"{source}/link", "cc:/root/link")
    assert (
        sh(daemon, "cc", "stat -c '%u:%g' /tmp/mine; cat /fast/file /new/sub/deep /vol/sub/deep")
        == "33:33\ncontentdeepdeep"
    )
    daemon.docker(
        "exec",
        "-u",
        "0",
        "cc",
        "sh",
        "-c",
        "ln -s /vol /root/there; ln -s nowhere /root/broken; chmod 640 /root/file",
    )
    for turn in ("running", "ended"):
        target = tmp_path / turn
        target.mkdir()
        daemon.docker("cp", "cc:/root/file", str(target))
        daemon.docker("cp", "cc:/vol", str(target))
        daemon.docker("cp", "cc:/vol/.", f"{target}/flat")
        daemon.docker("cp", "cc:/root/there", f"{target}/link")
        daemon.docker("cp", "-L", "cc:/root/there", f"{target}/followed")
        assert (target / "file").read_text() == "content"
        assert ((target / "file").stat().st_mode & 0o7777) == 0o640
        for name in ("vol/sub/deep", "flat/sub/deep", "followed/sub/deep"):
            assert (target / name).read_text() == "deep", name
        assert os.readlink(target / "link") == "/vol"
        assert os.readlink(target / "vol" / "link") == "file"
        with tarfile.open(fileobj=io.BytesIO(raw(daemon, "cp", "cc:/new", "-"))) as archive:
            assert archive.getnames() == ["new", "new/file", "new/link", "new/sub", "new/sub/deep"]
        raw(daemon, "cp", "-", "cc:/root", data=images.tar([images.member(f"piped-{turn}", b"1")]))
        assert raw(daemon, "cp", f"cc:/root/piped-{turn}", "-")
        said = daemon.docker("cp", "cc:/nothing", str(target), check=False).stderr
        assert "Could not find the file /nothing in container cc" in said
        said = daemon.docker("cp", f"{source}/file", "cc:/nothing/", check=False).stderr
        assert "no such directory" in said or "Could not find" in said
        said = daemon.docker("cp", str(source), "cc:/root/file", check=False).stderr
        assert "cannot copy directory" in said
        daemon.docker("kill", "cc", check=False)
        daemon.docker("wait", "cc")
    changed = dict(line.split(" ")[::-1] for line in daemon.docker("diff", "cc").stdout.splitlines())
    assert changed["/new/sub/deep"] == "A"
    assert changed["/root"] == "C"
    assert "/vol/sub" not in changed


def test_images_made_of_containers(daemon: harness.Engine, tmp_path: Path) -> None:
    """commit, history, save and load; export and import; what they cost, and prunes."""
    sleeper(daemon, "cc")
    sh(daemon, "cc", "mkdir /srv; head -c 100000 /dev/zero >/srv/zeros; rm /etc/group")
    made = daemon.docker(
        "commit", "-m", "hello", "-a", "me", "-c", 'CMD ["ls", "/srv"]', "-c", "LABEL k=v", "cc", "mine:one"
    ).stdout
    assert made.startswith("sha256:")
    assert daemon.docker("run", "--rm", "mine:one").stdout == "zeros\n"
    assert "hello" in daemon.docker("history", "mine:one").stdout
    archive = tmp_path / "saved.tar"
    daemon.docker("save", "-o", str(archive), "mine:one", "busybox")
    daemon.docker("rmi", "mine:one")
    assert "Loaded image: mine:one" in daemon.docker("load", "-i", str(archive)).stdout
    assert daemon.docker("inspect", "-f", "{{.Id}}", "mine:one").stdout == made
    exported = raw(daemon, "export", "cc")
    imported = raw(
        daemon, "import", "-c", "CMD cat /etc/passwd", "-m", "note", "-", "imported:1", data=exported
    ).decode()
    assert imported.startswith("sha256:")
    assert "nobody" in daemon.docker("run", "--rm", "imported:1").stdout
    assert (
        "no such file"
        in daemon.docker("run", "--rm", "imported:1", "cat", "/etc/group", check=False).stderr.lower()
    )
    sizes = json.loads(daemon.docker("inspect", "-s", "cc").stdout)[0]
    assert sizes["SizeRw"] == 100_000
    usage = daemon.client.get("/system/df")
    shared = {tag: image for image in usage["Images"] for tag in image["RepoTags"]}
    assert shared["mine:one"]["SharedSize"] == shared["busybox:latest"]["Size"]
    assert [c["SizeRw"] for c in usage["Containers"]] == [100_000]
    assert "100kB" in daemon.docker("system", "df", "-v").stdout
    daemon.docker("rmi", "imported:1")
    assert (
        "Total reclaimed space: 100kB"
        in daemon.docker("image", "prune", "-af", "--filter", "label=k=v").stdout
    )
    daemon.docker("kill", "cc")
    daemon.docker("wait", "cc")
    daemon.docker("volume", "create", "--label", "l", "spare")
    said = daemon.docker("system", "prune", "-f").stdout
    assert "Total reclaimed space: 100kB" in said
    assert "spare" in daemon.docker("volume", "prune", "-af", "--filter", "label=l").stdout


def test_what_needs_a_registry_or_a_builder_says_what_to_do(daemon: harness.Engine) -> None:
    """Not a 404 and not a traceback: a sentence, and a way out."""
    paths = (
        ("GET", "/images/search?term=x"),
        ("GET", "/distribution/busybox/json"),
        ("POST", "/images/busybox/push"),
        ("POST", "/build"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("POST", "/auth"),
        ("POST", "/images/create?fromImage=redis&tag=7"),
        ("POST", "/images/create?fromSrc=http://example.org/x.tar"),
    )
    for method, path in paths:
        with pytest.raises(ApiError) as caught:
            daemon.client.request(method, path).read()
        error = caught.value
        assert error.status in {404, 501}, path
        assert str(error).startswith("cannot "), path
        assert any(way in str(error) for way in ("docker load", "docker import", "docker commit")), path
    said = daemon.docker("pull", "redis:7", check=False)
    assert "cannot pull redis:7" in said.stderr
