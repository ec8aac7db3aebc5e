"""Attach sessions around the shim's: attached before the start, with the log replayed first, with detach keys.

Each is an `AttachSession` over another one. The bytes themselves come from the shim.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from pystack.engine.interface import AttachSession, LogEntry, StreamName
from pystack.model.errors import InvalidInput

_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q" or "a,ctrl-a"; "" is Docker's default. InvalidInput for an unknown key."""
    out = bytearray()
    for key in (text or "ctrl-p,ctrl-q").split(","):
        control = key.lower().removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            out.append(ord(key))
        elif len(control) == 1 and control != key.lower() and "a" <= control <= "z":
            out.append(ord(control) - ord("a") + 1)
        elif len(control) == 1 and control != key.lower() and control in _CONTROL:
            out.append(_CONTROL[control])
        else:
            raise InvalidInput(f"Invalid detach keys ({text}) provided", hint="write them like ctrl-p,ctrl-q")
    return bytes(out)


class LateSession:
    """A session on a container that has not started: it is bound to the shim before the program's first byte."""

    def __init__(self, *, tty: bool, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.tty = tty
        self.wants = (stdin, stdout, stderr)
        self._inner: asyncio.Future[AttachSession | None] = asyncio.get_running_loop().create_future()

    @property
    def open(self) -> bool:
        return not self._inner.done()

    def bind(self, inner: AttachSession | None) -> None:
        """Give it the live session; None ends it (the start failed)."""
        if not self._inner.done():
            self._inner.set_result(inner)

    async def receive(self) -> tuple[StreamName, bytes] | None:
        inner = await asyncio.shield(self._inner)
        return None if inner is None else await inner.receive()

    async def send(self, data: bytes) -> None:
        inner = await asyncio.shield(self._inner)
        if inner is not None:
            await inner.send(data)

    async def close_stdin(self) -> None:
        inner = await asyncio.shield(self._inner)
        if inner is not None:
            await inner.close_stdin()

    async def close(self) -> None:
        self.bind(None)
        inner = self._inner.result()
        if inner is not None:
            await inner.close()


class ReplaySession:
    """The log so far, then the live session."""

    def __init__(self, inner: AttachSession, log: AsyncIterator[LogEntry], wanted: Iterable[str]) -> None:
        self.tty = inner.tty
        self._inner, self._log, self._wanted = inner, log, frozenset(wanted)
        self._replaying = True

    async def receive(self) -> tuple[StreamName, bytes] | None:
        while self._replaying:
            entry = await anext(self._log, None)
            if entry is None:
                self._replaying = False
            elif entry.stream in self._wanted:
                return entry.stream, entry.line
        return await self._inner.receive()

    async def send(self, data: bytes) -> None:
        await self._inner.send(data)

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        await self._inner.close()


class DetachableSession:
    """A session that ends for this client when the detach keys come through stdin; what is before them is passed on."""

    def __init__(self, inner: AttachSession, keys: bytes, on_detach: Callable[[], None]) -> None:
        self.tty = inner.tty
        self._inner, self._keys, self._on_detach = inner, keys, on_detach
        self._matched = 0
        self._detached = asyncio.Event()
        self._pending: asyncio.Task[tuple[StreamName, bytes] | None] | None = None

    async def receive(self) -> tuple[StreamName, bytes] | None:
        if self._detached.is_set():
            return None
        reading = self._pending or asyncio.ensure_future(self._inner.receive())
        self._pending = reading
        leaving = asyncio.ensure_future(self._detached.wait())
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        if not reading.done():
            return None
        self._pending = None
        return reading.result()

    async def send(self, data: bytes) -> None:
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    if passed:
                        await self._inner.send(bytes(passed))
                    self._detach()
                    return
                continue
            passed += self._keys[: self._matched]
            self._matched = 1 if byte == self._keys[0] else 0
            if not self._matched:
                passed.append(byte)
        if passed:
            await self._inner.send(bytes(passed))

    def _detach(self) -> None:
        self._matched = 0
        if not self._detached.is_set():
            self._detached.set()
            self._on_detach()

    async def close_stdin(self) -> None:
        await self._inner.close_stdin()

    async def close(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        await self._inner.close()


class MemorySession:
    """A session that only has some output to give: what is left when there is no process to talk to."""

    def __init__(self, chunks: Iterable[tuple[StreamName, bytes]] = (), *, tty: bool = False) -> None:
        self.tty = tty
        self._chunks = deque(chunks)

    async def receive(self) -> tuple[StreamName, bytes] | None:
        return self._chunks.popleft() if self._chunks else None

    async def send(self, data: bytes) -> None:
        """Nobody reads it."""

    async def close_stdin(self) -> None:
        """There is none."""

    async def close(self) -> None:
        self._chunks.clear()
