"""A short soak: containers come and go, sixteen at a time, and the daemon is what it was before."""

from __future__ import annotations

import pytest
from cycling import soak
from harness import Engine

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


def test_a_hundred_and_fifty_containers_leave_nothing(engine: Engine) -> None:
    before, after, took = soak(engine, 150, 16, warm_up=48)
    assert len(took) == 150
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads
    assert after.memory - before.memory < 10, f"{before.memory:.1f} -> {after.memory:.1f} MB"
