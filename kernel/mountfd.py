"""Detached mounts: directories of layers in, a descriptor of the mounted tree out, with no entry in any mount table.

The mount lives as long as its descriptor (fsmount(2)); nothing has to be unmounted after a crash.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from pystack.kernel import syscalls
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
    context = syscalls.fsopen(b"overlay")
    try:
        _set_lower(context, [os.fsencode(path) for path in lower])
        if upper:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"upperdir", os.fsencode(upper))
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"workdir", os.fsencode(work))
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        return syscalls.fsmount(context, attributes | (0 if upper else syscalls.MOUNT_ATTR_RDONLY))
    except OSError as error:
        raise EngineError(f"cannot mount an overlay of {len(lower)} layers: {error.strerror}") from error
    finally:
        os.close(context)


def _set_lower(context: int, lower: list[bytes]) -> None:
    """One `lowerdir+` for each (Linux 6.7); before that one string of at most 255 bytes."""
    try:
        for path in lower:
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"lowerdir+", path)
    except OSError as error:
        joined = b":".join(lower)
        if error.errno != errno.EINVAL or len(joined) > 255:
            raise
        syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, b"lowerdir", joined)
