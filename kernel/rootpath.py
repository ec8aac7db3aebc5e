"""Paths inside a tree that somebody else controls: root file systems, volumes, build contexts, layers.

In: a descriptor of the tree's top directory and a path of the container. Out: descriptors and file metadata. Every path
is resolved by the kernel with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS): "..", absolute links and racing renames
stay below the top, and /proc-style links are refused. What changes a name works on (descriptor of the parent, last
component) and never follows that component. Needs Linux 5.6. Standard library only. See openat2(2). This
module is the only way to touch such a path.

Errors are OSError with the path as its `filename`; a path that cannot name anything (a NUL, "..", nothing) is EINVAL.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pystack.kernel import roottree
from pystack.kernel.failpoints import failpoint
from pystack.kernel.roottree import openat2
from pystack.kernel.syscalls import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)

Path = str | bytes

#: Symlinks followed by `mkdir` while it makes what they point at; the kernel's own limit is 40 (path_resolution(7)).
_MAX_LINKS = 40
#: How temporary names of write_file begin.
_TEMPORARY = b".pystack-tmp-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _bytes(path: Path) -> bytes:
    """The path as bytes for the kernel. Empty means the root itself; a NUL would silently cut the path short."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise OSError(errno.EINVAL, "cannot use a path that holds a NUL", path)
    return raw or b"."


def _split(path: Path) -> tuple[bytes, bytes]:
    """(directory, last component). EINVAL when the path ends in "..", "." or nothing: it names no entry."""
    directory, _, name = _bytes(path).rstrip(b"/").rpartition(b"/")
    if name in {b"", b".", b".."}:
        raise OSError(errno.EINVAL, "cannot use a path without a last name", path)
    return directory or b"/", name


class Root:
    """The top directory of a tree. Owns its descriptor: close it, or use it as a context manager.

    Paths are bytes or str (file system encoding, surrogateescape), absolute or relative; both start at the top.
    With `no_xdev` no resolution crosses a mount point (EXDEV). Operations are plain system calls and safe from any thread.
    """

    __slots__ = ("_resolve", "fd")

    def __init__(self, fd: int, *, no_xdev: bool = False) -> None:
        """Takes ownership of `fd`, a directory's descriptor (O_PATH will do)."""
        self.fd = fd
        self._resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (RESOLVE_NO_XDEV if no_xdev else 0)

    @classmethod
    def open_host(cls, path: Path, *, no_xdev: bool = False) -> Self:
        """The tree at a host path, which must be trusted: its own symlinks are followed."""
        return cls(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), no_xdev=no_xdev)

    def sub(self, path: Path, *, no_xdev: bool = False) -> Root:
        """A Root whose top is a directory of this tree."""
        return Root(self.open(path, os.O_PATH | os.O_DIRECTORY), no_xdev=no_xdev)

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    def open(
        self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o644, *, no_symlinks: bool = False
    ) -> int:
        """A descriptor, always close-on-exec. `mode` counts with O_CREAT only and obeys the umask.

        A container can plant FIFOs and devices: add O_NONBLOCK, or use `read_file` when a regular file is meant.
        """
        resolve = self._resolve | RESOLVE_NO_SYMLINKS if no_symlinks else self._resolve
        creates = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
        return openat2(self.fd, _bytes(path), flags, mode if creates else 0, resolve)

    def stat(self, path: Path) -> os.stat_result:
        return self._stat(path, os.O_PATH)

    def lstat(self, path: Path) -> os.stat_result:
        return self._stat(path, os.O_PATH | os.O_NOFOLLOW)

    def _stat(self, path: Path, flags: int) -> os.stat_result:
        fd = self.open(path, flags)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def exists(self, path: Path) -> bool:
        """Whether the path, links followed, names something. A loop of links or a file in the middle names nothing."""
        try:
            os.close(self.open(path, os.O_PATH))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return False
            raise
        return True

    def readlink(self, path: Path) -> bytes:
        parent, name = self.parent(path)
        try:
            return os.readlink(name, dir_fd=parent)
        finally:
            os.close(parent)

    def resolved(self, path: Path) -> bytes:
        """The absolute path without links, as far as it exists; what a link that leads nowhere names is kept.

        For showing only: by the time that it is read it may be wrong. ELOOP after as many links as the kernel follows.
        """
        left = [part for part in reversed(_bytes(path).split(b"/")) if part not in {b"", b"."}]
        done: list[bytes] = []
        for _ in range(_MAX_LINKS + 1):
            while left:
                part = left.pop()
                if part == b"..":
                    del done[-1:]
                    continue
                try:
                    target = self.readlink(b"/" + b"/".join([*done, part]))
                except OSError as error:
                    if error.errno not in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                        raise
                    done.append(part)
                    continue
                if target.startswith(b"/"):
                    done.clear()
                left += [part for part in reversed(target.split(b"/")) if part not in {b"", b"."}]
                break
            else:
                return b"/" + b"/".join(done)
        raise OSError(errno.ELOOP, "cannot follow so many links", path)

    def listdir(self, path: Path = ".") -> list[bytes]:
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def read_file(self, path: Path, limit: int = 1 << 20) -> bytes:
        """The content of a regular file of at most `limit` bytes; EINVAL for anything else, EFBIG when longer."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat_bits.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "cannot read what is not a regular file", path)
            parts: list[bytes] = []
            left = limit + 1
            while left and (part := os.read(fd, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
            if not left:
                raise OSError(errno.EFBIG, f"cannot read a file of more than {limit} bytes", path)
            return b"".join(parts)
        finally:
            os.close(fd)

    def parent(self, path: Path) -> tuple[int, bytes]:
        """(descriptor of the directory that holds the last component, that component). The caller closes it.

        Links are followed up to the last component and not in it: for use with dir_fd calls that do not follow.
        """
        directory, name = _split(path)
        return self.open(directory, os.O_PATH | os.O_DIRECTORY), name

    # Making

    def mkdir(
        self, path: Path, mode: int = 0o755, uid: int = 0, gid: int = 0, *, parents: bool = True
    ) -> None:
        """Make a directory, by default with its parents; one that exists is left as it is.

        Every directory made gets exactly `mode` and the owner. A dangling link of the tree is followed, in-root, and
        what it points at is made (an image's /var/run -> /run without /run).
        """
        os.close(self.make_directory(path, mode, uid, gid, parents=parents))

    def make_directory(
        self, path: Path, mode: int = 0o755, uid: int = 0, gid: int = 0, *, parents: bool = True
    ) -> int:
        """As `mkdir`, and returns an O_PATH descriptor of the directory."""
        wanted = _bytes(path)
        for _ in range(_MAX_LINKS):
            fd, done, missing = self._deepest(wanted)
            if len(missing) > 1 and not parents:
                os.close(fd)
                raise FileNotFoundError(errno.ENOENT, "cannot make a directory without its parent", path)
            while missing:
                name = missing.pop(0)
                try:
                    if name in {b".", b".."}:
                        below = self.open(done + b"/" + name, os.O_PATH | os.O_DIRECTORY)
                    else:
                        below = _make_one(fd, name, mode, uid, gid)
                except FileExistsError:
                    target = _link_target(fd, name, path)
                    if target is not None:
                        base = b"/" if target.startswith(b"/") else done
                        wanted = b"/".join([base, target, *missing])
                        break
                    below = openat2(fd, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, 0, self._resolve)
                finally:
                    os.close(fd)
                fd, done = below, done + b"/" + name
            else:
                return fd
        raise OSError(errno.ELOOP, "cannot make a directory through so many links", path)

    def _deepest(self, path: bytes) -> tuple[int, bytes, list[bytes]]:
        """(descriptor, path) of the deepest directory that exists on the way, and the components missing below it."""
        done, missing = path, list[bytes]()
        while True:
            try:
                return self.open(done, os.O_PATH | os.O_DIRECTORY), done, missing
            except FileNotFoundError:
                head, _, name = done.rstrip(b"/").rpartition(b"/")
                if not name:
                    raise
                done = head or (b"/" if done.startswith(b"/") else b".")
                missing.insert(0, name)

    def write_file(
        self, path: Path, data: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0, *, sync: bool = False
    ) -> None:
        """Put a whole new file in place of whatever is there, a link included; readers see the old or the new one.

        A directory in the way is EISDIR. With `sync` the content is on disk before the name appears.
        """
        parent, name = self.parent(path)
        temporary = _TEMPORARY + os.urandom(8).hex().encode()
        try:
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent
            )
            try:
                _write_all(fd, data)
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                if sync:
                    os.fsync(fd)
                failpoint("rootpath.file.written")
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                failpoint("rootpath.file.renamed")
            except BaseException:
                os.unlink(temporary, dir_fd=parent)
                raise
            finally:
                os.close(fd)
        finally:
            os.close(parent)

    def symlink(self, target: Path, path: Path) -> None:
        parent, name = self.parent(path)
        try:
            os.symlink(os.fsencode(target), name, dir_fd=parent)
        finally:
            os.close(parent)

    def link(self, source: Path, path: Path) -> None:
        """A hard link to `source` of this tree; when that is a symlink, to the symlink itself."""
        source_parent, source_name = self.parent(source)
        try:
            parent, name = self.parent(path)
            try:
                os.link(source_name, name, src_dir_fd=source_parent, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)
        finally:
            os.close(source_parent)

    def mknod(self, path: Path, mode: int, device: int = 0) -> None:
        """A FIFO, socket or device node (`mode` holds S_IFMT and permission bits; `device` from os.makedev)."""
        parent, name = self.parent(path)
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        finally:
            os.close(parent)

    def rename(self, source: Path, path: Path) -> None:
        source_parent, source_name = self.parent(source)
        try:
            parent, name = self.parent(path)
            try:
                os.rename(source_name, name, src_dir_fd=source_parent, dst_dir_fd=parent)
            finally:
                os.close(parent)
        finally:
            os.close(source_parent)

    # Metadata: on the entry itself, never through a link in the last component

    def chmod(self, path: Path, mode: int) -> None:
        """Permission bits of a file or directory. Links have none: EOPNOTSUPP."""
        self._through_proc(path, lambda place: os.chmod(place, mode))

    def chown(self, path: Path, uid: int, gid: int) -> None:
        parent, name = self.parent(path)
        try:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def utime(self, path: Path, atime_ns: int, mtime_ns: int) -> None:
        parent, name = self.parent(path)
        try:
            os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def setxattr(self, path: Path, name: str, value: bytes) -> None:
        self._through_proc(path, lambda place: os.setxattr(place, name, value))

    def getxattrs(self, path: Path) -> dict[str, bytes]:
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return roottree.read_xattrs(fd)
        finally:
            os.close(fd)

    def _through_proc(self, path: Path, act: roottree.PlaceAction) -> None:
        """Act on the very inode that an O_PATH descriptor holds; the device behind a node is never opened."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            act(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    # Removing and whole trees

    def unlink(self, path: Path) -> None:
        parent, name = self.parent(path)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)

    def rmdir(self, path: Path) -> None:
        parent, name = self.parent(path)
        try:
            os.rmdir(name, dir_fd=parent)
        finally:
            os.close(parent)

    def rmtree(self, path: Path) -> None:
        """Remove a file, link or directory with all below it; nothing there is fine. Never follows a link.

        Raises Conflict, before anything is deleted, when a file system is mounted at or below the path.
        """
        try:
            parent, name = self.parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            roottree.remove_at(parent, name)
        finally:
            os.close(parent)

    def walk(self, path: Path = ".") -> Iterator[tuple[bytes, os.stat_result]]:
        """(path relative to `path`, lstat) of all entries below it, directories before their content, sorted by name.

        Mount points are listed and not entered. What disappears meanwhile is left out.
        """
        with self.sub(path) as top:
            yield from roottree.walk(top.fd)

    def copy_tree(self, source: Root, source_path: Path, path: Path) -> None:
        """Copy the content of a directory of `source` into directory `path` of this tree (made when missing).

        Owner, mode, times, xattrs (not overlayfs' own), hard links, holes, links, FIFOs and device nodes are kept; the
        directory itself gets the source's owner, mode and xattrs. Existing files are replaced. Mount points are not entered.
        """
        with source.sub(source_path) as origin, Root(self.make_directory(path)) as target:
            roottree.copy_content(origin.fd, target.fd)
        failpoint("rootpath.tree.copied")

    def disk_usage(self, path: Path = ".") -> int:
        """Bytes allocated on disk by all below `path`; an inode with several names counts once."""
        seen: set[tuple[int, int]] = set()
        total = 0
        for _, info in self.walk(path):
            if info.st_nlink > 1 and not stat_bits.S_ISDIR(info.st_mode):
                key = (info.st_dev, info.st_ino)
                if key in seen:
                    continue
                seen.add(key)
            total += info.st_blocks * 512
        return total

    def content_size(self, path: Path = ".") -> int:
        """Bytes of the files below `path` as their owners see them, as Docker counts; an inode counts once."""
        sizes = {
            (info.st_dev, info.st_ino): info.st_size
            for _, info in self.walk(path)
            if not stat_bits.S_ISDIR(info.st_mode)
        }
        return sum(sizes.values())


def _make_one(fd: int, name: bytes, mode: int, uid: int, gid: int) -> int:
    """Make directory `name` and return its O_PATH descriptor; FileExistsError when anything is there."""
    os.mkdir(name, 0o700, dir_fd=fd)
    made = os.open(name, _DIRECTORY, dir_fd=fd)
    try:
        os.fchown(made, uid, gid)
        os.fchmod(made, mode)
        return os.open(b".", os.O_PATH | os.O_DIRECTORY, dir_fd=made)
    finally:
        os.close(made)


def _link_target(fd: int, name: bytes, path: Path) -> bytes | None:
    """What link `name` points at; None when it is a directory; NotADirectoryError otherwise."""
    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if stat_bits.S_ISLNK(info.st_mode):
        return os.readlink(name, dir_fd=fd)
    if stat_bits.S_ISDIR(info.st_mode):
        return None
    raise NotADirectoryError(errno.ENOTDIR, "cannot make a directory where a file is", path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def remove_tree(path: Path) -> None:
    """Remove one of the engine's own directories (an absolute host path) with all below it; missing is fine.

    The same guarantees as `Root.rmtree`: links are not followed and nothing behind a mount point is touched - Conflict
    names the mount instead.
    """
    directory, name = os.path.split(os.path.normpath(os.fsencode(path)))
    try:
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        roottree.remove_at(parent, name)
    finally:
        os.close(parent)
    failpoint("rootpath.tree.removed")
