"""Fixtures for every test: a real engine with the leak oracle around it, and root where the kernel is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
import oracle
import pytest

#: Markers whose tests need root.
ROOT_MARKERS = ("kernel", "clients", "scenario", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if any(item.get_closest_marker(name) for name in ROOT_MARKERS):
            item.add_marker(pytest.mark.skip(reason="touches the kernel: needs root"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine() -> Iterator[harness.Engine]:
    """An engine of its own. When the test ends everything is removed, and nothing of it may be left on the host."""
    base = Path(tempfile.mkdtemp(prefix="pystack-test-", dir="/var/tmp"))
    run = Path(tempfile.mkdtemp(prefix="pst-", dir=harness.run_parent()))
    made = harness.Engine(base / "root", run)
    run.chmod(0o755)
    (base / "root").mkdir()
    before = oracle.snapshot(made.instance)
    try:
        yield made
        made.remove_everything()
        oracle.wait_for_nothing_leaked(made.instance, before)
    finally:
        made.stop()
        if not oracle.snapshot(made.instance).things["mount"]:
            shutil.rmtree(base, ignore_errors=True)
            shutil.rmtree(run, ignore_errors=True)
