"""host.local/base: an image that is the host's own /usr, read-only, over a fresh skeleton. Ready in a moment, no download.

In: the host. Out: a layer (the skeleton), an image record, and the binds that every container of it gets: /usr, the
top-level directories that are not links into it, and the Python installation that runs pystack. What could hold secrets
below them is covered by an empty file or directory (`masks`). The image is made anew when the facts it came from change.

Rule for masks. Covered: a directory that not everyone may list and enter; a file that not everyone may read, unless it is
a program; sockets, FIFOs and devices; the places for local configuration (`CONFIGURATION`) and files by the names in which
tools keep credentials (`CREDENTIALS`). Root in a container could read all of these; nobody else on the host is meant to.
Code is a program whatever its mode (`CODE`), and trees of manuals and the like are public (`PUBLIC_TREES`): neither is
looked at, which halves the time. The look is repeated when one of the `_WITNESSES` has changed: a secret that is put deep
below /usr by hand is covered from then on, not at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pystack.image import hostskeleton
from pystack.image.records import ImageRecord, LayerRecord
from pystack.image.store import Store

REFERENCE = "host.local/base:latest"
REASON = "it is the host's own /usr: what it holds belongs to this host"

#: Changes whenever this module makes another image from the same host.
_RECIPE = 1
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32")
CONFIGURATION = ("/usr/local/etc", "/usr/etc")
CREDENTIALS = frozenset(
    {
        ".netrc",
        ".pypirc",
        ".npmrc",
        "npmrc",
        "pip.conf",
        ".git-credentials",
        ".env",
        ".htpasswd",
        "credentials.json",
    }
)
CODE = (
    ".py",
    ".pyc",
    ".pyi",
    ".pyx",
    ".pxd",
    ".h",
    ".hpp",
    ".hh",
    ".so",
    ".a",
    ".o",
    ".js",
    ".pm",
    ".mo",
    ".png",
    ".svg",
)
PUBLIC_TREES = frozenset(
    {"/usr/include"}
    | {f"/usr/share/{name}" for name in ("man", "locale", "icons", "zoneinfo", "info", "help")}
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: Their change means that programs or files of the host have changed (dpkg, rpm, apk, pacman; and by hand).
_WITNESSES = (
    "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/local", "/usr/local/bin", "/usr/local/lib",
    "/usr/local/share", "/var/lib/dpkg/status", "/var/lib/rpm", "/usr/lib/sysimage/rpm", "/lib/apk/db/installed",
    "/var/lib/pacman/local", "/etc/alternatives", "/etc/ssl/certs", "/etc/ld.so.conf.d",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the image depends on. `links` and `directories` are top-level names; `python` "" when it lies below /usr."""

    links: tuple[tuple[str, str], ...]
    directories: tuple[str, ...]
    python: str
    witnesses: tuple[tuple[str, int, int, int], ...]

    @property
    def key(self) -> str:
        text = json.dumps(
            [_RECIPE, self.links, self.directories, self.python, self.witnesses, platform.machine()]
        )
        return hashlib.sha256(text.encode()).hexdigest()


def read_facts() -> HostFacts:
    """Some thirty lstat calls."""
    links, directories = [], []
    for name in _TOP_LEVEL:
        if os.path.islink(f"/{name}"):
            links.append((name, os.readlink(f"/{name}")))
        elif os.path.isdir(f"/{name}"):
            directories.append(name)
    python = os.path.realpath(sys.base_prefix)
    below = python == "/" or python.startswith("/usr/") or python == "/usr"
    public = [f"/etc/{name}" for name in (*hostskeleton.PUBLIC_FILES, hostskeleton.BUNDLE)]
    prefix = [] if below else [python, f"{python}/bin", f"{python}/lib"]
    return HostFacts(
        links=tuple(links),
        directories=tuple(directories),
        python="" if below else python,
        witnesses=tuple(_witness(path) for path in (*_WITNESSES, *public, *prefix)),
    )


def _witness(path: str) -> tuple[str, int, int, int]:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return path, 0, 0, 0
    return path, info.st_ino, info.st_mtime_ns, info.st_size


def masks(top: str) -> Iterator[tuple[str, bool]]:
    """(path, whether it is a directory) of everything below `top` that the rule covers. Links are not followed."""
    pending = [top]
    while pending:
        place = pending.pop()
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = entry.name
                    if entry.is_symlink() or (name.endswith(CODE) and entry.is_file(follow_symlinks=False)):
                        continue
                    try:
                        mode = entry.stat(follow_symlinks=False).st_mode
                    except FileNotFoundError:
                        continue
                    if not stat.S_ISDIR(mode):
                        if _secret(name, mode):
                            yield f"{place}/{name}", False
                        continue
                    path = f"{place}/{name}"
                    if mode & 0o005 != 0o005 or path in CONFIGURATION:
                        yield path, True
                    elif path not in PUBLIC_TREES:
                        pending.append(path)
        finally:
            os.close(fd)


def _secret(name: str, mode: int) -> bool:
    if not stat.S_ISREG(mode) or name in CREDENTIALS:
        return True
    return not mode & 0o004 and not mode & 0o111


def survey(facts: HostFacts) -> list[tuple[str, bool]]:
    """What must be covered, as `masks` tells it: half a second for a /usr of 140,000 entries. For a worker thread."""
    return [found for top in _mounts(facts) for found in sorted(masks(top))]


def _mounts(facts: HostFacts) -> list[str]:
    return ["/usr", *(f"/{name}" for name in facts.directories), *([facts.python] if facts.python else [])]


def make(
    store: Store,
    facts: HostFacts,
    covered: list[tuple[str, bool]],
    created: str,
    before: ImageRecord | None = None,
) -> tuple[ImageRecord, list[LayerRecord]]:
    """Make the image and its layer; `covered` is from `survey`. Runs in a worker thread.

    `created` is RFC 3339. The id says what is in the skeleton and what is bound, so that a host where only programs changed
    (containers see that at once, below /usr) still has the image `before`: that is returned, with the new key. A layer that
    is made is durable; the caller records it, or `Store.collect` removes it.
    """
    mounts = _mounts(facts)
    covers = _covers(store)
    binds = [(path, path) for path in mounts]
    binds.extend((covers[directory], path) for path, directory in covered)
    with store.new_layer() as place:
        size = hostskeleton.make_skeleton(place, dict(facts.links), mounts)
        diff_id = _digest(place, binds)
        if before is not None and before.layers == (diff_id,):
            return replace(before, key=facts.key), []
        name = store.commit_layer(place, diff_id)
    store.sync()
    config = _config(facts, diff_id, created)
    image = ImageRecord(
        id="sha256:" + hashlib.sha256(config.encode()).hexdigest(),
        config=config,
        layers=(diff_id,),
        size=size,
        synthetic=REASON,
        key=facts.key,
        binds=tuple(binds),
    )
    return image, [LayerRecord(chain_id=diff_id, diff_id=diff_id, directory=name, size=size)]


def _digest(place: str, binds: list[tuple[str, str]]) -> str:
    """Digest of the skeleton's entries and of the binds."""
    digest = hashlib.sha256(json.dumps([_RECIPE, binds]).encode())
    for directory, names, files in os.walk(place):
        names.sort()
        for name in sorted([*names, *files]):
            path = f"{directory}/{name}"
            mode = os.lstat(path).st_mode
            digest.update(f"{path[len(place) :]}\0{mode:o}\0".encode(errors="surrogateescape"))
            if stat.S_ISLNK(mode):
                digest.update(os.readlink(os.fsencode(path)))
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    digest.update(hashlib.sha256(file.read()).digest())
    return "sha256:" + digest.hexdigest()


def _covers(store: Store) -> dict[bool, str]:
    """What masks are bound from: an empty directory (True) and an empty file (False) of the store, readable by all."""
    directory, file = f"{store.images}/cover", f"{store.images}/cover-file"
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o555)  # noqa: S103 - it is empty, and below a directory of mode 0700
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o444))
    os.chmod(file, 0o444)
    return {True: directory, False: file}


def _config(facts: HostFacts, diff_id: str, created: str) -> str:
    """The image config. The Python that runs pystack comes first in PATH: `python3` is one that is known to work."""
    path = ":".join((*([f"{facts.python}/bin"] if facts.python else []), *_PATH))
    machine = platform.machine()
    return json.dumps(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": created,
            "config": {"Env": [f"PATH={path}", "LANG=C.UTF-8"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [
                {"created": created, "created_by": "pystack: the host's /usr, read-only", "comment": REASON}
            ],
        },
        separators=(",", ":"),
    )
