"""A newer Docker daemon to compare answers with than the one that Debian stable installs.

`programs()` fetches Debian trixie's docker.io (26.1.5) and containerd as files into ~/.cache/pystack-tests, without
installing them; its runc wants a newer libc, so the installed one is used. Where that cannot be done it returns None,
and the installed dockerd is the peer.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import images

_FETCH = r"""
set -eu
mkdir -p lists/partial cache/archives/partial parts root
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    sed -n 's/^URIs: *//p; s/^deb .*\(http[^ ]*\).*/\1/p' | grep -v security | head -1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > src.list
options="-qq -o Dir::Etc::SourceList=$PWD/src.list -o Dir::Etc::SourceParts=$PWD/parts -o Dir::State::Lists=$PWD/lists
 -o Dir::Cache=$PWD/cache -o APT::Sandbox::User=root"
apt-get $options update
apt-get $options download docker.io containerd
for package in *.deb; do dpkg -x "$package" root; done
root/usr/sbin/dockerd --version
root/usr/bin/containerd --version
"""


def programs() -> Path | None:
    """The folder that has `dockerd` and what it starts, to be put first in PATH."""
    place = images.CACHE / "docker-trixie"
    if not place.exists():
        images.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="docker-", dir=images.CACHE) as temporary:
            done = subprocess.run(
                ["sh", "-c", _FETCH],
                cwd=temporary,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode:
                return None
            made = Path(temporary, "bin")
            made.mkdir()
            for folder in ("usr/bin", "usr/sbin"):
                for program in Path(temporary, "root", folder).iterdir():
                    if program.name != "runc":
                        shutil.move(program, made / program.name)
            made.rename(place)
    return place
