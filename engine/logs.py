"""Reading a container's json-file log: from the end, by time, following across rotation.

Flows in: the files that the shim writes (`<id>-json.log`, `.1`, `.2` …, gzip when compressed), one JSON object a line.
Flows out: `LogEntry`s, oldest first. A torn last line is not an entry yet; a line that is not JSON is left out and
reported in the engine's log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable

from pystack.engine import clock
from pystack.engine.interface import LogEntry, LogOptions
from pystack.engine.logcursor import Cursor
from pystack.kernel.inotify import DirectoryWatcher

log = logging.getLogger(__name__)

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


class _Selection:
    """Which entries are asked for, but for `tail`: that counts lines of all streams and times, as Docker does."""

    def __init__(self, options: LogOptions) -> None:
        streams = (("stdout", options.stdout), ("stderr", options.stderr))
        self._streams = frozenset(name for name, on in streams if on)
        self._since = clock.format_ns(options.since) if options.since else ""
        self._until = clock.format_ns(options.until) if options.until else "~"

    # RFC 3339 in UTC with nine digits sorts as text: no need to parse a million times.
    def __contains__(self, entry: LogEntry) -> bool:
        return entry.stream in self._streams and self._since <= entry.time <= self._until

    def after(self, entry: LogEntry) -> bool:
        return entry.time > self._until


async def read(
    path: str, options: LogOptions, *, ended: Callable[[], bool], watcher: DirectoryWatcher
) -> AsyncIterator[LogEntry]:
    """Entries of the log at `path`. With `follow` it goes on until `ended()` is true and all is read, or `until`."""
    selection = _Selection(options)
    cursor = Cursor(path)
    try:
        if options.tail is None:
            cursor.to_start()
        else:
            await cursor.to_tail(options.tail)
        changed = asyncio.Event()
        follow = options.follow
        remove = None
        if follow:
            try:
                remove = watcher.add(os.path.dirname(path), changed.set)
            except FileNotFoundError:
                follow = False  # the container has just been removed: what is open is all there will be
        try:
            while True:
                changed.clear()
                last = not follow or ended()
                past_end = False
                for number, line in enumerate(cursor.lines()):
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
