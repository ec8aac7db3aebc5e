"""One inotify instance for many watchers of files: who watches a path is called when it grows, moves or goes.

Flows in: paths. Flows out: calls on the event loop. The default limit of instances per user is 128 (inotify(7)), so
all log followers of an engine share this one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable

IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")  # struct inotify_event without its name
_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


def inotify_init1(flags: int) -> int:
    fd: int = _libc.inotify_init1(flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "inotify_init1")
    return fd


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    wd: int = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    if wd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return wd


class DirectoryWatcher:
    """Calls back when something in a watched directory is written to, made, moved in or deleted."""

    def __init__(self) -> None:
        self._fd = -1
        self._callbacks: dict[int, list[Callable[[], None]]] = {}

    def add(self, directory: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Watch `directory` until the function that this returns is called. OSError when it cannot be watched."""
        if self._fd < 0:
            self._fd = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        wd = inotify_add_watch(self._fd, directory, IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE)
        self._callbacks.setdefault(wd, []).append(callback)

        def remove() -> None:
            callbacks = self._callbacks.get(wd, [])
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks and self._callbacks.pop(wd, None) is not None and self._fd >= 0:
                _libc.inotify_rm_watch(
                    self._fd, wd
                )  # EINVAL when the directory is gone: the watch went with it

        return remove

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        offset = 0
        touched: set[int] = set()
        while offset < len(data):
            wd, _mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            # -1 is IN_Q_OVERFLOW: something was missed, so everybody looks.
            touched.update(self._callbacks if wd == -1 else (wd,))
        for wd in touched:
            for callback in tuple(self._callbacks.get(wd, ())):
                callback()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._callbacks.clear()
