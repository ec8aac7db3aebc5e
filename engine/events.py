"""The event bus: what happened, in order. A ring of 256 for latecomers and bounded queues for subscribers.

Flows in: `publish` calls of every part of the engine. Flows out: `subscribe` streams. A subscriber that falls 1,024
events behind is ended with an error instead of losing events silently.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

from pystack.model.errors import Unavailable
from pystack.model.observed import Event

RING = 256
BACKLOG = 1024

Filters = Mapping[str, Sequence[str]]


def _names(event: Event, kind: str, attribute: str) -> tuple[str, ...]:
    if event.type == kind:
        return (event.actor_id, event.attributes.get("name", ""))
    value = event.attributes.get(attribute, "")
    return (value,) if value else ()


def _image_names(event: Event) -> set[str]:
    names = {n for n in _names(event, "image", "image") if n}
    return names | {
        n.rpartition(":")[0] for n in names if ":" in n.rpartition("/")[2] and not n.startswith("sha256:")
    }


def _matches_label(event: Event, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)


def _matches_action(event: Event, wanted: str) -> bool:
    """`exec_start` and `health_status` name the whole family: what follows the colon need not be given."""
    return event.action == wanted or event.action.partition(":")[0] == wanted


def _matches_one(event: Event, key: str, wanted: str) -> bool:
    match key:
        case "type":
            return event.type == wanted
        case "event":
            return _matches_action(event, wanted)
        case "label":
            return _matches_label(event, wanted)
        case "image":
            return wanted in _image_names(event)
        case "scope":
            return wanted == "local"
        case "container" | "network" | "volume" | "daemon":
            names = _names(event, key, key)
            return any(
                n == wanted or (len(wanted) >= 4 and n.startswith(wanted) and len(n) == 64) for n in names
            )
        case _:
            return False


def matches(event: Event, filters: Filters | None) -> bool:
    """Docker's filter rules: any value of one key, all keys; labels must all be there."""
    for key, values in (filters or {}).items():
        if not values:
            continue
        test = all if key == "label" else any
        if not test(_matches_one(event, key, v) for v in values):
            return False
    return True


class EventBus:
    def __init__(self) -> None:
        self._ring: deque[Event] = deque(maxlen=RING)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self._overrun: set[asyncio.Queue[Event | None]] = set()
        self._last_ns = 0

    @property
    def listeners(self) -> int:
        return len(self._subscribers)

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> Event:
        """Record one event now. Times never go backwards, so that `since` the last one seen misses nothing."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = Event(
            type=type, action=action, actor_id=actor_id, attributes=dict(attributes), time_ns=self._last_ns
        )
        self._ring.append(event)
        for queue in tuple(self._subscribers):
            if queue.qsize() >= BACKLOG:
                self._subscribers.discard(queue)
                self._overrun.add(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)
        return event

    def close(self) -> None:
        """End every subscription: the engine shuts down."""
        for queue in self._subscribers:
            queue.put_nowait(None)
        self._subscribers.clear()

    def subscribe(
        self, *, since: int = 0, until: int = 0, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        """Past events from the ring since `since` (ns), then live ones until `until` (ns, 0 = for ever).

        The subscription counts from this call, not from the first event asked for.
        """
        past = (
            [e for e in self._ring if e.time_ns >= since and (not until or e.time_ns <= until)]
            if since
            else []
        )
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._subscribers.add(queue)
        return _Subscription(self, queue, deque(past), until, filters)

    def leave(self, queue: asyncio.Queue[Event | None]) -> bool:
        """Drop a subscriber; whether it had been dropped for being too slow."""
        self._subscribers.discard(queue)
        slow = queue in self._overrun
        self._overrun.discard(queue)
        return slow


class _Subscription:
    """An async iterator that leaves the bus when it ends, is closed or is dropped."""

    def __init__(
        self,
        bus: EventBus,
        queue: asyncio.Queue[Event | None],
        past: deque[Event],
        until: int,
        filters: Filters | None,
    ) -> None:
        self._bus, self._queue, self._past, self._until, self._filters = bus, queue, past, until, filters
        self._done = False

    def __aiter__(self) -> _Subscription:
        return self

    async def _next(self) -> Event | None:
        if self._past:
            return self._past.popleft()
        if not self._until:
            return await self._queue.get()
        left = (self._until - time.time_ns()) / 1e9
        if left <= 0 and self._queue.empty():
            return None
        try:
            async with asyncio.timeout(max(left, 0)):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def __anext__(self) -> Event:
        while not self._done:
            event = await self._next()
            if event is None or (self._until and event.time_ns > self._until):
                self._done = True
                if self._bus.leave(self._queue):
                    raise Unavailable("cannot keep up: this client is more than 1024 events behind")
            elif matches(event, self._filters):
                return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._done = True
        self._bus.leave(self._queue)

    def __del__(self) -> None:
        self._bus.leave(self._queue)
