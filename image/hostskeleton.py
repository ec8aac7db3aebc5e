"""The fresh part of host.local/base: /etc, /var, /root, /home, /tmp, /run and the mount points, made in a directory.

In: an empty directory of ours and what the host's /etc offers to the public. Out: the image's one layer. Only what
`PUBLIC_FILES`, `ld.so.conf.d`, `alternatives` (links only) and the CA certificates (certificates only) name is copied;
accounts, name service and profile are the static texts below. No shadow, key, machine-id, host name or resolver.
"""

from __future__ import annotations

import os
import re

from pystack.kernel.failpoints import failpoint

#: Files of the host's /etc that are copied: tables that ship with packages, and the linker's.
PUBLIC_FILES = ("ld.so.cache", "ld.so.conf", "mime.types", "protocols", "services")
LINKER_DIRECTORY = "ld.so.conf.d"
ALTERNATIVES = "alternatives"
CERTIFICATES = "ssl/certs"
BUNDLE = "ssl/certs/ca-certificates.crt"
_COPY_MAX = 8 << 20
_PEM = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END (?:TRUSTED )?CERTIFICATE-----\n?"
)

_ACCOUNTS = (
    ("root", 0, 0, "/root", "/bin/sh"),
    ("daemon", 1, 1, "/usr/sbin", ""),
    ("bin", 2, 2, "/bin", ""),
    ("sys", 3, 3, "/dev", ""),
    ("games", 5, 60, "/usr/games", ""),
    ("man", 6, 12, "/var/cache/man", ""),
    ("mail", 8, 8, "/var/mail", ""),
    ("www-data", 33, 33, "/var/www", ""),
    ("backup", 34, 34, "/var/backups", ""),
    ("nobody", 65534, 65534, "/nonexistent", ""),
)
_GROUPS = (
    ("root", 0), ("daemon", 1), ("bin", 2), ("sys", 3), ("adm", 4), ("tty", 5), ("disk", 6), ("mail", 8), ("man", 12),
    ("audio", 29), ("www-data", 33), ("backup", 34), ("shadow", 42), ("utmp", 43), ("video", 44), ("staff", 50),
    ("games", 60), ("users", 100), ("nogroup", 65534),
)  # fmt: skip

TEXTS = {
    "passwd": "".join(
        f"{name}:x:{uid}:{gid}:{name}:{home}:{shell or '/usr/sbin/nologin'}\n"
        for name, uid, gid, home, shell in _ACCOUNTS
    ),
    "group": "".join(f"{name}:x:{gid}:\n" for name, gid in _GROUPS),
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\nethers: files\nrpc: files\n",
    "shells": "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n",
    "profile": "umask 022\n",
    "timezone": "Etc/UTC\n",
}
_LINKS = {"os-release": "../usr/lib/os-release", "localtime": "/usr/share/zoneinfo/Etc/UTC"}

_DIRECTORIES = {
    "etc": 0o755, "etc/ld.so.conf.d": 0o755, "etc/alternatives": 0o755, "etc/ssl": 0o755, "etc/ssl/certs": 0o755,
    "dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "tmp": 0o1777, "usr": 0o755, "home": 0o755, "mnt": 0o755,
    "media": 0o755, "opt": 0o755, "srv": 0o755, "root": 0o700, "var": 0o755, "var/cache": 0o755, "var/lib": 0o755,
    "var/log": 0o755, "var/mail": 0o755, "var/spool": 0o755, "var/tmp": 0o1777, "var/www": 0o755,
}  # fmt: skip


def make_skeleton(place: str, links: dict[str, str], mounts: list[str], etc: str = "/etc") -> int:
    """Fill `place`. `links` are top-level symlinks (bin -> usr/bin), `mounts` absolute paths that must exist as
    directories for binds. Returns the bytes of the files made.
    """
    for name, mode in _DIRECTORIES.items():
        _mkdir(f"{place}/{name}", mode)
    for name, target in links.items():
        os.symlink(target, f"{place}/{name}")
    for path in mounts:
        _mount_point(place, path)
    os.symlink("../run", f"{place}/var/run")
    os.symlink("/run/lock", f"{place}/var/lock")
    size = sum(_write(f"{place}/etc/{name}", text.encode()) for name, text in TEXTS.items())
    for name, target in _LINKS.items():
        os.symlink(target, f"{place}/etc/{name}")
    size += sum(_copy(f"{etc}/{name}", f"{place}/etc/{name}") for name in PUBLIC_FILES)
    size += _linker_directory(etc, place)
    _alternatives(etc, place)
    size += _certificates(etc, place)
    failpoint("image.hostbase.skeleton")
    return size


def _mkdir(path: str, mode: int) -> None:
    os.mkdir(path, 0o700)
    os.chmod(path, mode)


def _mount_point(place: str, path: str) -> None:
    """An empty directory; the parents that have to be made, or are private, may be passed through but not listed."""
    at = place
    *parents, last = path.strip("/").split("/")
    for name in parents:
        at = f"{at}/{name}"
        if not os.path.isdir(at):
            _mkdir(at, 0o711)
        elif not os.stat(at).st_mode & 0o001:
            os.chmod(at, 0o711)  # noqa: S103 - so that users other than root reach what is bound below
    if not os.path.lexists(f"{at}/{last}"):
        _mkdir(f"{at}/{last}", 0o755)


def _write(path: str, content: bytes) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, 0o644)
    return len(content)


def _read_public(path: str) -> bytes | None:
    """The content of a regular file that every user of the host may read; None for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        # A regular file whose "others" bits allow reading: 0o100000 is S_IFREG.
        if info.st_mode & 0o170004 != 0o100004 or info.st_size > _COPY_MAX:
            return None
        return file.read()


def _copy(source: str, target: str) -> int:
    content = _read_public(source)
    return 0 if content is None else _write(target, content)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _linker_directory(etc: str, place: str) -> int:
    return sum(
        _copy(f"{etc}/{LINKER_DIRECTORY}/{name}", f"{place}/etc/{LINKER_DIRECTORY}/{name}")
        for name in _names(f"{etc}/{LINKER_DIRECTORY}")
        if name.endswith(".conf")
    )


def _alternatives(etc: str, place: str) -> None:
    for name in _names(f"{etc}/{ALTERNATIVES}"):
        if os.path.islink(f"{etc}/{ALTERNATIVES}/{name}"):
            os.symlink(os.readlink(f"{etc}/{ALTERNATIVES}/{name}"), f"{place}/etc/{ALTERNATIVES}/{name}")


def _certificates(etc: str, place: str) -> int:
    """The bundle, cut down to its certificates, and the links by which OpenSSL finds single ones below /usr."""
    bundle = _read_public(f"{etc}/{BUNDLE}")
    size = _write(f"{place}/etc/{BUNDLE}", b"\n".join(_PEM.findall(bundle))) if bundle else 0
    for name in _names(f"{etc}/{CERTIFICATES}"):
        source = f"{etc}/{CERTIFICATES}/{name}"
        if os.path.islink(source) and os.path.isfile(source):
            target = os.readlink(source)
            if target.startswith("/usr/") or "/" not in target:
                os.symlink(target, f"{place}/etc/{CERTIFICATES}/{name}")
    return size
