"""One layer's tar into a directory that overlayfs can use as a lower layer.

In: an entry stream nobody vouches for, and an empty directory of ours. Out: its content, whiteouts turned into what
overlayfs knows (char 0:0, trusted.overlay.opaque). Names are resolved in-root by the kernel (kernel.rootpath), links in
the archive lead nowhere else; a leading "/" means the layer's top, as for Docker; ".." is refused. Set-id bits, owners,
times, devices (useless without the device cgroup) and security.capability are kept; attributes that steer overlayfs and
all of trusted.* are dropped. OCI image-spec `layer.md`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from pystack.image.tarstream import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)
from pystack.kernel import roottree
from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import Root
from pystack.model.errors import EngineError, InvalidInput

_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_OPAQUE_XATTR = "trusted.overlay.opaque"
_CAPABILITY = "security.capability"
#: Space that unpacking leaves free on the file system.
DISK_RESERVE = 256 << 20
_CHECK_DISK_EVERY = 64 << 20
_CHECK_EVERY = 512  # entries between two looks whether we are cancelled
_CACHED_PARENTS = 64

_NODES = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(reader: TarReader, directory: str, check: Callable[[], None]) -> int:
    """Unpack all entries below `directory` (a host path of ours); returns the bytes of its files.

    `check` is called now and then; what it raises ends the work. InvalidInput for a bad archive; the caller removes the
    directory after any error.
    """
    with _Layer(directory) as layer:
        for count, entry in enumerate(reader):
            if not count % _CHECK_EVERY:
                check()
            layer.add(entry, reader.content)
        layer.finish()
        failpoint("image.layer.unpacked")
        return layer.size


def _clean(name: bytes) -> bytes:
    """The name relative to the layer's top; b"" is the top itself."""
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise InvalidInput(f"cannot unpack {_show(name)}: the name holds '..'")
    return b"/".join(parts)


def _show(name: bytes) -> str:
    return repr(os.fsdecode(name[:200]))


class _Layer:
    """The layer being written. Parents are held open by their path; a replaced entry makes them stale."""

    def __init__(self, directory: str) -> None:
        self._root = Root.open_host(directory)
        self._parents: dict[bytes, int] = {}
        self._times: dict[bytes, tuple[int, int]] = {}
        self._unchecked = 0
        self.size = 0

    def __enter__(self) -> _Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self._root.close()

    def _forget(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory, last component); the directory is made when the archive never names it."""
        place, _, name = path.rpartition(b"/")
        fd = self._parents.get(place)
        if fd is None:
            try:
                fd = self._root.open(place, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                fd = self._root.make_directory(place)
            if len(self._parents) >= _CACHED_PARENTS:
                os.close(self._parents.pop(next(iter(self._parents))))
            self._parents[place] = fd
        return fd, name

    def add(self, entry: Entry, content: Callable[[], Iterator[memoryview]]) -> None:
        """One entry. The kernel's refusal of what the archive asks for is the archive's fault: InvalidInput."""
        path = _clean(entry.name)
        try:
            if not path:
                self._top(entry)
            elif path.rpartition(b"/")[2].startswith(_WHITEOUT):
                self._whiteout(path)
            else:
                self._make(entry, path, content)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOTSUP}:
                raise EngineError(f"cannot unpack {_show(entry.name)}: {error.strerror}") from error
            raise InvalidInput(f"cannot unpack {_show(entry.name)}: {error.strerror}") from error

    def _top(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise InvalidInput("cannot unpack the layer: its top is not a directory")
        fd = self._root.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._dress(fd, entry)
        finally:
            os.close(fd)
        self._times[b"."] = (entry.mtime_ns, entry.mtime_ns)

    def _make(self, entry: Entry, path: bytes, content: Callable[[], Iterator[memoryview]]) -> None:
        parent, name = self._parent(path)
        for _ in range(2):
            try:
                self._create(entry, parent, name, content)
                break
            except FileExistsError:
                opaque = self._replace(parent, name)
                parent, name = self._parent(path)
                if opaque and entry.type == DIRECTORY:
                    self._directory(entry, parent, name)
                    self._set_opaque(parent, name)
                    break
        else:
            raise InvalidInput(f"cannot unpack {_show(entry.name)}: it is in the way of itself")
        if entry.type == DIRECTORY:
            self._times[path] = (entry.mtime_ns, entry.mtime_ns)

    def _create(
        self, entry: Entry, parent: int, name: bytes, content: Callable[[], Iterator[memoryview]]
    ) -> None:
        if entry.type == REGULAR:
            self._file(entry, parent, name, content)
        elif entry.type == DIRECTORY:
            self._directory(entry, parent, name)
        elif entry.type == HARDLINK:
            self._hardlink(entry, parent, name)
        else:
            self._other(entry, parent, name)

    def _replace(self, parent: int, name: bytes) -> bool:
        """Remove what an earlier entry made; True when that was a whiteout."""
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            roottree.remove_at(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
        self._forget()
        return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0

    def _file(
        self, entry: Entry, parent: int, name: bytes, content: Callable[[], Iterator[memoryview]]
    ) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.size:
                self._account(entry.size)
                for part in content():
                    _write_all(fd, part)
            self._dress(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _account(self, size: int) -> None:
        self.size += size
        self._unchecked += size
        if self._unchecked >= _CHECK_DISK_EVERY:
            self._unchecked = 0
            disk = os.statvfs(self._root.fd)
            if disk.f_bavail * disk.f_frsize < DISK_RESERVE + size:
                raise EngineError(
                    "cannot unpack the layer: the disk is almost full",
                    hint="remove images or volumes that are not needed",
                )

    def _directory(self, entry: Entry, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _hardlink(self, entry: Entry, parent: int, name: bytes) -> None:
        source = _clean(entry.link)
        if not source or source.rpartition(b"/")[2].startswith(_WHITEOUT):
            raise InvalidInput(f"cannot unpack {_show(entry.name)}: a hard link to {_show(entry.link)}")
        directory, source_name = self._root.parent(source)
        try:
            os.link(source_name, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _other(self, entry: Entry, parent: int, name: bytes) -> None:
        """Symlinks and nodes: made and dressed by name in a directory that only this process can reach, never opened."""
        if entry.type == SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        else:
            device = os.makedev(entry.major, entry.minor) if entry.type != FIFO else 0
            os.mknod(name, _NODES[entry.type] | 0o600, device, dir_fd=parent)
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.type != SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Owner first: chown clears set-id bits and capabilities (chown(2))."""
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if name == _CAPABILITY:
                os.setxattr(fd, name, _capability(value))
            elif _wanted(name):
                os.setxattr(fd, name, value)

    def _whiteout(self, path: bytes) -> None:
        """`.wh.x` hides x of the layers below, `.wh..wh..opq` all of them; neither touches this layer's own entries."""
        base = path.rpartition(b"/")[2]
        if base == _OPAQUE:
            parent, _ = self._parent(path)
            self._set_opaque(parent, b".")
            return
        if base.startswith(_WHITEOUT_META):
            return  # bookkeeping of aufs, of no meaning to anyone else
        hidden = base[len(_WHITEOUT) :]
        if hidden in {b"", b".", b".."}:
            raise InvalidInput(f"cannot unpack {_show(path)}: it hides no name")
        parent, _ = self._parent(path)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._set_opaque(parent, hidden)

    def _set_opaque(self, parent: int, name: bytes) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.setxattr(fd, _OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Directory times last, since every entry made in one changes them. Some were replaced by later entries."""
        for path, times in self._times.items():
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    continue
                raise
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]


def _wanted(name: str) -> bool:
    """Attributes that a layer may set: user.* but overlayfs' own, and POSIX ACLs."""
    if name.startswith("user."):
        return not name.startswith("user.overlay.")
    return name in {"system.posix_acl_access", "system.posix_acl_default"}


def _capability(value: bytes) -> bytes:
    """vfs_cap_data as revision 2: revision 3 adds the root uid of some user namespace of the builder's (capabilities(7))."""
    if len(value) == 24 and value[3] == 3:
        return value[:3] + b"\x02" + value[4:20]
    return value
