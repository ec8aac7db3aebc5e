"""What an upper directory of overlayfs changes in the layers below it: two trees in, a list of changes out.

Kinds are Docker's: 0 changed, 1 added, 2 deleted. A directory counts as changed when anything below it is, or its own
owner, mode or time. Rules of overlayfs: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import stat

from pystack.image.treetar import is_opaque
from pystack.kernel import roottree
from pystack.kernel.rootpath import Root

CHANGED, ADDED, DELETED = 0, 1, 2


def changes(lower: Root, upper: Root) -> list[tuple[bytes, int]]:
    """(absolute path, kind), sorted by path. `lower` is the merged view of the layers below."""
    found: dict[bytes, int] = {}
    alone: set[bytes] = set()  # directories that the layers below do not have
    cut: set[bytes] = set()  # those that hide the directory of that name below, and all below it
    for path, directory, name, info in roottree.entries(upper.fd):
        parent = path.rpartition(b"/")[0]
        before = None if parent in alone else _before(lower, path)
        kind: int | None = ADDED if before is None else CHANGED
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            kind = None if before is None else DELETED
        elif stat.S_ISDIR(info.st_mode):
            if before is None or not stat.S_ISDIR(before.st_mode):
                alone.add(path)
            elif parent in cut or is_opaque(directory, name):
                cut.add(path)
                found.update(_hidden(lower, upper, path))
            elif _alike(before, info):
                kind = None  # copied up for the sake of something below it, which will name it
        if kind is not None:
            found[b"/" + path] = kind
            _name_parents(found, path)
    return sorted(found.items())


def _before(lower: Root, path: bytes) -> os.stat_result | None:
    """Status of a path below, None when nothing is there. A link in the middle is none of our directories."""
    try:
        fd = lower.open(path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _hidden(lower: Root, upper: Root, path: bytes) -> dict[bytes, int]:
    """What an opaque directory hides and does not have itself."""
    own = set(upper.listdir(path))
    return {b"/" + path + b"/" + name: DELETED for name in lower.listdir(path) if name not in own}


def _alike(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_mode, before.st_uid, before.st_gid, before.st_mtime_ns) == (
        after.st_mode, after.st_uid, after.st_gid, after.st_mtime_ns,
    )  # fmt: skip


def _name_parents(found: dict[bytes, int], path: bytes) -> None:
    """The directories above a change are changed, too."""
    while (path := path.rpartition(b"/")[0]) and b"/" + path not in found:
        found[b"/" + path] = CHANGED
