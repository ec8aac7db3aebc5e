"""The whole engine inside the machine, on cgroup v2: limits, live updates, statistics, OOM, pause, devices, a restart.

Standard library and the checkout only; containers run the machine's own Python from `host.local/base`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import traceback
from pathlib import Path

from engines import execute, instance_at, leftovers, remove_cgroups, until

from pystack.engine.engine import Engine
from pystack.engine.interface import LogOptions
from pystack.kernel import bpf, cgroup_v2
from pystack.kernel import cgroup_files as files
from pystack.model.container import ContainerSpec, Device, DeviceLimit, Resources
from pystack.model.errors import Conflict, InvalidInput

MIB = 1 << 20
PLACE = Path("/tmp/engine")
SLEEP = "import time; time.sleep(1000)"
GREEDY = "data = bytearray(90 << 20); print('survived')"
DISK = "/dev/nullb0"


def spec(code: str, **more: object) -> ContainerSpec:
    return ContainerSpec(
        **(
            {"image": "host.local/base", "command": ("python3", "-IS", "-c", code), "network_mode": "none"}
            | more
        )
    )


async def python(engine: Engine, ref: str, code: str) -> tuple[int, str]:
    return await execute(engine, ref, "python3", "-IS", "-c", code)


async def start(engine: Engine, code: str, name: str, **more: object) -> str:
    made = await engine.containers.create(spec(code, **more), name)
    await engine.containers.start(name)
    return made.id


def place_of(engine: Engine, container_id: str) -> str:
    return engine._services.cgroups._main(container_id)


def values(engine: Engine, container_id: str, *names: str) -> dict[str, str]:
    return {name: files.read(place_of(engine, container_id), name).strip() for name in names}


def record(engine: Engine, *actions: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    async def listen() -> None:
        async for event in engine.events.subscribe(filters={"type": ["container"]}):
            if event.action in actions:
                found.append((event.action, event.attributes["name"]))  # noqa: PERF401 - as they come

    engine._services.background.spawn(listen(), "listen")
    return found


async def check_engine_limits(engine: Engine) -> None:
    number = f"{os.major(os.stat(DISK).st_rdev)}:{os.minor(os.stat(DISK).st_rdev)}"
    rate = lambda value: (DeviceLimit(path=DISK, value=value),)  # noqa: E731
    asked = Resources(
        memory=64 * MIB, memory_reservation=32 * MIB, memory_swap=96 * MIB, nano_cpus=500_000_000, cpu_shares=512,
        cpuset_cpus="0", cpuset_mems="0", pids_limit=20, blkio_weight=500, blkio_device_read_bps=rate(5 * MIB),
        blkio_device_write_iops=rate(77), oom_kill_disable=True, memory_swappiness=7, kernel_memory=64 * MIB,
    )  # fmt: skip
    annotations = {
        "pystack.cgroup.memory.high": str(48 * MIB), "pystack.cgroup.memory.oom.group": "1",
        "pystack.cgroup.hugetlb.2MB.max": "0", "com.example": "x",
    }  # fmt: skip
    made = await engine.containers.create(spec(SLEEP, resources=asked, annotations=annotations), "limits")
    assert [text.partition("support ")[2][:18] for text in made.warnings] == [
        "memory swappiness ",
        "kernel memory limi",
        "OomKillDisable. Oo",
    ], made.warnings
    await engine.containers.start("limits")
    expected = {
        "memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB), "memory.low": str(32 * MIB),
        "memory.high": str(48 * MIB), "memory.oom.group": "1", "hugetlb.2MB.max": "0", "cpu.max": "50000 100000",
        "cpu.weight": "20", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "20",
        "io.max": f"{number} rbps={5 * MIB} wbps=max riops=max wiops=77",
        "io.weight": f"default {1 + 490 * 9999 // 990}", "cgroup.events": "populated 1\nfrozen 0",
    }  # fmt: skip
    found = values(engine, made.id, *expected)
    assert found == expected, found
    code = "print(open('/proc/self/cgroup').read().strip(), open('/sys/fs/cgroup/memory.max').read().strip())"
    assert await python(engine, "limits", code) == (0, f"0::/ {64 * MIB}\n")
    for bad in ("pystack.cgroup.cgroup.procs", "pystack.cgroup.memory.max"):
        try:
            await engine.containers.create(spec(SLEEP, annotations={bad: "1"}))
        except InvalidInput as error:
            assert "cannot set the cgroup file" in str(error)  # noqa: PT017 - there is no pytest in here
        else:
            raise AssertionError(bad)


async def check_engine_update(engine: Engine) -> None:
    events = record(engine, "update")
    await asyncio.sleep(0)
    made = await start(engine, SLEEP, "live", resources=Resources(memory=64 * MIB, cpu_period=50_000))
    for number, (change, name, value) in enumerate(
        (
            (Resources(memory=96 * MIB), "memory.swap.max", str(32 * MIB)),  # of 128 MiB of both
            (Resources(memory=200 * MIB, memory_swap=-1), "memory.swap.max", "max"),
            (Resources(memory_reservation=32 * MIB), "memory.low", str(32 * MIB)),
            (Resources(cpu_shares=1024), "cpu.weight", "39"),
            (Resources(cpu_quota=25_000), "cpu.max", "25000 50000"),
            (Resources(cpuset_cpus="1"), "cpuset.cpus", "1"),
            (Resources(pids_limit=9), "pids.max", "9"),
            (Resources(pids_limit=0), "pids.max", "max"),
            (Resources(blkio_weight=1000), "io.weight", "default 10000"),
        )
    ):
        if number == 4:
            await engine.containers.pause("live")
        assert await engine.containers.update("live", resources=change, restart=None) == ()
        assert values(engine, made, name) == {name: value}, values(engine, made, name)
    assert cgroup_v2.is_frozen(place_of(engine, made))
    assert files.read(place_of(engine, made), "memory.max").strip() == str(200 * MIB)
    await until(lambda: len(events) == 9)
    try:
        await engine.containers.update("live", resources=Resources(memory=500 * MIB), restart=None)
    except Conflict as error:
        assert "update the memoryswap at the same time" in str(error)  # noqa: PT017
    else:
        raise AssertionError("no conflict")
    await engine.containers.unpause("live")


async def check_engine_out_of_memory(engine: Engine) -> None:
    events = record(engine, "oom", "die")
    await asyncio.sleep(0)
    limit = Resources(memory=48 * MIB, memory_swap=48 * MIB)
    await start(engine, SLEEP, "parent", resources=limit)
    assert await python(engine, "parent", GREEDY) == (137, "")
    await until(lambda: events == [("oom", "parent")])
    view = await engine.containers.inspect("parent")
    assert (view.state, view.oom_killed) == ("running", True)
    await engine.containers.remove("parent", force=True)
    await start(engine, GREEDY, "greedy", resources=limit)
    assert (await engine.containers.wait("greedy")).exit_code == 137
    assert (await engine.containers.inspect("greedy")).oom_killed
    await until(lambda: events[1:] == [("die", "parent"), ("oom", "greedy"), ("die", "greedy")])
    # all of them, when that is asked for
    await start(engine, SLEEP, "group", resources=limit, annotations={"pystack.cgroup.memory.oom.group": "1"})
    assert (await python(engine, "group", GREEDY))[0] == 137
    assert (await engine.containers.wait("group")).exit_code == 137
    assert (await engine.containers.inspect("group")).oom_killed


async def check_engine_statistics(engine: Engine) -> None:
    work = (
        "import os, time\nfd = os.open('/dev/disk', os.O_RDONLY | os.O_DIRECT)\n"
        "import mmap\nroom = mmap.mmap(-1, 65536)\nfor _ in range(4): os.readv(fd, [room])\n"
        "sum(range(600_000)); print('done', flush=True); time.sleep(1000)"
    )
    made = await start(
        engine, work, "busy",
        resources=Resources(
            memory=64 * MIB, pids_limit=7, nano_cpus=200_000_000,
            devices=(Device(path_on_host=DISK, path_in_container="/dev/disk", cgroup_permissions="r"),),
        ),
    )  # fmt: skip
    log = [entry async for entry in _until_done(engine, made)]
    assert log == [b"done\n"], log
    found = (await engine.containers.stats("busy")).raw
    cpu = found["cpu_stats"]
    assert 0 < cpu["cpu_usage"]["total_usage"] < cpu["system_cpu_usage"]
    assert cpu["online_cpus"] == 2
    assert cpu["throttling_data"]["throttled_periods"] > 0
    assert found["pids_stats"] == {"current": 1, "limit": 7}
    memory = found["memory_stats"]
    assert 0 < memory["usage"] < memory["limit"] == 64 * MIB
    assert {"anon", "file", "inactive_file", "pgfault"} <= set(memory["stats"])
    minor = os.minor(os.stat(DISK).st_rdev)
    read = [e for e in found["blkio_stats"]["io_service_bytes_recursive"] if e["op"] == "read"]
    assert [(e["minor"], e["value"]) for e in read] == [(minor, 4 * 65536)], read
    await engine.containers.stop("busy")
    empty = (await engine.containers.stats("busy")).raw
    assert empty["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert empty["memory_stats"] == {}


async def _until_done(engine: Engine, ref: str):
    async for entry in engine.containers.logs(ref, LogOptions(follow=True)):
        yield entry.line
        return


async def check_engine_pause(engine: Engine) -> None:
    code = "import time\nwhile True: print(time.monotonic(), flush=True); time.sleep(0.01)"
    made = await start(engine, code, "ticks")
    await engine.containers.pause("ticks")
    place = place_of(engine, made)
    assert files.read_pairs(place, "cgroup.events") == {"populated": 1, "frozen": 1}
    log = Path(engine._services.registry.get("ticks").log_path)
    await asyncio.sleep(0.1)
    size = log.stat().st_size
    await asyncio.sleep(0.3)
    assert log.stat().st_size == size
    assert (await engine.containers.stats("ticks")).raw["pids_stats"]["current"] == 1
    await engine.containers.unpause("ticks")
    await until(lambda: log.stat().st_size > size)
    await engine.containers.pause("ticks")
    await engine.containers.kill("ticks")  # thaws first
    assert (await engine.containers.inspect("ticks")).exit_code == 137


PROBE = """
import os, stat
def probe(kind, major, minor, flags):
    os.mknod("/probe", kind | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open("/probe", flags | os.O_NONBLOCK))
        return 0
    except OSError as error:
        return error.errno
    finally:
        os.unlink("/probe")
disk = os.stat("/dev/disk").st_rdev if os.path.exists("/dev/disk") else os.makedev(7, 0)
disk = os.major(disk), os.minor(disk)
print([probe(stat.S_IFCHR, 1, 3, 2), probe(stat.S_IFCHR, 1, 1, 0), probe(stat.S_IFCHR, 4, 64, 0),
       probe(stat.S_IFBLK, *disk, 0), probe(stat.S_IFBLK, *disk, 1)])
"""


async def check_engine_devices(engine: Engine) -> None:
    await start(engine, SLEEP, "plain")
    assert await python(engine, "plain", PROBE) == (0, "[0, 1, 1, 1, 1]\n")
    device = Device(path_on_host=DISK, path_in_container="/dev/disk", cgroup_permissions="rm")
    made = await start(
        engine, SLEEP, "device", resources=Resources(devices=(device,), device_cgroup_rules=("c 4:64 r",))
    )
    assert await python(engine, "device", PROBE) == (0, "[0, 1, 0, 0, 1]\n")
    fd = os.open(place_of(engine, made), os.O_RDONLY)
    assert len(bpf.attached(fd)) == 1
    os.close(fd)
    await start(engine, SLEEP, "all", privileged=True)
    code = f"import os; os.close(os.open('{DISK}', os.O_RDWR)); os.close(os.open('/dev/kmsg', os.O_RDONLY)); print('open')"
    assert await python(engine, "all", code) == (0, "open\n")


async def check_engine_restart(engine: Engine) -> None:
    """Another engine takes over what runs: limits, device program and the OOM watch are those of before."""
    limit = Resources(memory=48 * MIB, memory_swap=48 * MIB, pids_limit=9)
    made = await start(engine, SLEEP, "kept", resources=limit)
    pid = (await engine.containers.inspect("kept")).pid
    await start(engine, SLEEP, "frozen")
    await engine.containers.pause("frozen")
    await engine.shutdown()
    await engine.reopen()
    events = record(engine, "oom")
    await asyncio.sleep(0)
    view = await engine.containers.inspect("kept")
    assert (view.state, view.pid) == ("running", pid)
    assert (await engine.containers.inspect("frozen")).state == "paused"
    assert values(engine, made, "pids.max", "memory.max") == {"pids.max": "9", "memory.max": str(48 * MIB)}
    assert await python(engine, "kept", PROBE) == (0, "[0, 1, 1, 1, 1]\n")
    assert await python(engine, "kept", GREEDY) == (137, "")
    await until(lambda: events == [("oom", "kept")])
    await engine.containers.unpause("frozen")


class Reopened:
    """An engine that can be closed and opened again in the middle of a check."""

    def __init__(self) -> None:
        self._context = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def reopen(self) -> None:
        if self._context is not None:
            await self._context.__aexit__(None, None, None)
        self._context = Engine.open(instance_at(PLACE))
        self._engine = await self._context.__aenter__()

    async def close(self) -> None:
        for view in await self._engine.containers.list(all=True):
            await self._engine.containers.remove(view.id, force=True, volumes=True)
        await self._context.__aexit__(None, None, None)
        await until(lambda: not leftovers(instance_at(PLACE)), 10)


CHECKS = {
    name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")
}


async def _run() -> None:
    """One engine for every check; print one line of JSON each."""
    engine = Reopened()
    await engine.reopen()
    for name, check in CHECKS.items():
        error = ""
        started = time.perf_counter()
        try:
            await asyncio.wait_for(check(engine), 60)
        except BaseException:
            error = traceback.format_exc()
        for view in await engine.containers.list(all=True):
            await engine.containers.remove(view.id, force=True, volumes=True)
        found = {"name": name, "error": error, "seconds": time.perf_counter() - started}
        print("pystack-vm " + json.dumps(found), flush=True)
    await engine.close()


def main() -> None:
    PLACE.mkdir()
    try:
        asyncio.run(_run())
    finally:
        remove_cgroups(instance_at(PLACE))
        shutil.rmtree(PLACE, ignore_errors=True)
