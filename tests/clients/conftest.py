"""One engine with the busybox image, for all tests of a module of clients; nothing of it is left when they are done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
import images
import oracle
import pytest


@pytest.fixture(scope="module")
def daemon() -> Iterator[harness.Engine]:
    base = Path(tempfile.mkdtemp(prefix="pystack-clients-", dir="/var/tmp"))
    made = harness.Engine(base / "root", base / "run")
    (base / "root").mkdir()
    (base / "run").mkdir()
    archive = images.busybox_archive(base / "busybox.tar")
    before = oracle.snapshot(made.instance)
    try:
        made.start()
        made.docker("load", "-i", str(archive))
        yield made
        made.remove_everything()
        oracle.wait_for_nothing_leaked(made.instance, before)
    finally:
        made.stop()
        if not oracle.snapshot(made.instance).things["mount"]:
            shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_containers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins and ends without containers."""
    yield
    if "daemon" in request.fixturenames:
        made: harness.Engine = request.getfixturevalue("daemon")
        for item in made.client.get("/containers/json", {"all": True}):
            made.remove(item["Id"])
