"""The only I/O of the loader: a `Reader` looks at files, and `HostReader` is the real one.

The daemon loads stack files for callers; it runs the reader with the caller's credentials, so that a stack file cannot
read what its author cannot.
"""

from __future__ import annotations

import os
import stat
from typing import Protocol

from pystack.model.errors import Forbidden, InvalidInput, NotFound


class Reader(Protocol):
    """What the loader needs to know of the file system. Paths are absolute."""

    def read_text(self, path: str) -> str:
        """The file's text. NotFound, Forbidden or InvalidInput (a directory, not UTF-8, too large)."""

    def read_bytes(self, path: str, limit: int) -> bytes:
        """The file's content. As read_text; InvalidInput when it holds more than `limit` bytes."""

    def exists(self, path: str) -> bool: ...
    def is_dir(self, path: str) -> bool: ...
    def realpath(self, path: str) -> str: ...

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """Changes when the file does: device, inode, size, mtime in ns. Empty when there is no such file."""


TEXT_LIMIT = 10_000_000


class HostReader:
    """Reads the host's files with the process's own credentials."""

    __slots__ = ()

    def read_text(self, path: str) -> str:
        content = self.read_bytes(path, TEXT_LIMIT)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"cannot read {path}: byte {error.start} is not UTF-8 text") from error

    def read_bytes(self, path: str, limit: int) -> bytes:
        try:
            # O_NONBLOCK: a fifo in place of the file must not hang the daemon.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFound(f"cannot find {path}") from error
        except PermissionError as error:
            raise Forbidden(f"cannot read {path}: permission denied") from error
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(kind) and path != os.devnull:
            os.close(descriptor)
            what = "a directory" if stat.S_ISDIR(kind) else "not a regular file"
            raise InvalidInput(f"cannot read {path}: it is {what}")
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise InvalidInput(f"cannot read {path}: it is larger than {limit:,} bytes")
        return content

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def realpath(self, path: str) -> str:
        return os.path.realpath(path)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        try:
            status = os.stat(path)
        except OSError:
            return ()
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
