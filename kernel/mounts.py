"""Mounting inside a root that is not trusted: dirfds and mount fds in and out, never a path string of the container.

A target is always an fd that openat2(RESOLVE_IN_ROOT) gave, so a symlink of the image leads nowhere else and nothing
can be swapped between check and use (CVE-2021-30465, CVE-2024-45310). Standard library only.
"""

from __future__ import annotations

import os
import stat

from pystack.kernel import syscalls as sc
from pystack.kernel.process import fd_path

_IN_ROOT = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40  # the kernel's own limit for one path walk
_ATTRIBUTES = {
    sc.MS_RDONLY: sc.MOUNT_ATTR_RDONLY,
    sc.MS_NOSUID: sc.MOUNT_ATTR_NOSUID,
    sc.MS_NODEV: sc.MOUNT_ATTR_NODEV,
    sc.MS_NOEXEC: sc.MOUNT_ATTR_NOEXEC,
    sc.MS_NODIRATIME: sc.MOUNT_ATTR_NODIRATIME,
}
#: Whatever the kernel's defaults are, an upper directory holds whole files under their own names: it becomes a layer.
_FEATURES = ((b"index", b"off"), (b"metacopy", b"off"), (b"redirect_dir", b"off"))
PROPAGATIONS = {"private": sc.MS_PRIVATE, "slave": sc.MS_SLAVE, "shared": sc.MS_SHARED}


def open_in_root(root: int, path: bytes, flags: int = os.O_PATH) -> int:
    """Open `path` (absolute or not: both are relative to `root`) with every symlink kept inside `root`."""
    return sc.openat2(root, path, flags, resolve=_IN_ROOT)


def exists_in_root(root: int, path: bytes) -> bool:
    """Whether something is at `path` in `root`."""
    try:
        os.close(open_in_root(root, path))
    except OSError:
        return False
    return True


def open_beneath(top: bytes, path: bytes) -> int:
    """`path` below the host's directory `top`, both of which others may change meanwhile: no link leads out of it.

    The caller closes it. OSError EXDEV where it would lead out, also by an absolute symlink.
    """
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sc.openat2(fd, path, os.O_PATH, resolve=sc.RESOLVE_BENEATH | sc.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        reason = "it leads out of the volume" if error.errno == 18 else error.strerror
        raise OSError(error.errno, f"cannot use its subpath: {reason}", os.fsdecode(path)) from error
    finally:
        os.close(fd)


def open_directory(root: int, name: bytes) -> int:
    """A directory right below `root` which must be one, not a symlink: where /proc, /sys and /dev are mounted."""
    try:
        return sc.openat2(root, name, os.O_PATH | os.O_DIRECTORY, resolve=sc.RESOLVE_NO_SYMLINKS)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=root)
        return sc.openat2(root, name, os.O_PATH | os.O_DIRECTORY, resolve=sc.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        message = f'mount destination "/{name.decode()}" must be an ordinary directory'
        raise OSError(error.errno, message) from error


def make_in_root(root: int, path: bytes, *, directory: bool, mode: int = 0o755, links: int = 0) -> int:
    """Open `path` in `root`, creating what is missing: parents 0755, the last a directory or an empty file.

    A dangling symlink of the image is followed, inside the root, and its target created, as Docker does.
    """
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        pass
    parent_path, name = os.path.split(path.rstrip(b"/"))
    if name in {b"", b".", b".."} or links > _MAX_LINKS:
        raise OSError(40, "cannot create it in the container", os.fsdecode(path))
    parent = make_in_root(root, parent_path or b"/", directory=True, links=links)
    try:
        if directory:
            os.mkdir(name, mode, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
    except FileExistsError:
        if not stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return open_in_root(root, path)
        link = os.readlink(name, dir_fd=parent)
        target = link if link.startswith(b"/") else parent_path + b"/" + link
        return make_in_root(root, target, directory=directory, mode=mode, links=links + 1)
    finally:
        os.close(parent)
    return open_in_root(root, path)


def attributes(flags: int) -> int:
    """MS_* flags as MOUNT_ATTR_* ones; the access-time group is handled by the caller when it matters."""
    return sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)


def mount_at(
    target: int, fstype: bytes, flags: int, data: bytes | None = None, *, source: bytes | None = None
) -> None:
    """Mount a new file system on the very directory that `target` is."""
    sc.mount(source or fstype, fd_path(target), fstype, flags, data)


def bind_at(target: int, source: int) -> None:
    """Bind the very object that the fd `source` is over the one that `target` is."""
    sc.mount(fd_path(source), fd_path(target), None, sc.MS_BIND)


def clone_tree(source: bytes | int, *, recursive: bool) -> int:
    """A detached bind mount of a path of the host, or of the object behind an fd."""
    flags = sc.OPEN_TREE_CLONE | (sc.AT_RECURSIVE if recursive else 0)
    if isinstance(source, int):
        return sc.open_tree(source, b"", flags)
    return sc.open_tree(sc.AT_FDCWD, source, flags)


def set_readonly(fd: int, *, recursive: bool) -> None:
    """Make a mount (and the ones below it) read-only; all other flags stay, so that locked ones hold."""
    sc.mount_setattr(fd, set_=sc.MOUNT_ATTR_RDONLY, recursive=recursive)


def map_ids(fd: int, user: int, *, recursive: bool) -> None:
    """Show a detached tree's files with the ids that they have in a user namespace, and make new ones likewise.

    OSError EINVAL where the file system cannot (overlayfs, and network file systems mostly).
    """
    try:
        sc.mount_setattr(fd, set_=sc.MOUNT_ATTR_IDMAP, recursive=recursive, userns=user)
    except OSError as error:
        raise OSError(error.errno, f"its file system cannot map ids: {error.strerror}") from error


def set_propagation(fd: int, propagation: str) -> None:
    """`[r]private`, `[r]slave`, `[r]shared`; "" is rprivate (Docker's default for a bind)."""
    name = propagation or "rprivate"
    kind = PROPAGATIONS.get(name.removeprefix("r"))
    if kind is None:
        raise OSError(22, f"unknown mount propagation {propagation!r}")
    sc.mount_setattr(fd, propagation=kind, recursive=name.startswith("r"))


def overlay(lower: list[bytes], upper: bytes, work: bytes) -> int:
    """A detached overlay mount. Layers (topmost first) are named by fd, so any number of long paths fits.

    `lowerdir+` needs Linux 6.8; before, all of them share one 4096-byte option, where names by fd fit 200 layers.
    """
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in (*lower, upper, work)]
    context = sc.fsopen(b"overlay")
    try:
        names = [fd_path(fd) for fd in fds]
        try:
            for name in names[:-2]:
                sc.fsconfig(context, sc.FSCONFIG_SET_STRING, b"lowerdir+", name)
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING, b"source", b"overlay")
            for key, value in _FEATURES:
                sc.fsconfig(context, sc.FSCONFIG_SET_STRING, key, value)
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING, b"upperdir", names[-2])
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING, b"workdir", names[-1])
            # Before 6.5 overlayfs took any key and parsed them here only: an unknown `lowerdir+` is EINVAL now, not above.
            sc.fsconfig(context, sc.FSCONFIG_CMD_CREATE)
        except OSError as error:
            if error.errno != 22:
                raise
            return _overlay_one_page(names)
        return sc.fsmount(context)
    finally:
        for fd in (context, *fds):
            os.close(fd)


def _overlay_one_page(names: list[bytes]) -> int:
    data = b"lowerdir=%b,upperdir=%b,workdir=%b" % (b":".join(names[:-2]), names[-2], names[-1])
    data += b"".join(b",%b=%b" % feature for feature in _FEATURES)
    # Only mount(2) takes the one-string form: mount over the work directory's parent in this private mount
    # namespace, take the mount off by fd, and leave nothing behind.
    target = os.path.dirname(os.readlink(names[-1]))
    sc.mount(b"overlay", target, b"overlay", 0, data)
    fd = clone_tree(target, recursive=False)
    sc.umount2(target, sc.MNT_DETACH)
    return fd
