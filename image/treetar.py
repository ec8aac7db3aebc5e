"""Trees that somebody else controls, as tar entries: directory descriptors in, entries to a `TarWriter` out.

Every step is on a descriptor and follows nothing (kernel.roottree): a link is archived as a link, a FIFO or device as a
node that is never opened, and what is replaced between two looks is left out or archived as what was opened. Sockets
cannot be in a tar and are left out, as by every tar program.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from pystack.image.owners import HOST, Owners
from pystack.image.tarstream import BLOCK, CHAR, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK
from pystack.image.tarwrite import TarWriter
from pystack.kernel import roottree
from pystack.kernel.roottree import openat2
from pystack.kernel.syscalls import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
from pystack.model.errors import EngineError

_NODES = {stat.S_IFCHR: CHAR, stat.S_IFBLK: BLOCK, stat.S_IFIFO: FIFO}
_STAY = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_GONE = frozenset((errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE))
_OPAQUE_XATTR = "trusted.overlay.opaque"
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_CHECK_EVERY = 512
_PORTABLE = frozenset(("security.capability", "system.posix_acl_access", "system.posix_acl_default"))


class TreeTar:
    """Adds entries and whole trees to one archive; an inode that is met again becomes a hard link to its first name."""

    def __init__(self, writer: TarWriter, owners: Owners = HOST) -> None:
        """`owners`: how the tree's ids are mapped; the archive has the container's."""
        self._writer, self._owners = writer, owners
        self._links: dict[tuple[int, int], bytes] = {}
        self.count = 0

    def entry(self, directory: int, name: bytes, info: os.stat_result, as_name: bytes) -> None:
        """Entry `name` of a directory, without what is below it."""
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFSOCK:
            return
        try:
            if kind == stat.S_IFREG:
                self._file(directory, name, as_name)
            elif kind == stat.S_IFLNK:
                self._add(as_name, SYMLINK, info, link=os.readlink(name, dir_fd=directory))
            elif kind == stat.S_IFDIR:
                self._directory(directory, name, info, as_name)
            elif not self._known(info, as_name):
                self._add(as_name, _NODES[kind], info, device=info.st_rdev if kind != stat.S_IFIFO else 0)
        except OSError as error:
            if error.errno in _GONE or (error.errno == errno.EINVAL and kind == stat.S_IFLNK):
                return  # replaced or removed since it was listed
            raise EngineError(f"cannot archive {os.fsdecode(as_name)!r}: {error.strerror}") from error

    def _directory(self, directory: int, name: bytes, info: os.stat_result, as_name: bytes) -> None:
        fd = openat2(directory, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, 0, _STAY)
        try:
            self._add(as_name.rstrip(b"/") + b"/", DIRECTORY, info, xattrs=_xattrs(fd))
        finally:
            os.close(fd)

    def _file(self, directory: int, name: bytes, as_name: bytes) -> None:
        fd = openat2(directory, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0, _STAY)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return  # replaced by something that must not be read
            if self._known(info, as_name):
                return
            size = 0 if roottree.is_kernel_fs(fd) else info.st_size
            self._add(as_name, REGULAR, info, size=size, xattrs=_xattrs(fd))
            if size:
                self._writer.content(fd, size)
        finally:
            os.close(fd)

    def _known(self, info: os.stat_result, as_name: bytes) -> bool:
        """Write a hard link if this inode is in the archive already."""
        if info.st_nlink < 2:
            return False
        first = self._links.setdefault((info.st_dev, info.st_ino), as_name)
        if first == as_name:
            return False
        self._add(as_name, HARDLINK, info, link=first)
        return True

    def _add(
        self,
        name: bytes,
        kind: bytes,
        info: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        device: int = 0,
        xattrs: dict[str, bytes] | None = None,
    ) -> None:
        self.count += 1
        uid, gid = self._owners.inside(info.st_uid, info.st_gid)
        self._writer.header(
            name, kind, mode=stat.S_IMODE(info.st_mode), uid=uid, gid=gid, size=size,
            mtime=info.st_mtime_ns // 1_000_000_000, link=link, device=device, xattrs=xattrs,
        )  # fmt: skip

    def below(self, top: int, prefix: bytes, check: Callable[[], None], *, mounts: bool = False) -> None:
        """All that is below directory `top`, each name with `prefix` before it. `check` may end it by raising."""
        for number, (path, directory, name, info) in enumerate(roottree.entries(top, mounts=mounts)):
            if not number % _CHECK_EVERY:
                check()
            self.entry(directory, name, info, prefix + path)

    def layer(self, upper: int, check: Callable[[], None]) -> None:
        """An overlay's upper directory as a layer: what it hides becomes `.wh.` entries (OCI image-spec `layer.md`)."""
        for number, (path, directory, name, info) in enumerate(roottree.entries(upper)):
            if not number % _CHECK_EVERY:
                check()
            if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                place, slash, hidden = path.rpartition(b"/")
                self._add(place + slash + _WHITEOUT + hidden, REGULAR, info)
                continue
            self.entry(directory, name, info, path)
            if stat.S_ISDIR(info.st_mode) and is_opaque(directory, name):
                self._add(path + b"/" + _OPAQUE, REGULAR, info)


def is_opaque(directory: int, name: bytes) -> bool:
    """Whether a directory of an upper directory hides all of the layers below."""
    fd = openat2(directory, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, 0, _STAY)
    try:
        return os.getxattr(fd, _OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return False
        raise
    finally:
        os.close(fd)


def _xattrs(fd: int) -> dict[str, bytes]:
    """What an archive may carry: the user's own, ACLs, and file capabilities (as image.unpack takes them)."""
    return {name: value for name, value in roottree.read_xattrs(fd).items() if portable(name)}


def portable(name: str) -> bool:
    """Whether an extended attribute means the same in another tree. overlayfs' own never get this far."""
    return name.startswith("user.") or name in _PORTABLE
