"""Limits of whole containers on this kernel: live updates, the OOM killer's news, statistics. One engine for them all."""

import asyncio
import os
from pathlib import Path

import pytest
from engines import engine_at, execute, scene, shell, spec, state, until

from pystack.kernel import cgroup_files as files
from pystack.kernel import failpoints
from pystack.kernel.cgroups import detect
from pystack.model.container import Resources, RestartPolicy
from pystack.model.errors import Conflict, InvalidInput

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(detect().mode == "v2", reason="v1 files are read here; tests/vm has those of v2"),
]

MIB = 1 << 20
#: Waits for a line on stdin (an exec's), then takes more memory than there is.
GREEDY = "import sys; data = bytearray(200 << 20); print('survived')"


def v1(engine, container_id, controller, name):
    places = engine._services.cgroups._by_controller(container_id)
    return files.read(places[controller], name).strip()


def record(engine, actions):
    found = []

    async def listen():
        async for event in engine.events.subscribe(filters={"type": ["container"]}):
            if event.action in actions:
                found.append((event.action, event.attributes["name"]))  # noqa: PERF401 - as they come

    return found, asyncio.ensure_future(listen())


def test_update_is_live_merged_and_durable(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        events, listening = record(engine, {"update"})
        await asyncio.sleep(0)
        asked = Resources(memory=64 * MIB, pids_limit=50, cpu_shares=512)
        made = await containers.create(spec("sleep", "1000", resources=asked), "live")
        await containers.start("live")
        cases = [
            (Resources(memory=96 * MIB), "memory", "memory.limit_in_bytes", 96 * MIB),
            (
                Resources(memory=200 * MIB, memory_swap=400 * MIB),
                "memory",
                "memory.memsw.limit_in_bytes",
                400 * MIB,
            ),
            (Resources(memory_reservation=32 * MIB), "memory", "memory.soft_limit_in_bytes", 32 * MIB),
            (Resources(cpu_shares=256), "cpu", "cpu.shares", 256),
            (Resources(nano_cpus=250_000_000), "cpu", "cpu.cfs_quota_us", 25_000),
            (Resources(cpuset_cpus="0"), "cpuset", "cpuset.cpus", 0),
            (Resources(pids_limit=20), "pids", "pids.max", 20),
        ]
        for number, (change, controller, name, value) in enumerate(cases):
            if number == 3:
                await containers.pause("live")  # a frozen one takes the rest as well
            assert await containers.update("live", resources=change, restart=None) == ()
            assert v1(engine, made.id, controller, name) == str(value), name
        await containers.unpause("live")
        await containers.update("live", resources=Resources(pids_limit=0), restart=None)
        assert v1(engine, made.id, "pids", "pids.max") == "max"
        found = (await containers.inspect("live")).spec.resources
        assert found == Resources(
            memory=200 * MIB, memory_swap=400 * MIB, memory_reservation=32 * MIB,
            cpu_shares=256, nano_cpus=250_000_000, cpuset_cpus="0",
        )  # fmt: skip
        with pytest.raises(Conflict, match="update the memoryswap at the same time"):
            await containers.update("live", resources=Resources(memory=500 * MIB), restart=None)
        with pytest.raises(InvalidInput, match="Minimum memory limit allowed is 6MB"):
            await containers.update("live", resources=Resources(memory=MIB), restart=None)
        await containers.stop("live")
        await containers.update(
            "live", resources=Resources(pids_limit=7), restart=RestartPolicy(name="always")
        )
        assert (await containers.inspect("live")).spec.restart.name == "always"
        await until(lambda: len(events) == len(cases) + 2)
        listening.cancel()
        await containers.start("live")
        assert v1(engine, made.id, "pids", "pids.max") == "7"
        assert v1(engine, made.id, "memory", "memory.limit_in_bytes") == str(200 * MIB)


def test_an_update_that_the_kernel_refuses_changes_nothing(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        hold = "import time; data = bytearray(40 << 20); print('full', flush=True); time.sleep(1000)"
        asked = Resources(memory=100 * MIB, memory_swap=100 * MIB, cpu_shares=300)
        made = await containers.create(spec("python3", "-c", hold, resources=asked), "full")
        session = await containers.attach("full", stdin=False, stdout=True, stderr=True)
        await containers.start("full")
        assert await session.receive() == ("stdout", b"full\n")
        with pytest.raises(
            InvalidInput, match=r"cannot set memory.limit_in_bytes .*: Device or resource busy"
        ):
            await containers.update(
                "full", resources=Resources(memory=8 * MIB, memory_swap=8 * MIB, cpu_shares=200), restart=None
            )
        assert (await containers.inspect("full")).spec.resources == asked
        assert v1(engine, made.id, "memory", "memory.limit_in_bytes") == str(100 * MIB)
        assert v1(engine, made.id, "cpu", "cpu.shares") == "300"
        assert not engine._services.registry.get("full").record.updating
        # refused when a part is written already: that is taken back
        failpoints.configure("cgroup.limits.updated=1*error")
        try:
            with pytest.raises(OSError, match=r"cgroup\.limits\.updated"):
                await containers.update(
                    "full", resources=Resources(cpu_shares=200, pids_limit=5), restart=None
                )
        finally:
            failpoints.configure("")
        assert (await containers.inspect("full")).spec.resources == asked
        assert v1(engine, made.id, "cpu", "cpu.shares") == "300"
        assert v1(engine, made.id, "pids", "pids.max") == "max"
        await session.close()


def test_an_engine_that_dies_in_an_update_finishes_it(tmp_path):
    async def die():
        async with engine_at(tmp_path, clean=False) as engine:
            made = await engine.containers.create(spec("sleep", "1000"), "half")
            await engine.containers.start("half")
            failpoints.configure("engine.update.recorded=error")
            try:
                with pytest.raises(OSError, match=r"engine\.update\.recorded"):
                    await engine.containers.update(
                        "half", resources=Resources(pids_limit=9, cpu_shares=99), restart=None
                    )
            finally:
                failpoints.configure("")
            assert v1(engine, made.id, "pids", "pids.max") == "max"

    asyncio.run(die())

    @scene(tmp_path)
    async def after(engine):
        found = await engine.containers.inspect("half")
        assert found.state == "running"
        assert v1(engine, found.id, "pids", "pids.max") == "9"
        assert v1(engine, found.id, "cpu", "cpu.shares") == "99"
        assert not engine._services.registry.get("half").record.updating


def test_the_oom_killer_is_told_of(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        events, listening = record(engine, {"oom", "die"})
        await asyncio.sleep(0)
        limit = Resources(memory=32 * MIB, memory_swap=32 * MIB)
        # a child, while PID 1 lives on
        await containers.create(shell("read x; exit 4", resources=limit, open_stdin=True), "parent")
        session = await containers.attach("parent", stdin=True, stdout=True, stderr=True)
        await containers.start("parent")
        assert not (await containers.inspect("parent")).oom_killed
        assert (await execute(engine, "parent", "python3", "-c", GREEDY)) == (137, "")
        await until(lambda: events == [("oom", "parent")])
        view = await containers.inspect("parent")
        assert (view.state, view.oom_killed) == ("running", True)
        await session.send(b"\n")
        assert (await containers.wait("parent")).exit_code == 4
        assert (await containers.inspect("parent")).oom_killed
        await session.close()
        # PID 1 itself; one event
        await containers.create(spec("python3", "-c", GREEDY, resources=limit), "greedy")
        await containers.start("greedy")
        assert (await containers.wait("greedy")).exit_code == 137
        assert (await containers.inspect("greedy")).oom_killed
        await until(lambda: ("die", "greedy") in events)
        assert events[1:] == [("die", "parent"), ("oom", "greedy"), ("die", "greedy")]
        # the next run begins without it; a limit that comes by an update is watched, too
        await containers.create(shell("read x", open_stdin=True), "later")
        await containers.start("later")
        await containers.update("later", resources=limit, restart=None)
        assert (await execute(engine, "later", "python3", "-c", GREEDY))[0] == 137
        await until(lambda: events[4:] == [("oom", "later")])
        await containers.restart("later", timeout=0)
        assert not (await containers.inspect("later")).oom_killed
        listening.cancel()


def test_without_the_killer_the_want_is_told(tmp_path):
    """v1: processes wait for memory; Docker's event comes all the same."""

    @scene(tmp_path)
    async def _(engine):
        events, listening = record(engine, {"oom"})
        await asyncio.sleep(0)
        limit = Resources(memory=32 * MIB, memory_swap=32 * MIB, oom_kill_disable=True)
        await engine.containers.create(spec("python3", "-c", GREEDY, resources=limit), "waits")
        await engine.containers.start("waits")
        await until(lambda: ("oom", "waits") in events)
        assert await state(engine, "waits") == "running"
        await engine.containers.kill("waits")
        assert await state(engine, "waits") == "exited"
        listening.cancel()


def test_statistics(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        burn = "echo up; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo done; exec sleep 1000"
        limit = Resources(memory=64 * MIB, pids_limit=9, nano_cpus=100_000_000)
        await containers.create(shell(burn, resources=limit, network_mode="bridge"), "busy")
        empty = (await containers.stats("busy")).raw
        assert empty["read"] == empty["preread"] == "0001-01-01T00:00:00Z"
        assert empty["cpu_stats"]["cpu_usage"]["total_usage"] == 0
        assert empty["blkio_stats"]["io_service_bytes_recursive"] is None
        assert "networks" not in empty
        await containers.start("busy")
        await until(lambda: "done" in engine_log(engine, "busy"), 20)
        found = (await containers.stats("busy")).raw
        assert set(found) == {
            "read", "preread", "pids_stats", "blkio_stats", "num_procs", "storage_stats", "cpu_stats", "precpu_stats",
            "memory_stats", "networks",
        }  # fmt: skip
        cpu = found["cpu_stats"]
        assert (
            len(cpu["cpu_usage"]["percpu_usage"]) >= cpu["online_cpus"] == os.sysconf("SC_NPROCESSORS_ONLN")
        )
        assert 0 < cpu["cpu_usage"]["total_usage"] < cpu["system_cpu_usage"]
        assert cpu["throttling_data"]["throttled_periods"] > 0
        assert cpu["throttling_data"]["throttled_time"] > 0
        assert found["pids_stats"] == {"current": 1, "limit": 9}
        memory = found["memory_stats"]
        assert 0 < memory["usage"] <= memory["max_usage"] <= memory["limit"] == 64 * MIB
        assert {"total_inactive_file", "cache", "rss"} <= set(memory["stats"])
        assert memory["failcnt"] == 0
        assert set(found["networks"]["eth0"]) >= {"rx_bytes", "tx_packets", "rx_dropped"}
        await containers.stop("busy")
        assert (await containers.stats("busy")).raw == empty


def engine_log(engine, name):
    path = Path(engine._services.registry.get(name).log_path)
    return path.read_text() if path.exists() else ""
