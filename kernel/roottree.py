"""Whole trees by descriptors: remove, walk, copy. The algorithms behind `kernel.rootpath`.

In: descriptors of directories whose content somebody else may control and even change meanwhile. Every step into a
directory is openat2 of one name with RESOLVE_NO_XDEV and O_NOFOLLOW, so that no link and no mount point is ever entered;
depth costs no descriptors and no Python recursion. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as stat_bits
from collections.abc import Callable, Iterator

from pystack.kernel import syscalls
from pystack.kernel.syscalls import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from pystack.model.errors import Conflict

PlaceAction = Callable[[str], None]

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STEP_RESOLVE = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
#: f_type of file systems without content of their own (<linux/magic.h>): proc, sysfs, cgroup, cgroup2, devpts, mqueue,
#: debugfs, tracefs, bpf, securityfs, efivarfs, pstore, nsfs, binfmt_misc, configfs, selinux, autofs, fusectl.
_KERNEL_FS = frozenset(
    (0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202, 0x64626720, 0x74726163, 0xCAFE4A11,
     0x73636673, 0xDE5E81E4, 0x6165676C, 0x6E736673, 0x42494E4D, 0x62656570, 0xF97CFF8C, 0x0187, 0x65735543)
)  # fmt: skip
#: Extended attributes that mean something to overlayfs and must never come from, or go into, a container's tree.
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


def openat2(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """Open by the rules of `resolve` (RESOLVE_*), close-on-exec. EAGAIN (a rename raced with "..") and EINTR are retried."""
    for _ in range(128):
        try:
            return syscalls.openat2(dirfd, path, flags, mode=mode, resolve=resolve)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EINTR}:
                raise
    raise OSError(errno.EAGAIN, "cannot resolve a path that is being renamed all the time", path)


def step_into(fd: int, name: bytes) -> int:
    """Open directory `name` of `fd`: EXDEV for a mount point, ENOTDIR or ELOOP for anything but a directory."""
    return openat2(fd, name, _STEP, 0, _STEP_RESOLVE)


# Removing


def remove_at(parent: int, name: bytes, *, foreign: bool = False) -> None:
    """Remove entry `name` of directory `parent` with all below it. Missing is fine; Conflict when a mount is in the way.

    `foreign`: the directory is reached through the mounts of another namespace. There the kernel would take a mount off
    whose place is removed (mount_namespaces(7)), and our mount table says nothing: every entry is looked at instead.
    """
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if foreign:
            _refuse_mount(parent, name)
    except FileNotFoundError:
        return
    if not foreign:
        _refuse_mounts(os.readlink(f"/proc/self/fd/{parent}".encode()), name)
    if not stat_bits.S_ISDIR(info.st_mode):
        _unlink(parent, name)
        return
    try:
        top = step_into(parent, name)
    except OSError as error:
        raise _explain(error, parent, name) from error
    try:
        _empty(top, foreign=foreign)
    finally:
        os.close(top)
    _rmdir(parent, name)


def _refuse_mount(parent: int, name: bytes) -> None:
    """Raise Conflict when this very entry is a mount point where `parent` lies."""
    try:
        os.close(openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, 0, RESOLVE_NO_XDEV))
    except OSError as error:
        raise _explain(error, parent, name) from error


def _refuse_mounts(directory: bytes, name: bytes) -> None:
    """Raise Conflict when something is mounted at or below directory/name in our mount namespace."""
    place = directory.rstrip(b"/") + b"/" + name
    for mount in mount_points():
        if mount == place or mount.startswith(place + b"/"):
            raise _in_the_way(place, mount)


def _in_the_way(place: bytes, mount: bytes) -> Conflict:
    return Conflict(
        f"cannot remove {os.fsdecode(place)}: a file system is mounted at {os.fsdecode(mount)}",
        hint=f"unmount {os.fsdecode(mount)} first",
    )


def _explain(error: OSError, fd: int, name: bytes) -> Exception:
    """EXDEV and EBUSY of a directory entry mean a mount point (of a name that came after the first look)."""
    if error.errno not in {errno.EXDEV, errno.EBUSY}:
        return error
    place = os.readlink(f"/proc/self/fd/{fd}".encode()) + b"/" + name
    return _in_the_way(place, place)


def mount_points() -> list[bytes]:
    """The mount points of our namespace, as in /proc/self/mountinfo with its octal escapes undone (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [line.split(b" ", 5)[4] for line in file]
    return [_unescape(point) if b"\\" in point else point for point in points]


def _unescape(text: bytes) -> bytes:
    head, *rest = text.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _unlink(fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explain(error, fd, name) from error


def _rmdir(fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explain(error, fd, name) from error


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _clear_files(fd: int, *, foreign: bool) -> list[bytes]:
    """Unlink everything in the directory but directories, whose names are returned."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
            else:
                if foreign:
                    _refuse_mount(fd, name)
                _unlink(fd, name)
    return directories


def _empty(top: int, *, foreign: bool) -> None:
    """Remove all below a directory. One descriptor at any depth: the way up is "..", checked by device and inode.

    Someone who moves the directory that we are in gets an error, never a deletion elsewhere.
    """
    here = os.dup(top)
    above: list[tuple[tuple[int, int], list[bytes], bytes]] = []  # identity, names left, name we are in
    identity, left = _identity(here), _clear_files(here, foreign=foreign)
    try:
        while True:
            if left:
                name = left.pop()
                try:
                    below = step_into(here, name)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise _explain(error, here, name) from error
                above.append((identity, left, name))
                os.close(here)
                here = below
                identity, left = _identity(here), _clear_files(here, foreign=foreign)
                continue
            if not above:
                return
            identity, left, name = above.pop()
            parent = os.open(b"..", _STEP, dir_fd=here)
            os.close(here)
            here = parent
            if _identity(here) != identity:
                raise OSError(errno.ESTALE, "cannot remove a tree that is being moved", name)
            _rmdir(here, name)
    finally:
        os.close(here)


# Walking


def walk(top: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """(relative path, lstat) of all entries below `top`, a directory before its content. Mounts are not entered."""
    return ((path, info) for path, _, _, info in entries(top))


def entries(top: int, *, mounts: bool = False) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """(relative path, descriptor of its directory, name, lstat) of all below `top`, sorted within each directory.

    The descriptor is good until the next step. Without `mounts` no mount point is entered; with it all are but those of
    the kernel's own file systems, which look empty. What disappears or is replaced meanwhile is left out.
    """
    resolve = _STEP_RESOLVE | RESOLVE_IN_ROOT
    if mounts:
        resolve &= ~RESOLVE_NO_XDEV
    pending: list[bytes] = [b""]
    while pending:
        path = pending.pop()
        try:
            here = openat2(top, path or b".", _STEP, 0, resolve)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV} and path:
                continue
            raise
        try:
            if mounts and is_kernel_fs(here):
                continue
            below = []
            for name in sorted(os.fsencode(name) for name in os.listdir(here)):
                entry = path + b"/" + name if path else name
                try:
                    info = os.stat(name, dir_fd=here, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield entry, here, name, info
                if stat_bits.S_ISDIR(info.st_mode):
                    below.append(entry)
            pending += reversed(below)
        finally:
            os.close(here)


def is_kernel_fs(fd: int) -> bool:
    """Whether `fd` lies on a file system that is a view of the kernel: reading and writing there is doing something."""
    return syscalls.fstatfs_type(fd) in _KERNEL_FS


# Copying


def read_xattrs(fd: int) -> dict[str, bytes]:
    """Extended attributes of the inode that `fd` (O_PATH will do) holds, without overlayfs' own."""
    place = f"/proc/self/fd/{fd}"
    try:
        names = os.listxattr(place)
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.EPERM}:
            return {}
        raise
    return {name: os.getxattr(place, name) for name in names if not name.startswith(_OVERLAY_XATTRS)}


def copy_content(source: int, target: int) -> None:
    """Copy all below directory `source` into directory `target`, then the directory's own metadata."""
    links: dict[tuple[int, int], bytes] = {}
    directories: list[tuple[bytes, os.stat_result]] = [(b"", os.fstat(source))]
    for path, info in walk(source):
        directory, _, name = path.rpartition(b"/")
        from_fd = openat2(source, directory or b".", _STEP, 0, _STEP_RESOLVE | RESOLVE_IN_ROOT)
        to_fd = -1
        try:
            to_fd = openat2(target, directory or b".", _STEP, 0, _STEP_RESOLVE | RESOLVE_IN_ROOT)
            key = (info.st_dev, info.st_ino)
            if stat_bits.S_ISDIR(info.st_mode):
                _make_directory(to_fd, name)
                directories.append((path, info))
            elif (first := links.get(key)) is not None:
                _hard_link(target, first, to_fd, name)
            else:
                _copy_entry(from_fd, to_fd, name, info)
                if info.st_nlink > 1:
                    links[key] = path
        finally:
            os.close(from_fd)
            if to_fd >= 0:
                os.close(to_fd)
    # Times of a directory change with every entry made in it: deepest first, after all content.
    for path, info in reversed(directories):
        _finish_directory(source, target, path, info)


def _make_directory(fd: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:
        if not stat_bits.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=fd)
            os.mkdir(name, 0o700, dir_fd=fd)


def _discard(fd: int, name: bytes) -> None:
    """Make room for a new file: remove a file or link of that name; a directory stays and the next step says EEXIST."""
    try:
        os.unlink(name, dir_fd=fd)
    except (FileNotFoundError, IsADirectoryError):
        return


def _hard_link(target: int, first: bytes, to_fd: int, name: bytes) -> None:
    directory, _, first_name = first.rpartition(b"/")
    held = openat2(target, directory or b".", _STEP, 0, _STEP_RESOLVE | RESOLVE_IN_ROOT)
    try:
        _discard(to_fd, name)
        os.link(first_name, name, src_dir_fd=held, dst_dir_fd=to_fd, follow_symlinks=False)
    finally:
        os.close(held)


def _copy_entry(from_fd: int, to_fd: int, name: bytes, info: os.stat_result) -> None:
    _discard(to_fd, name)
    if stat_bits.S_ISREG(info.st_mode):
        _copy_file(from_fd, to_fd, name)
    elif stat_bits.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=from_fd), name, dir_fd=to_fd)
    else:
        os.mknod(name, stat_bits.S_IFMT(info.st_mode) | 0o600, info.st_rdev, dir_fd=to_fd)
    held = openat2(from_fd, name, os.O_PATH | os.O_NOFOLLOW, 0, RESOLVE_IN_ROOT)
    try:
        made = openat2(to_fd, name, os.O_PATH | os.O_NOFOLLOW, 0, RESOLVE_IN_ROOT)
        try:
            _apply(made, to_fd, name, info, read_xattrs(held))
        finally:
            os.close(made)
    finally:
        os.close(held)


def _apply(made: int, directory: int, name: bytes, info: os.stat_result, xattrs: dict[str, bytes]) -> None:
    """Owner first: chown clears set-id bits and security.capability (chown(2)); times last."""
    os.chown(name, info.st_uid, info.st_gid, dir_fd=directory, follow_symlinks=False)
    place = f"/proc/self/fd/{made}"
    if not stat_bits.S_ISLNK(info.st_mode):
        os.chmod(place, stat_bits.S_IMODE(info.st_mode))
    for key, value in xattrs.items():
        try:
            os.setxattr(place, key, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=directory, follow_symlinks=False)


def _finish_directory(source: int, target: int, path: bytes, info: os.stat_result) -> None:
    held = openat2(source, path or b".", os.O_PATH | os.O_DIRECTORY, 0, _STEP_RESOLVE | RESOLVE_IN_ROOT)
    try:
        made = openat2(target, path or b".", _STEP, 0, _STEP_RESOLVE | RESOLVE_IN_ROOT)
        try:
            _apply(made, made, b".", info, read_xattrs(held))
        finally:
            os.close(made)
    finally:
        os.close(held)


def _copy_file(from_fd: int, to_fd: int, name: bytes) -> None:
    """Content of a regular file: a reflink where the file system can, else its data extents, so that holes stay holes."""
    source = openat2(from_fd, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, 0, _STEP_RESOLVE)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=to_fd)
        try:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError:
                _copy_extents(source, target, os.fstat(source).st_size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_extents(source: int, target: int, size: int) -> None:
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(source, at, os.SEEK_SET)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            count = os.sendfile(target, source, None, min(end - at, 1 << 24))
            if not count:
                return
            at += count
