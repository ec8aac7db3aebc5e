"""Decompression by magic number: a reader of bytes in, a reader of what they hold out. Memory use is bounded.

All in this process: nothing of an image is ever handed to a program (CVE-2026-41567). gzip goes through isal.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import Protocol

import zstandard
from isal import igzip, isal_zlib

#: Largest zstd window that is accepted; the format allows 2 TiB. containerd's and Docker's writers use up to 8 MiB.
ZSTD_WINDOW_MAX = 128 << 20
#: Largest xz dictionary, by the memory that it needs. `xz -9` needs 65 MiB.
XZ_MEMORY_MAX = 192 << 20
BUFFER = 1 << 20

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}

ERRORS: tuple[type[Exception], ...] = (
    EOFError,
    zlib.error,
    isal_zlib.error,  # type: ignore[assignment] # the stub calls it an instance
    lzma.LZMAError,
    zstandard.ZstdError,
)


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _XzReader:
    """`lzma.LZMAFile` has no memory limit; this has, and takes several streams one after another."""

    def __init__(self, raw: Reader) -> None:
        self._raw = raw
        self._decoder: lzma.LZMADecompressor | None = self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)

    def read(self, size: int, /) -> bytes:
        pending = b""
        while self._decoder is not None:
            if self._decoder.eof:
                pending = self._decoder.unused_data.lstrip(b"\0") or self._raw.read(BUFFER).lstrip(b"\0")
                if not pending:
                    self._decoder = None
                    break
                self._decoder = self._new()
            elif self._decoder.needs_input:
                pending = self._raw.read(BUFFER)
                if not pending:
                    raise EOFError("cannot decompress: the xz stream ends too early")
            out = self._decoder.decompress(pending, size)
            if out:
                return out
        return b""


class _Buffered(io.RawIOBase):
    """A reader as a raw stream, for those that want `readinto` and `peek`."""

    def __init__(self, source: Reader) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        data = self._source.read(len(target))
        target[: len(data)] = data
        return len(data)


def kind_of(head: bytes) -> str:
    """gzip, bzip2, xz, zstd, or "" for data that is not compressed (in a way known here)."""
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")


def decompress(source: Reader) -> tuple[str, Reader]:
    """(kind, reader of the content). A nested compression is not undone: the tar inside must follow directly."""
    stream = io.BufferedReader(_Buffered(source), BUFFER)
    kind = kind_of(stream.peek(8)[:8])
    if kind == "gzip":
        return kind, igzip.IGzipFile(fileobj=stream, mode="rb")  # type: ignore[no-untyped-call]
    if kind == "bzip2":
        return kind, bz2.BZ2File(stream)
    if kind == "xz":
        return kind, _XzReader(stream)
    if kind == "zstd":
        return kind, zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX).stream_reader(
            stream, read_size=BUFFER, read_across_frames=True
        )
    return "", stream


def is_damage(error: Exception) -> bool:
    """Whether a read failed because of what was read: bz2 and gzip raise OSError without an errno for that."""
    return isinstance(error, ERRORS) or (isinstance(error, OSError) and error.errno is None)
