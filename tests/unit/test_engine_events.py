"""The event bus: ring, filters, bounds."""

import asyncio
import time

import pytest

from pystack.engine.events import BACKLOG, EventBus, matches
from pystack.model.errors import Unavailable
from pystack.model.observed import Event


async def take(stream, count):
    return [await anext(stream) for _ in range(count)]


def test_past_events_then_live_ones_in_order_without_gap():
    async def scene():
        bus = EventBus()
        first = bus.publish("container", "create", "a", {"name": "x"})
        stream = bus.subscribe(since=first.time_ns)
        bus.publish("container", "start", "a", {})
        bus.publish("image", "pull", "i", {})
        found = await take(stream, 3)
        await stream.aclose()
        return found

    found = asyncio.run(scene())
    assert [e.action for e in found] == ["create", "start", "pull"]
    assert found[0].time_ns < found[1].time_ns < found[2].time_ns


def test_until_in_the_past_ends_and_in_the_future_waits():
    async def scene():
        bus = EventBus()
        bus.publish("container", "create", "a", {})
        old = [e.action async for e in bus.subscribe(since=1, until=time.time_ns())]
        started = time.monotonic()
        none = [e async for e in bus.subscribe(until=time.time_ns() + 30_000_000)]
        return old, none, time.monotonic() - started

    old, none, seconds = asyncio.run(scene())
    assert (old, none) == (["create"], [])
    assert 0.02 < seconds < 1


def test_a_slow_subscriber_is_told_and_others_go_on():
    async def scene():
        bus = EventBus()
        slow = bus.subscribe()
        for number in range(BACKLOG + 5):
            bus.publish("container", "top", str(number), {})
        for _ in range(BACKLOG):
            await anext(slow)
        with pytest.raises(Unavailable, match="cannot keep up"):
            await anext(slow)

    asyncio.run(scene())


def test_closing_ends_subscriptions():
    async def scene():
        bus = EventBus()
        stream = bus.subscribe()
        asyncio.get_running_loop().call_soon(bus.close)
        return [e async for e in stream]

    assert asyncio.run(scene()) == []


def event(**changes):
    given = {
        "type": "container",
        "action": "health_status: healthy",
        "actor_id": "a" * 64,
        "attributes": {"name": "web", "image": "nginx:1", "l": "v"},
        "time_ns": 1,
    }
    return Event(**(given | changes))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, True),
        ({"type": ["container"]}, True),
        ({"type": ["image", "container"]}, True),
        ({"event": ["health_status"]}, True),
        ({"event": ["start"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["aaaa"]}, True),
        ({"container": ["we"]}, False),
        ({"image": ["nginx"]}, True),
        ({"image": ["nginx:2"]}, False),
        ({"label": ["l"]}, True),
        ({"label": ["l=v", "l=w"]}, False),
        ({"network": ["web"]}, False),
        ({"scope": ["swarm"]}, False),
        ({"nonsense": ["x"]}, False),
    ],
)
def test_filters(filters, expected):
    assert matches(event(), filters) is expected
