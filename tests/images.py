"""Small images for tests, made in Python: layers, docker-archives, OCI layouts, and a real busybox.

`busybox_archive(path)` writes what `docker load` takes; `busybox_root()` is the same tree unpacked. The program is built
once from Debian's source (about a minute) and kept below ~/.cache/pystack-tests. Where it cannot be built the test is
skipped with the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pystack-tests"
EPOCH = 1_700_000_000

_BUILD = r"""
set -eu
mkdir -p lists/partial cache/archives/partial parts
# The machine's own package sources, asked for source packages.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >> src.list
done
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" > "parts/${file##*/}"
done
touch src.list
options="-qq -o Dir::Etc::SourceList=$PWD/src.list -o Dir::Etc::SourceParts=$PWD/parts -o Dir::State::Lists=$PWD/lists
 -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root"
apt-get $options update
apt-get $options source --download-only busybox
mkdir tree
tar xf busybox_*.orig.tar.bz2 --strip-components=1 -C tree
cd tree
make defconfig
sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
(yes "" || true) | make oldconfig
make -j"$(nproc)" busybox
cp busybox ../busybox
"""


def busybox() -> Path:
    """The path of a static busybox with every default applet."""
    binary = CACHE / "busybox"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="busybox-", dir=CACHE) as place:
            done = subprocess.run(
                ["sh", "-c", _BUILD], cwd=place, capture_output=True, text=True, timeout=600, check=False
            )
            if done.returncode:
                pytest.skip(f"busybox cannot be built here: {done.stderr[-300:]}")
            Path(place, "busybox").rename(binary)
    return binary


# Layers: a tar in memory from (name, content) pairs


def member(
    name: str,
    content: bytes = b"",
    *,
    type: bytes = tarfile.REGTYPE,
    mode: int | None = None,
    link: str = "",
    uid: int = 0,
    gid: int = 0,
    pax: Mapping[str, str] | None = None,
    device: tuple[int, int] = (0, 0),
    mtime: int = EPOCH,
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = type
    info.size = len(content)
    info.mode = mode if mode is not None else (0o755 if type == tarfile.DIRTYPE else 0o644)
    info.linkname = link
    info.uid, info.gid, info.mtime = uid, gid, mtime
    info.devmajor, info.devminor = device
    info.pax_headers = dict(pax or {})
    return info, content


def directory(name: str, mode: int = 0o755, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, link=target, mode=0o777, **more)


def hardlink(name: str, target: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, link=target, mode=mode)


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """The bytes of a tar. Names are taken as they are: hostile ones, too."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


# Images


def image_config(layers: Sequence[bytes], config: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """The config JSON of an image with these uncompressed layers."""
    body = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.678901234Z",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [
            {"created": "2026-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))
        ],
    }
    return json.dumps(body | more).encode()


def docker_archive(
    layers: Sequence[bytes],
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    *,
    stored: Sequence[bytes] | None = None,
) -> bytes:
    """What `docker save` writes (blobs below blobs/sha256, manifest.json last). `stored`: the layers as compressed."""
    text = image_config(layers, config)
    files = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in [*(stored or layers), text]}
    manifest = [
        {
            "Config": f"blobs/sha256/{digest(text)[7:]}",
            "RepoTags": list(tags) or None,
            "Layers": [f"blobs/sha256/{digest(blob)[7:]}" for blob in stored or layers],
        }
    ]
    return tar(
        [member(name, blob) for name, blob in files.items()]
        + [member("manifest.json", json.dumps(manifest).encode())]
    )


def oci_archive(
    layers: Sequence[bytes],
    name: str = "",
    config: Mapping[str, Any] | None = None,
    *,
    stored: Sequence[bytes] | None = None,
    compression: str = "",
) -> bytes:
    """An OCI image layout in a tar; `name` becomes the annotation io.containerd.image.name."""
    text = image_config(layers, config)
    blobs = list(stored or layers)
    kind = "application/vnd.oci.image.layer.v1.tar" + (f"+{compression}" if compression else "")
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(text),
                "size": len(text),
            },
            "layers": [{"mediaType": kind, "digest": digest(blob), "size": len(blob)} for blob in blobs],
        }
    ).encode()
    entry: dict[str, Any] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest),
        "size": len(manifest),
    }
    if name:
        entry["annotations"] = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in [*blobs, text, manifest]}
    files |= {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    return tar([member(path, blob) for path, blob in files.items()])


_PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
_GROUP = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"


def busybox_layer() -> bytes:
    """The one layer of the busybox image: /bin with a link for each applet, /etc, empty places."""
    binary = busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    members = [
        directory(name) for name in ("bin", "etc", "home", "usr", "usr/bin", "usr/sbin", "var", "var/spool")
    ]
    members += [directory("root", 0o700), directory("tmp", 0o1777), directory("var/tmp", 0o1777)]
    members.append(member("bin/busybox", binary.read_bytes(), mode=0o755))
    members += [hardlink(f"bin/{applet}", "bin/busybox") for applet in applets if applet != "busybox"]
    members.append(symlink("usr/bin/env", "../../bin/env"))
    members += [
        member("etc/passwd", _PASSWD.encode()),
        member("etc/group", _GROUP.encode()),
        member("etc/nsswitch.conf", b"hosts: files dns\n"),
    ]
    return tar(members)


BUSYBOX_CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}


def busybox_archive(path: Path | str, tag: str = "busybox:latest") -> Path:
    """Write a docker-archive of a busybox image, ready for `docker load -i`."""
    archive = docker_archive([busybox_layer()], [tag], BUSYBOX_CONFIG)
    Path(path).write_bytes(archive)
    return Path(path)


def busybox_root() -> Path:
    """The busybox image's tree, unpacked once and shared: use it read-only (as a lower directory)."""
    root = CACHE / "busybox-root-1"
    if not root.exists():
        layer = io.BytesIO(busybox_layer())
        with tempfile.TemporaryDirectory(prefix="root-", dir=CACHE) as place:
            made = Path(place, "root")
            made.mkdir()
            with tarfile.open(fileobj=layer) as archive:
                archive.extractall(made, filter="fully_trusted")
            made.rename(root)
    return root


if __name__ == "__main__":  # scripts/test builds it before any test's clock runs
    print(busybox())
