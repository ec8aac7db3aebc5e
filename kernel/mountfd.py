"""Detached mounts: directories of layers in, a descriptor of the mounted tree out, with no entry in any mount table.

The mount lives as long as its descriptor (fsmount(2)); nothing has to be unmounted after a crash.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from pystack.kernel import syscalls
from pystack.kernel.process import fd_path
from pystack.model.errors import EngineError

_syncfs = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, use_errno=True)(("syncfs", syscalls.libc))


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` is on to disk (syncfs(2))."""
    if _syncfs(fd) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "syncfs")


def overlay(lower: Sequence[str], upper: str = "", work: str = "") -> int:
    """A descriptor of an overlay of `lower` (topmost first, absolute paths; two at least without `upper`).

    Without `upper` it is read-only. The caller closes it. nosuid, nodev and noexec: nothing is ever run from it.
    """
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lower]
    names = [fd_path(fd) for fd in fds]
    try:
        try:
            return _mount([(b"lowerdir+", name) for name in names], upper, work)
        except OSError as error:
            joined = b":".join(names)
            if error.errno != errno.EINVAL or len(joined) > 255:
                raise
            # Before Linux 6.7 there is no `lowerdir+`, and one value of fsconfig(2) holds 255 bytes: 12 layers by fd.
            return _mount([(b"lowerdir", joined)], upper, work)
    except OSError as error:
        raise EngineError(f"cannot mount an overlay of {len(lower)} layers: {error.strerror}") from error
    finally:
        for fd in fds:
            os.close(fd)


def _mount(lower: list[tuple[bytes, bytes]], upper: str, work: str) -> int:
    """A fresh context each time: one that refused an option cannot be used again."""
    context = syscalls.fsopen(b"overlay")
    try:
        for key, value in lower:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
        if upper:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"upperdir", os.fsencode(upper))
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"workdir", os.fsencode(work))
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        return syscalls.fsmount(context, attributes | (0 if upper else syscalls.MOUNT_ATTR_RDONLY))
    finally:
        os.close(context)
