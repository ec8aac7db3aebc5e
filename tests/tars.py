"""Reading a tar with the engine's reader, in pieces as they come from a network."""

from __future__ import annotations

import io
import tarfile

import images

from pystack.image.tarstream import Entry, Limits, Source, TarReader

LIMITS = Limits(bytes=1 << 24, entries=1000)


class Dribble:
    """Gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, size: int) -> None:
        self._stream = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._size))


def entries(data: bytes, size: int = 1 << 20, limits: Limits = LIMITS) -> list[tuple[Entry, bytes]]:
    source = Source(Dribble(data, size), "it", limits.bytes)
    reader = TarReader(source, "it", limits)
    found = [(entry, b"".join(map(bytes, reader.content()))) for entry in reader]
    source.drain()
    return found


MEMBERS = [
    images.directory("d", 0o2755, uid=1000, gid=2**31),
    images.member("d/" + "long" * 60, b"content" * 1000, mode=0o4711, mtime=-5),
    images.member("d/ünï", b"x"),
    images.symlink("d/link", "target" * 40),
    images.hardlink("d/hard", "d/ünï"),
    images.member("null", type=tarfile.CHRTYPE, device=(1, 3)),
    images.member("empty"),
]
