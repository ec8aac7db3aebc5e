"""Removal by force: recorded before the kill, undone when the kill fails, and the same for everybody who asks at once."""

import asyncio
import time

import pytest
from engines import scene, spec, state, until

from pystack.kernel import failpoints
from pystack.model.container import RestartPolicy
from pystack.model.errors import Conflict, NotFound

pytestmark = pytest.mark.kernel


@pytest.fixture
def fault():
    """Set failpoints in this process; none are left set."""
    yield failpoints.configure
    failpoints.configure("")


def test_a_container_that_cannot_be_killed_stays_as_it_was(tmp_path, fault):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("sleep", "1000", volumes=("/anon",)), "web")
        await containers.start("web")
        fault("engine.stop.marked=error")
        with pytest.raises(OSError, match=r"engine\.stop\.marked"):
            await containers.remove("web", force=True, volumes=True)
        fault("")
        record = engine._services.registry.get("web").record
        assert (record.state, record.removing, record.remove_volumes) == ("running", False, False)
        with pytest.raises(Conflict, match="stop the container before removing or force remove"):
            await containers.remove("web")
        await containers.stop("web")
        await containers.start("web")
        assert await state(engine, "web") == "running"


def test_nothing_starts_a_container_whose_removal_has_begun(tmp_path, fault):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("sleep", "1000", restart=RestartPolicy(name="always")), "web")
        await containers.start("web")
        web = engine._services.registry.get("web")
        await web.lock.acquire()
        removals = [asyncio.create_task(containers.remove("web", force=True)) for _ in range(3)]
        starts = [asyncio.create_task(containers.start("web")) for _ in range(3)]
        await asyncio.sleep(0)
        web.lock.release()
        await asyncio.gather(*removals)
        refused = await asyncio.gather(*starts, return_exceptions=True)
        assert {type(e) for e in refused} <= {Conflict, NotFound}
        assert any("marked for removal" in str(e) for e in refused)
        told = [e.action async for e in engine.events.subscribe(since=1, until=time.time_ns())]
        assert told.count("destroy") == 1
        assert await containers.list(all=True) == []


def test_a_caller_that_leaves_in_the_middle_does_not_stop_a_removal(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("sleep", "1000", volumes=("/anon",)), "web")
        await containers.start("web")
        web = engine._services.registry.get("web")
        removal = asyncio.create_task(containers.remove("web", force=True, volumes=True))
        await until(lambda: web.removers)
        with pytest.raises(Conflict, match="removal of container web is already in progress"):
            await containers.remove("web")
        removal.cancel()
        await until(lambda: engine._services.registry.find(web.id) is None)
        assert await engine.volumes.list() == []
