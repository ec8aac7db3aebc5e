r"""Docker's json-file log: bytes of a container's stdout and stderr in, one JSON object a line out, with rotation.

    {"log":"text\n","stream":"stdout","time":"2026-11-24T13:00:00.123456789Z"}

Lines longer than 16 KiB are written in chunks, of which only the last ends with a newline. Runs in the shim: standard
library only, and a log that cannot be written (disk full) never holds the container up; what is lost is counted.
Source: moby daemon/logger/jsonfilelog and daemon/logger/copier.go.
"""

from __future__ import annotations

import os
import time
import zlib
from _json import encode_basestring as _quote  # the C function; keeps text beyond ASCII as it is

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from pystack.engine.runtime.bundle import LogFile

CHUNK = 16 * 1024
_GZIP = 31  # zlib's wbits for a gzip header with the largest window
_COMPRESS_STEP = 256 * 1024


class _Clock:
    """RFC 3339 times with nanoseconds; the seconds are formatted once each."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def format(self, now: int) -> str:
        second, nanosecond = divmod(now, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{nanosecond:09d}Z"


_CLOCK = _Clock()


def timestamp(now: int) -> str:
    """RFC 3339 with nine digits of a wall-clock time in ns."""
    return _CLOCK.format(now)


def split_entries(pending: bytes, data: bytes) -> tuple[list[bytes], bytes]:
    """Entries that are complete in `pending + data`, and what is left over: at most CHUNK bytes without a newline."""
    lines = (pending + data).split(b"\n")
    rest = lines.pop()
    entries: list[bytes] = []
    for line in lines:
        if len(line) < CHUNK:
            entries.append(line + b"\n")
        else:
            chunks, tail = _chunks(line + b"\n")
            entries += [*chunks, tail] if tail else chunks
    if len(rest) > CHUNK:
        chunks, rest = _chunks(rest)
        entries += chunks
    return entries, rest


def _chunks(line: bytes) -> tuple[list[bytes], bytes]:
    """Full chunks of a long line, none cut inside a UTF-8 character, and a remainder of at most CHUNK bytes."""
    chunks: list[bytes] = []
    start = 0
    while len(line) - start > CHUNK:
        end = start + CHUNK
        while end > start + CHUNK - 3 and line[end] & 0xC0 == 0x80:
            end -= 1
        chunks.append(line[start:end])
        start = end
    return chunks, line[start:]


class LogWriter:
    """The log of one container. `write` and `flush` never raise for a disk that refuses; `dropped` counts entries."""

    def __init__(self, config: LogFile) -> None:
        self._path = config["path"]
        self._max_size = config["max_size"]
        self._max_file = max(config["max_file"], 1)
        self._compress = config["compress"]
        attributes = config["attributes"]
        pairs = ",".join(f"{_quote(name)}:{_quote(value)}" for name, value in attributes.items())
        self._attributes = f',"attrs":{{{pairs}}}' if attributes else ""
        self._pending = {"stdout": b"", "stderr": b""}
        self._compressor: _Compressor | None = None
        self.dropped = 0
        self._fd, self._size = self._open()

    def _open(self) -> tuple[int, int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        size = os.fstat(fd).st_size
        try:
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size += os.write(
                    fd, b"\n"
                )  # a shim was killed while it wrote: its torn line is nobody else's
        except OSError:
            pass  # no file that can be read, or a full disk: the next entry tells
        return fd, size

    def _replace(self, path: str, flags: int = 0) -> None:
        """Write to another file from here on."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o640)
        os.close(self._fd)
        self._fd = fd

    def write(self, stream: str, data: bytes) -> None:
        """Take what was read from one stream, at one time; complete lines go to the file in one write."""
        entries, self._pending[stream] = split_entries(self._pending[stream], data)
        if entries:
            self._append(stream, entries)

    def flush(self) -> None:
        """The streams have ended: write the last lines, which have no newline."""
        for stream, rest in self._pending.items():
            if rest:
                self._append(stream, [rest])
        self._pending = {"stdout": b"", "stderr": b""}
        while self.work():
            pass

    def _append(self, stream: str, entries: list[bytes]) -> None:
        suffix = f',"stream":"{stream}"{self._attributes},"time":"{timestamp(time.time_ns())}"}}\n'
        batch: list[bytes] = []
        size = 0
        for entry in entries:
            line = f'{{"log":{_quote(entry.decode("utf-8", "replace"))}{suffix}'.encode()
            if 0 < self._max_size <= self._size + size:
                self._write(b"".join(batch), len(batch))
                batch, size = [], 0
                self._rotate()
            batch.append(line)
            size += len(line)
        self._write(b"".join(batch), len(batch))

    def _write(self, data: bytes, count: int) -> None:
        if not data:
            return
        try:
            written = os.write(self._fd, data)
            if written == len(data):
                self._size += written
                return
            os.ftruncate(self._fd, self._size)  # no half lines
        except OSError:
            pass  # ENOSPC, EDQUOT, EIO: the container goes on, the loss is counted
        self.dropped += count

    def _rotate(self) -> None:
        """Shift path → path.1 → path.2 …: at most `max_file` files in all. On failure the log goes on in the same file."""
        while self.work():
            pass
        try:
            if self._max_file == 1:
                # A new file, not an emptied one: who follows the log reads the old one to its end.
                self._replace(f"{self._path}.new", os.O_TRUNC)
                os.rename(f"{self._path}.new", self._path)
            else:
                for number in range(self._max_file - 2, 0, -1):
                    for extension in ("", ".gz"):
                        _rename(f"{self._path}.{number}{extension}", f"{self._path}.{number + 1}{extension}")
                os.rename(self._path, f"{self._path}.1")
                self._replace(self._path)
                if self._compress:
                    self._compressor = _Compressor(f"{self._path}.1")
            self._size = 0
        except OSError:
            self.dropped += 0  # nothing is lost: the next write tries again

    def work(self) -> bool:
        """Do a slice of the compression of a rotated file, if one is under way; False when there is none."""
        if self._compressor is None:
            return False
        try:
            if self._compressor.step():
                return True
        except OSError:
            self._compressor.abandon()
        self._compressor = None
        return False

    def close(self) -> None:
        self.flush()
        os.close(self._fd)


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        pass


class _Compressor:
    """gzip of one rotated file, in slices, so that the shim's loop is never away for long."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._target = os.open(f"{path}.gz.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._deflate = zlib.compressobj(level=1, wbits=_GZIP)

    def step(self) -> bool:
        data = os.read(self._source, _COMPRESS_STEP)
        packed = self._deflate.compress(data) if data else self._deflate.flush()
        view = memoryview(packed)
        while view:
            view = view[os.write(self._target, view) :]
        if data:
            return True
        self._close()
        os.rename(f"{self._path}.gz.tmp", f"{self._path}.gz")
        os.unlink(self._path)
        return False

    def abandon(self) -> None:
        self._close()
        try:
            os.unlink(f"{self._path}.gz.tmp")
        except FileNotFoundError:
            pass

    def _close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
