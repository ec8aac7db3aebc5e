"""A place in a container's log, which goes on over rotation and compression: a path in, whole lines out.

A file of a log is known by its first line, which carries a time in nanoseconds: its name changes with every rotation and
its inode when it is compressed. So a place can be written down and found again by another process.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from typing import IO

_BLOCK = 64 * 1024
_FIRST_LINE = 256 * 1024  # bytes: an entry of 16 KiB, every byte of it escaped, and its attributes
_TRIES = 20


def rotated(path: str) -> list[str]:
    """The files of a log that exist, oldest first."""
    found = []
    number = 1
    while True:
        names = [n for n in (f"{path}.{number}", f"{path}.{number}.gz") if os.path.exists(n)]
        if not names:
            break
        found.append(names[0])
        number += 1
    return [*reversed(found), path]


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile reads like IO[bytes]
    return open(path, "rb", buffering=0)


def _inode(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _open_all(path: str) -> list[IO[bytes]]:
    """Every file of the log, oldest first, all of one moment: a rotation in between would hide one or show it twice."""
    for attempt in range(_TRIES):
        files = []
        for name in rotated(path):
            try:
                files.append(_open(name))
            except FileNotFoundError:
                continue
        if attempt == _TRIES - 1 or [_inode(file) for file in files] == _inodes(path):
            return files
        for file in files:
            file.close()
    raise AssertionError("the last attempt returns")


def _inodes(path: str) -> list[tuple[int, int]]:
    found = []
    for name in rotated(path):
        try:
            status = os.stat(name)
        except FileNotFoundError:
            continue
        found.append((status.st_dev, status.st_ino))
    return found


def _head(file: IO[bytes]) -> str:
    """What a file of the log is known by, "" while its first line is not whole. The file stands where it stood."""
    place = file.tell()
    file.seek(0)
    line = file.read(_BLOCK)
    while b"\n" not in line and len(line) < _FIRST_LINE:
        more = file.read(_BLOCK)
        if not more:
            break
        line += more
    file.seek(place)
    end = line.find(b"\n")
    return hashlib.sha256(line[:end]).hexdigest()[:32] if end >= 0 else ""


async def _to_last_lines(file: IO[bytes], count: int) -> int:
    """Put `file` before its last `count` whole lines; how many there are."""
    if isinstance(file, gzip.GzipFile):
        return await _to_last_lines_forward(file, count)
    position = file.seek(0, os.SEEK_END)
    seen = 0  # newlines; the last one ends the last whole line
    while position:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        if seen + block.count(b"\n") <= count:
            seen += block.count(b"\n")
            await asyncio.sleep(0)
            continue
        index = len(block)
        for _ in range(count + 1 - seen):
            index = block.rfind(b"\n", 0, index)
        file.seek(position + index + 1)
        return count
    file.seek(0)
    return seen


async def _to_last_lines_forward(file: IO[bytes], count: int) -> int:
    """The same for a compressed file, which cannot be read backwards."""
    total = 0
    while block := file.read(_BLOCK):
        total += block.count(b"\n")
        await asyncio.sleep(0)
    file.seek(0)
    for _ in range(max(0, total - count)):
        file.readline()
    return min(total, count)


class Cursor:
    """Reads one log forward, file by file. `lost` counts how often files went before they were read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._todo: deque[IO[bytes]] = deque()
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._offset = 0  # in the file, behind the last line that was given out
        self._head = ""
        self.lost = 0

    def to_start(self) -> None:
        self.close()
        self._todo = deque(_open_all(self._path))

    async def to_tail(self, count: int) -> None:
        """Stand before the last `count` lines."""
        self.close()
        files = _open_all(self._path)
        while files:
            file = files.pop()
            count -= await _to_last_lines(file, count)
            self._todo.appendleft(file)
            if count <= 0:
                break
        for file in files:
            file.close()

    def to_place(self, head: str, offset: int) -> None:
        """Stand where `place` was told; before all that is left when that file has gone."""
        self.to_start()
        if not head:
            return
        files = list(self._todo)
        for number, file in enumerate(files):
            if _head(file) == head:
                for old in files[:number]:
                    old.close()
                file.seek(offset)
                self._todo = deque(files[number:])
                return
        self.lost += 1

    def place(self) -> tuple[str, int]:
        """Behind the last line that was given out: the file's head and the offset in it, as it was written."""
        if self._file is not None and not self._head:
            self._head = _head(self._file)
        return self._head, self._offset

    def behind(self) -> int:
        """Bytes that are there and were not given out; of compressed files as they lie on the disk."""
        files = [*([self._file] if self._file is not None else []), *self._todo]
        total = sum(os.fstat(file.fileno()).st_size for file in files) - self._offset
        if self._file is not None and not self._todo and self._is_rotated(self._file):
            total += sum(os.stat(n).st_size for n in (self._path,) if os.path.exists(n))
        return max(0, total)

    def lines(self) -> Iterator[bytes]:
        """Every whole line that is there now, without its newline."""
        while True:
            if self._file is None and not self._next():
                return
            assert self._file is not None
            block = self._file.read(_BLOCK)
            if block:
                pieces = (self._rest + block).split(b"\n")
                self._rest = pieces.pop()
                for piece in pieces:
                    self._offset += len(piece) + 1
                    yield piece
            elif self._todo:
                self._next()
            elif not self._look_for_newer():
                return  # and if there are: what was written to this one before the rotation comes first

    def _next(self) -> bool:
        """Go on to the next file."""
        if not self._todo:
            self._todo = deque(_open_all(self._path))
            if not self._todo:
                return False
        if self._file is not None:
            self._file.close()
        self._file = self._todo.popleft()
        self._rest, self._offset = b"", self._file.tell()
        self._head = _head(self._file)
        return True

    def _is_rotated(self, file: IO[bytes]) -> bool:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) != _inode(file)

    def _look_for_newer(self) -> bool:
        """Whether another file has our path now; then what came after ours is put on the list."""
        assert self._file is not None
        if not self._is_rotated(self._file):
            return False
        files, own = _open_all(self._path), _inode(self._file)
        head = self.place()[0]
        for number in range(len(files) - 1, -1, -1):
            if _inode(files[number]) == own or (head and _head(files[number]) == head):
                for old in files[: number + 1]:
                    old.close()
                self._todo = deque(files[number + 1 :])
                return bool(self._todo)
        self.lost += 1
        self._todo = deque(files)
        return bool(files)

    def close(self) -> None:
        for file in (*([self._file] if self._file is not None else []), *self._todo):
            file.close()
        self._file = None
        self._todo.clear()
        self._rest = b""
