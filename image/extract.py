"""An archive into a directory of a living tree: `docker cp` and what is like it.

In: an entry stream nobody vouches for, and "/" of a tree whose owner may rename and replace things at the same time. Out:
the files. The kernel resolves every name below that "/" (kernel.rootpath), so links of the archive and of the tree lead
nowhere else; ".." is refused, absolute names mean the directory. What is made is dressed through the descriptor that made
it. Nothing is written on the kernel's own file systems.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pystack.image.owners import HOST, Owners
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
from pystack.image.treetar import portable
from pystack.kernel import roottree
from pystack.kernel.failpoints import failpoint
from pystack.kernel.process import fd_path
from pystack.kernel.rootpath import Root
from pystack.model.errors import EngineError, Forbidden, InvalidInput

_NODES = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 3  # of somebody who replaces what was just removed
#: Failures of the disk, not of the archive.
_FAULTS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """`keep_kinds`: a directory is not replaced by anything else, nor anything else by a directory.

    `owner`: (uid, gid) of all that is made, instead of the archive's. `owners`: how the tree's ids are mapped.
    """

    keep_kinds: bool = False
    owner: tuple[int, int] | None = None
    owners: Owners = HOST


def extract(
    reader: TarReader, root: Root, place: bytes, options: ExtractOptions, check: Callable[[], None]
) -> None:
    """Put all entries below directory `place` (absolute, its links followed). InvalidInput for a bad archive.

    `check` is called for every entry; what it raises ends the work. What is done by then stays.
    """
    work = _Extraction(root, place, options)
    try:
        for entry in reader:
            check()
            work.add(entry, reader.content)
            failpoint("image.extract.entry")
        work.finish()
    finally:
        work.close()


def _parts(name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise InvalidInput(f"cannot extract {_show(name)}: the name holds '..'")
    return parts


def _show(name: bytes) -> str:
    return repr(os.fsdecode(name[:200]))


class _Extraction:
    def __init__(self, root: Root, place: bytes, options: ExtractOptions) -> None:
        self._root = root
        self._place = place.rstrip(b"/")
        self._options = options
        self._parent_path: bytes | None = None
        self._parent_fd = -1
        self._times: dict[bytes, int] = {}

    def close(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_fd, self._parent_path = -1, None

    def _owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Whom a file is given to, in the host's numbers."""
        return self._options.owners.outside(*(self._options.owner or (uid, gid)))

    def add(self, entry: Entry, content: Callable[[], Iterator[memoryview]]) -> None:
        parts = _parts(entry.name)
        try:
            if parts:
                self._make(entry, parts, content)
            elif entry.type != DIRECTORY:
                raise InvalidInput(f"cannot extract {_show(entry.name)}: it names no file")
        except OSError as error:
            raise _explain(error, f"cannot extract {_show(entry.name)}") from error

    def _parent(self, parts: list[bytes]) -> int:
        """The directory that the entry goes into, made when the archive never names it. Kept open until the next one."""
        path = b"/".join([self._place, *parts[:-1]]) or b"/"
        if path != self._parent_path:
            self.close()
            try:
                fd = self._root.open(path, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                uid, gid = self._owner(0, 0)
                fd = self._root.make_directory(path, uid=uid, gid=gid)
            self._parent_fd, self._parent_path = fd, path
            if roottree.is_kernel_fs(fd):
                raise Forbidden(
                    f"cannot extract {_show(path)}: it is on a file system of the kernel, not of the container"
                )
        return self._parent_fd

    def _make(self, entry: Entry, parts: list[bytes], content: Callable[[], Iterator[memoryview]]) -> None:
        name = parts[-1]
        for _ in range(_TRIES):
            parent = self._parent(parts)
            if self._stays(entry, parts, parent):
                self._dress_directory(entry, parent, name)
                break
            try:
                self._create(entry, parent, name, content)
                break
            except FileExistsError:
                roottree.remove_at(parent, name, foreign=True)
                self.close()  # the parent of what comes next may have been in it
        else:
            raise InvalidInput(f"cannot extract {_show(entry.name)}: it is being replaced all the time")
        if entry.type == DIRECTORY:
            self._times[b"/".join([self._place, *parts])] = entry.mtime_ns

    def _stays(self, entry: Entry, parts: list[bytes], parent: int) -> bool:
        """Whether a directory is there already, as is wanted. InvalidInput, in Docker's words, when kinds must be kept."""
        try:
            present = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        there, wanted = stat.S_ISDIR(present.st_mode), entry.type == DIRECTORY
        if self._options.keep_kinds and there != wanted:
            path = os.fsdecode(b"/".join([self._place, *parts]))
            place = os.fsdecode(self._place) or "/"
            kinds = ("directory", "non-directory") if there else ("non-directory", "directory")
            raise InvalidInput(f'cannot overwrite {kinds[0]} "{path}" with {kinds[1]} "{place}"')
        return there and wanted

    def _create(
        self, entry: Entry, parent: int, name: bytes, content: Callable[[], Iterator[memoryview]]
    ) -> None:
        if entry.type == REGULAR:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
            try:
                for part in content():
                    _write_all(fd, part)
                self._dress(fd, entry)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
        elif entry.type == DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
            self._dress_directory(entry, parent, name)
        elif entry.type == HARDLINK:
            self._hardlink(entry, parent, name)
        else:
            self._node(entry, parent, name)

    def _hardlink(self, entry: Entry, parent: int, name: bytes) -> None:
        """To a file of the directory: a target that begins with "/" begins there, as for Docker."""
        target = _parts(entry.link)
        if not target:
            raise InvalidInput(f"cannot extract {_show(entry.name)}: a hard link to {_show(entry.link)}")
        directory, source = self._root.parent(b"/".join([self._place, *target]))
        try:
            os.link(source, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise InvalidInput(
                f"cannot extract {_show(entry.name)}: its hard link's target {_show(entry.link)} is not there"
            ) from error
        finally:
            os.close(directory)

    def _node(self, entry: Entry, parent: int, name: bytes) -> None:
        """Links and nodes are never opened: they are dressed through an O_PATH descriptor, if it is still the one made."""
        if entry.type == SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            kind = stat.S_IFLNK
        else:
            kind = _NODES[entry.type]
            device = os.makedev(entry.major, entry.minor) if entry.type != FIFO else 0
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        fd = os.open(name, _HELD, dir_fd=parent)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
                raise InvalidInput(f"cannot extract {_show(entry.name)}: it was replaced")
            place = fd_path(fd)
            os.chown(place, *self._owner(entry.uid, entry.gid))
            if entry.type != SYMLINK:
                os.chmod(place, entry.mode)
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _dress_directory(self, entry: Entry, parent: int, name: bytes) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._dress(fd, entry)
        finally:
            os.close(fd)

    def _dress(self, fd: int, entry: Entry) -> None:
        """Owner first: chown clears set-id bits and capabilities (chown(2))."""
        os.fchown(fd, *self._owner(entry.uid, entry.gid))
        os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if portable(name) and not name.startswith("user.overlay."):
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                        raise

    def finish(self) -> None:
        """Directory times last, since every entry made in one changes them. Some were replaced by later entries."""
        for path, time_ns in reversed(self._times.items()):
            try:
                fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    continue
                raise
            try:
                os.utime(fd, ns=(time_ns, time_ns))
            finally:
                os.close(fd)


def _explain(error: OSError, what: str) -> Exception:
    if error.errno == errno.EROFS:
        return Forbidden(f"{what}: it is on a mount that is read-only")
    if error.errno in _FAULTS:
        return EngineError(f"{what}: {error.strerror}")
    return InvalidInput(f"{what}: {error.strerror}")


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]
