"""Reading a container's json-file log: from the end, by time, following across rotation.

Flows in: the files that the shim writes (`<id>-json.log`, `.1`, `.2` …, gzip when compressed), one JSON object a line.
Flows out: `LogEntry`s, oldest first. A torn last line is not an entry yet; a line that is not JSON is left out and
reported in the engine's log.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import IO

from pystack.engine import clock
from pystack.engine.interface import LogEntry, LogOptions
from pystack.kernel.inotify import DirectoryWatcher

log = logging.getLogger(__name__)

_BLOCK = 64 * 1024
#: Entries handed out between two visits of the event loop: a long log must not hold up everything else.
_BATCH = 256
#: A follower looks by itself this often (seconds), in case a change was not reported.
_RECHECK = 1.0


def parse_entry(line: bytes) -> LogEntry | None:
    """One line of a json-file log, None when it is not one."""
    try:
        raw = json.loads(line)
        return LogEntry(
            time=raw["time"],
            stream=raw["stream"],
            line=raw["log"].encode(errors="surrogatepass"),
            attributes=raw.get("attrs", {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("left out a line of a log that is not an entry: %.80r", line)
        return None


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
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]  # GzipFile reads like IO[bytes]


def _lines_backwards(path: str) -> Iterator[bytes]:
    """Whole lines from the last to the first. A torn last line is left out."""
    if path.endswith(".gz"):
        with _open(path) as file:
            yield from reversed(file.read().splitlines(keepends=True))
        return
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest, whole = b"", False
        while position:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            pieces = (file.read(size) + rest).split(b"\n")
            rest = pieces[0]
            for piece in reversed(pieces[1:]):
                if whole:
                    yield piece
                whole = True  # what follows the last newline is torn, or nothing
        if rest and whole:
            yield rest


class _Selection:
    """Which entries are asked for, but for `tail`."""

    def __init__(self, options: LogOptions) -> None:
        streams = (("stdout", options.stdout), ("stderr", options.stderr))
        self._streams = frozenset(name for name, on in streams if on)
        self._since = clock.format_ns(options.since) if options.since else ""
        self._until = clock.format_ns(options.until) if options.until else "~"

    # RFC 3339 in UTC with nine digits sorts as text: no need to parse a million times.
    def __contains__(self, entry: LogEntry) -> bool:
        return entry.stream in self._streams and self._since <= entry.time <= self._until

    def before(self, entry: LogEntry) -> bool:
        return entry.time < self._since

    def after(self, entry: LogEntry) -> bool:
        return entry.time > self._until


def _tail(files: Iterable[str], selection: _Selection, count: int) -> list[LogEntry]:
    kept: list[LogEntry] = []
    for path in files:
        try:
            for line in _lines_backwards(path):
                if len(kept) >= count:
                    break
                entry = parse_entry(line)
                if entry is not None and selection.before(entry):
                    count = len(kept)
                elif entry is not None and entry in selection:
                    kept.append(entry)
        except FileNotFoundError:
            continue  # rotated away while we came to it
        if len(kept) >= count:
            break
    kept.reverse()
    return kept


class _Cursor:
    """Reads one log forward, file by file, and knows where it stands when files are rotated under it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._todo = deque(rotated(path))
        self._file: IO[bytes] | None = None
        self._rest = b""

    def to_end(self) -> None:
        """Stand behind the last whole line of the current file."""
        self.close()
        self._todo.clear()
        try:
            self._file = _open(self._path)
        except FileNotFoundError:
            self._todo.append(self._path)
            return
        size = self._file.seek(0, os.SEEK_END)
        start = max(0, size - _BLOCK)
        self._file.seek(start)
        block = self._file.read(size - start)
        self._rest = block[block.rfind(b"\n") + 1 :]

    def lines(self) -> Iterator[bytes]:
        """Every whole line that is there now."""
        while True:
            if self._file is None:
                if not self._todo or not self._open_next():
                    return
                continue
            block = self._file.read(_BLOCK)
            if block:
                pieces = (self._rest + block).split(b"\n")
                self._rest = pieces.pop()
                yield from pieces
            elif self._todo or self._rotated():
                self._rest = b""
                self._file.close()
                self._file = None
            else:
                return

    def _open_next(self) -> bool:
        try:
            self._file = _open(self._todo[0])
        except FileNotFoundError:
            if self._todo[0] == self._path:
                return False  # not made yet: look again later
        self._todo.popleft()
        return True

    def _rotated(self) -> bool:
        """Whether another file has our path now; then what came after ours is put on the list."""
        assert self._file is not None
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return False
        own = os.fstat(self._file.fileno())
        if (current.st_dev, current.st_ino) == (own.st_dev, own.st_ino):
            return False
        newer: deque[str] = deque()
        for name in reversed(rotated(self._path)):
            try:
                if os.stat(name).st_ino == own.st_ino:
                    break
            except FileNotFoundError:
                continue
            newer.appendleft(name)
        self._todo = newer
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def read(
    path: str, options: LogOptions, *, ended: Callable[[], bool], watcher: DirectoryWatcher
) -> AsyncIterator[LogEntry]:
    """Entries of the log at `path`. With `follow` it goes on until `ended()` is true and all is read, or `until`."""
    selection = _Selection(options)
    cursor = _Cursor(path)
    try:
        if options.tail is not None:
            for entry in _take_tail(path, cursor, selection, options):
                yield entry
        changed = asyncio.Event()
        remove = watcher.add(os.path.dirname(path), changed.set) if options.follow else None
        try:
            while True:
                changed.clear()
                last = not options.follow or ended()
                past_end = False
                for number, line in enumerate(
                    cursor.lines() if options.follow or options.tail is None else ()
                ):
                    if number % _BATCH == _BATCH - 1:
                        await asyncio.sleep(0)
                    found = parse_entry(line)
                    if found is not None and selection.after(found):
                        past_end = True
                        break
                    if found is not None and found in selection:
                        yield found
                if last or past_end or not await _changed(changed, options):
                    return
        finally:
            if remove is not None:
                remove()
    finally:
        cursor.close()


def _take_tail(path: str, cursor: _Cursor, selection: _Selection, options: LogOptions) -> list[LogEntry]:
    """The last entries; the cursor stands right behind them, without a gap, because no await lies between."""
    if options.follow:
        cursor.to_end()
    if options.tail == 0:
        return []
    return _tail(reversed(rotated(path)), selection, options.tail or 0)


async def _changed(changed: asyncio.Event, options: LogOptions) -> bool:
    """Wait for more; False when `until` has passed."""
    limit = _RECHECK
    if options.until:
        limit = min(limit, (options.until - clock.now_ns()) / 1e9)
        if limit <= 0:
            return False
    try:
        async with asyncio.timeout(limit):
            await changed.wait()
    except TimeoutError:
        pass  # the look by itself
    return True
