"""Loads the same stack file once: a cache of results that are good for as long as no file changed that was looked at.

In: requests. Out: `Loaded` results, from memory when every file that the load read or looked for still has the device,
inode, size and time of change that it had. The key holds the whole request, with the environment, and who asks: a result
is never handed to a caller whose credentials did not make it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

from pystack.stackfile.load import Loaded, LoadRequest, load
from pystack.stackfile.source import Reader

#: A file changed this recently (ns) may change again within the same tick of the file system's clock.
_RACY = 50_000_000


class LoadCache:
    """Keeps the last `size` results. Threads may share it."""

    __slots__ = ("_entries", "_lock", "_size")

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[dict[str, tuple[int, ...]], Loaded]] = OrderedDict()

    def load(self, request: LoadRequest, reader: Reader, identity: Hashable) -> Loaded:
        """As `load.load`. `identity` stands for the credentials that the reader has, such as (uid, gid)."""
        if kept := self.find(request, reader, identity):
            return kept
        watching = _Watching(reader)
        started = time.time_ns()
        loaded = load(request, watching)
        if all(not seen or seen[-1] < started - _RACY for seen in watching.seen.values()):
            with self._lock:
                self._entries[identity, _key(request)] = (watching.seen, loaded)
                if len(self._entries) > self._size:
                    self._entries.popitem(last=False)
        return loaded

    def find(self, request: LoadRequest, reader: Reader, identity: Hashable) -> Loaded | None:
        """The result that is kept of the same request, if all files are as they were."""
        key = (identity, _key(request))
        with self._lock:
            entry = self._entries.get(key)
        if entry is None:
            return None
        whole = all(reader.fingerprint(path) == seen for path, seen in entry[0].items())
        with self._lock:
            self._entries.pop(key, None)
            if whole:
                self._entries[key] = entry  # last in line to be dropped
        return entry[1] if whole else None


def _key(request: LoadRequest) -> Hashable:
    return (
        request.files,
        request.stdin,
        request.working_dir,
        request.project_directory,
        request.project_name,
        request.profiles,
        request.env_files,
        frozenset(request.environment.items()),
        request.services,
    )


class _Watching:
    """A reader that notes the fingerprint of every path before it looks at it."""

    __slots__ = ("reader", "seen")

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.seen: dict[str, tuple[int, ...]] = {}

    def fingerprint(self, path: str) -> tuple[int, ...]:
        if path not in self.seen:
            self.seen[path] = self.reader.fingerprint(path)
        return self.seen[path]

    def read_text(self, path: str) -> str:
        self.fingerprint(path)
        return self.reader.read_text(path)

    def read_bytes(self, path: str, limit: int) -> bytes:
        self.fingerprint(path)
        return self.reader.read_bytes(path, limit)

    def exists(self, path: str) -> bool:
        self.fingerprint(path)
        return self.reader.exists(path)

    def is_dir(self, path: str) -> bool:
        self.fingerprint(path)
        return self.reader.is_dir(path)

    def realpath(self, path: str) -> str:
        return self.reader.realpath(path)
