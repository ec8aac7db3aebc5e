"""Writing tar archives: entries and their content in, blocks out to a callable, in one pass and with bounded memory.

ustar, with a pax header before an entry where a field does not fit: what every tar, Go's and Python's among them, reads.
Names are bytes, as the file system has them. Times are whole seconds, as in Docker's archives. Sources: tar(5), POSIX pax.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from pystack.image.tarstream import BLOCK_SIZE

Write = Callable[[bytes | memoryview], None]

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_OCTAL_MAX = 0o7777777  # of a field of 8 bytes
_SIZE_MAX = 0o77777777777  # of a field of 12 bytes
_NAME_MAX = 100


class TarWriter:
    """`write` takes what it is given before it returns: buffers are used again."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def header(
        self,
        name: bytes,
        kind: bytes,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        link: bytes = b"",
        device: int = 0,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        """One entry; `size` bytes of content must follow by `data` or `content`. `device` is an st_rdev."""
        pax: dict[bytes, bytes] = {}
        if len(name) > _NAME_MAX:
            pax[b"path"] = name
        if len(link) > _NAME_MAX:
            pax[b"linkpath"] = link
        for key, value, limit in (
            (b"uid", uid, _OCTAL_MAX),
            (b"gid", gid, _OCTAL_MAX),
            (b"size", size, _SIZE_MAX),
            (b"mtime", mtime, _SIZE_MAX),
        ):
            if not 0 <= value <= limit:
                pax[key] = b"%d" % value
        for key_text, content in (xattrs or {}).items():
            pax[b"SCHILY.xattr." + key_text.encode()] = content
        if pax:
            record = b"".join(_pax_record(key, value) for key, value in pax.items())
            self._write(_block(b"PaxHeaders/" + name[-80:].lstrip(b"/"), b"x", (0o644, 0, 0, len(record), 0)))
            self.data(record)
        numbers = (
            mode & 0o7777,
            _fit(uid, _OCTAL_MAX),
            _fit(gid, _OCTAL_MAX),
            _fit(size, _SIZE_MAX),
            _fit(mtime, _SIZE_MAX),
        )
        place = (os.major(device), os.minor(device))
        self._write(_block(name[:_NAME_MAX], kind, numbers, link[:_NAME_MAX], place))

    def data(self, content: bytes) -> None:
        """The whole content of an entry."""
        self._write(content)
        self.pad(len(content))

    def content(self, fd: int, size: int) -> None:
        """The content of the regular file `fd`, exactly `size` bytes: what it has lost meanwhile are zeros.

        Holes are not read (lseek(2), SEEK_DATA).
        """
        at = 0
        buffer = memoryview(bytearray(min(_PIECE, size)))
        while at < size:
            start, end = _extent(fd, at, size)
            self._zeros(start - at)
            at = start
            while at < end:
                count = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
                if not count:
                    self._zeros(size - at)
                    at = size
                    break
                self._write(buffer[:count])
                at += count
        self.pad(size)

    def _zeros(self, count: int) -> None:
        while count > 0:
            self._write(_ZEROS[: min(count, _PIECE)] if count < _PIECE else _ZEROS)
            count -= _PIECE

    def piece(self, content: bytes) -> None:
        """A piece of an entry's content; `pad` must come after the last."""
        self._write(content)

    def pad(self, size: int) -> None:
        """Fill the last block of a content of `size` bytes."""
        if rest := -size % BLOCK_SIZE:
            self._write(_ZEROS[:rest])

    def finish(self) -> None:
        """The end-of-archive mark."""
        self._write(_ZEROS[: 2 * BLOCK_SIZE])


def _extent(fd: int, at: int, size: int) -> tuple[int, int]:
    """(start, end) of the next piece of data at or after `at`; both are `size` when only a hole is left."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # a file system that does not know of holes
            return at, size
        raise


def _fit(value: int, limit: int) -> int:
    return value if 0 <= value <= limit else 0


def _block(
    name: bytes,
    kind: bytes,
    numbers: tuple[int, int, int, int, int],
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """A header: `numbers` are mode, uid, gid, size and mtime; its checksum counts its own field as spaces."""
    block = (
        name.ljust(100, b"\0")
        + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
        + b" " * 8
        + kind
        + link.ljust(100, b"\0")
        + b"ustar\00000"
        + bytes(64)
        + b"%07o\0%07o\0" % device
        + bytes(167)
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax_record(key: bytes, value: bytes) -> bytes:
    """Length, space, key=value, newline; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
