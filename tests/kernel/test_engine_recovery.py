"""The engine is killed with SIGKILL and started again: containers live on, half-done work is finished or undone."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from engines import engine_at, execute, leftovers, output, shell, spec, state, until

from pystack.engine.interface import LogOptions
from pystack.model.container import Healthcheck, Mount, RestartPolicy
from pystack.model.states import Health

pytestmark = pytest.mark.kernel

PREAMBLE = """
import asyncio, os, sys, time
sys.path[:0] = {paths!r}
from engines import engine_at, shell, spec, until
from pystack.model.container import *

async def main():
    async with engine_at({place!r}, clean=False) as engine:
        containers = engine.containers
{body}
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def daemon(place, body, failpoints=""):
    """Run `body` in an engine of another process until it says ready, or dies at a failpoint; then kill it."""
    tests = str(Path(__file__).parents[1])
    code = PREAMBLE.format(
        paths=[tests, str(Path(tests).parent / "src")],
        place=str(place),
        body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8),
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYSTACK_FAILPOINTS": failpoints},
        text=True,
    )
    said = child.stdout.readline()
    if not failpoints:
        assert said == "ready\n"
        child.kill()
    status = child.wait(30)
    child.stdout.close()
    assert status == -signal.SIGKILL
    return said


def test_running_containers_are_taken_over_with_everything(tmp_path):
    daemon(
        tmp_path,
        """
        await containers.create(shell("echo one; trap 'echo bye; exit 6' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"), "loop")
        await containers.start("loop")
        await containers.create(spec("cat", open_stdin=True), "cat")
        await containers.start("cat")
        await containers.create(spec("sleep", "1000", healthcheck=Healthcheck(test=("CMD", "true"), interval=100_000_000)), "checked")
        await containers.start("checked")
        await containers.create(spec("sleep", "1000", healthcheck=Healthcheck(test=("CMD", "true"), interval=100_000_000)), "frozen")
        await containers.start("frozen")
        await containers.pause("frozen")
        while (await containers.inspect("checked")).health != "healthy":
            await asyncio.sleep(0.02)
        """,
    )

    async def scene():
        async with engine_at(tmp_path) as engine:
            containers = engine.containers
            views = {v.name: v for v in await containers.list()}
            assert views.pop("frozen").state == "paused"
            assert {v.state for v in views.values()} == {"running"}
            await containers.unpause("frozen")
            await until(lambda: engine._services.registry.get("frozen").health.status == Health.HEALTHY)
            assert all(os.path.exists(f"/proc/{v.pid}") for v in views.values())
            assert views["checked"].health == "healthy", "no flap"
            lines = (await output(engine, "loop")).split()
            await asyncio.sleep(0.1)
            more = (await output(engine, "loop")).split()
            assert more[0] == "one"
            assert more[1:] == [str(n) for n in range(1, len(more))], "no line was lost while no engine ran"
            assert len(more) > len(lines)
            assert await execute(engine, "loop", "echo", "in") == (0, "in\n")
            session = await containers.attach("cat", stdin=True, stdout=True, stderr=True)
            await session.send(b"hi\n")
            assert await session.receive() == ("stdout", b"hi\n")
            await session.close()
            await until(lambda: len(engine._services.registry.get("checked").health.log) >= 2)
            await containers.stop("loop")
            assert (await containers.inspect("loop")).exit_code == 6
            assert (await output(engine, "loop")).endswith("bye\n")

    asyncio.run(scene())


def test_exits_while_no_engine_ran_are_known(tmp_path):
    daemon(
        tmp_path,
        """
        await containers.create(shell("sleep 0.3; exit 4"), "ends")
        await containers.create(shell("sleep 0.3; exit 1", restart=RestartPolicy(name="always")), "again")
        await containers.create(shell("sleep 0.3", auto_remove=True), "gone")
        await containers.create(shell("sleep 1000"), "killed")
        for name in ("ends", "again", "gone", "killed"):
            await containers.start(name)
        os.kill((await containers.inspect("killed")).pid, 0)
        print((await containers.inspect("killed")).pid, file=open(os.path.join(engine._services.instance.root, "pid"), "w"))
        """,
    )
    os.kill(int((tmp_path / "root/pid").read_text()), signal.SIGKILL)
    time.sleep(0.8)

    async def scene():
        async with engine_at(tmp_path) as engine:
            assert (await engine.containers.inspect("ends")).exit_code == 4
            assert await state(engine, "ends") == "exited"
            assert (await engine.containers.inspect("killed")).exit_code == 137
            await until(lambda: engine._services.registry.get("again").record.restart_count >= 1)
            await until(lambda: all(c.name != "gone" for c in engine._services.registry))

    asyncio.run(scene())


def test_a_host_that_went_down_leaves_255_and_policies_bring_up_what_they_must(tmp_path):
    daemon(
        tmp_path,
        """
        for name, policy in (("no", "no"), ("always", "always"), ("unless", "unless-stopped"), ("held", "unless-stopped"), ("forced", "always")):
            await containers.create(spec("sleep", "1000", restart=RestartPolicy(name=policy)), name + "-x")
            await containers.start(name + "-x")
        await containers.stop("held-x")
        await containers.stop("forced-x")
        print(*[(await containers.inspect(n + "-x")).pid for n in ("no", "always", "unless")], file=open(os.path.join(engine._services.instance.root, "pid"), "w"))
        """,
    )
    for pid in map(int, (tmp_path / "root/pid").read_text().split()):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)  # the shim: PID 1 goes with it, and no exit.json is written
    time.sleep(0.1)

    async def scene():
        async with engine_at(tmp_path) as engine:
            view = await engine.containers.inspect("no-x")
            assert (view.state, view.exit_code) == ("exited", 255)
            assert "the host went down" in view.error
            registry = engine._services.registry
            await until(lambda: all(registry.get(f"{n}-x").running for n in ("always", "unless", "forced")))
            assert await state(engine, "held-x") == "exited"

    asyncio.run(scene())


@pytest.mark.parametrize(
    "point",
    [
        "engine.create.intent",
        "engine.create.directory",
        "engine.create.snapshot",
        "volume.recorded",
        "engine.create.furnished",
        "engine.create.done",
        "engine.start.intent",
        "engine.start.sandbox",
        "engine.start.cgroup",
        "engine.start.launched",
        "engine.start.wired",
        "engine.start.started",
        "engine.start.running",
        "engine.stop.marked",
        "engine.exit.recorded",
        "engine.exit.network",
        "engine.exit.cgroup",
        "engine.remove.intent",
        "engine.remove.snapshot",
        "engine.remove.directory",
        "engine.remove.record",
    ],
)
def test_killed_at_any_point_nothing_is_left_and_work_goes_on(tmp_path, point):
    body = """
        await containers.create(spec("sleep", "1000", volumes=("/anon",), restart=RestartPolicy(name="unless-stopped"), network_mode="bridge"), "web")
        await containers.start("web")
        await containers.stop("web")
        await containers.remove("web", volumes=True)
        """
    daemon(tmp_path, body, f"{point}=kill")

    async def scene():
        async with engine_at(tmp_path) as engine:
            containers = engine.containers
            await asyncio.sleep(0.2)
            names = [v.name for v in await containers.list(all=True)]
            volumes = await engine.volumes.list()
            assert len(volumes) == len(names), "an anonymous volume lives and dies with its container"
            if not names:
                await containers.create(spec("sleep", "1000", network_mode="bridge"), "web")
            if await state(engine, "web") != "running":
                await containers.start("web")
            assert await state(engine, "web") == "running"
            if point == "engine.start.running":
                assert names == ["web"]

    asyncio.run(scene())


@pytest.mark.parametrize("point", ["engine.remove.intent", "engine.stop.marked"])
def test_a_removal_by_force_is_finished_by_the_next_engine(tmp_path, point):
    daemon(
        tmp_path,
        """
        await containers.create(spec("sleep", "1000", volumes=("/anon",), restart=RestartPolicy(name="always")), "web")
        await containers.start("web")
        await containers.remove("web", force=True, volumes=True)
        """,
        f"{point}=kill",
    )

    async def scene():
        async with engine_at(tmp_path) as engine:
            assert [v.name for v in await engine.containers.list(all=True)] == []
            assert await engine.volumes.list() == []
            assert all("pystack-launch" in line for line in leftovers(engine._services.instance))

    asyncio.run(scene())


@pytest.mark.parametrize("point", ["engine.exit.recorded", "engine.exit.network"])
def test_an_end_that_was_only_recorded_leaves_nothing(tmp_path, point):
    body = """
        await containers.create(spec("sleep", "1000"), "web")
        await containers.start("web")
        await containers.kill("web")
        """
    daemon(tmp_path, body, f"{point}=kill")

    async def scene():
        async with engine_at(tmp_path) as engine:
            assert await state(engine, "web") == "exited"
            container = engine._services.registry.get("web")
            assert not os.path.exists(container.run_directory)
            assert container.id not in engine._services.cgroups.list_containers()

    asyncio.run(scene())


def test_a_start_that_is_undone_waits_for_its_shim(tmp_path):
    daemon(
        tmp_path,
        """
        await containers.create(spec("sleep", "1000"), "web")
        await containers.start("web")
        web = engine._services.registry.get("web")
        await engine._services.registry.amend(web, starting=True)
        """,
    )

    async def scene():
        async with engine_at(tmp_path) as engine:
            container = engine._services.registry.get("web")
            assert not container.running
            assert not os.path.exists(container.run_directory)
            assert Path(f"{container.directory}/exit.json").exists(), "its shim had its last word"
            await engine.containers.start("web")
            assert await state(engine, "web") == "running"

    asyncio.run(scene())


def test_force_removes_what_somebody_is_starting(tmp_path):
    async def scene():
        async with engine_at(tmp_path) as engine:
            for number in range(5):
                await engine.containers.create(spec("sleep", "1000"), f"web{number}")
                starting = asyncio.ensure_future(engine.containers.start(f"web{number}"))
                await asyncio.sleep(0.002 * number)
                await engine.containers.remove(f"web{number}", force=True)
                await asyncio.gather(starting, return_exceptions=True)
            assert await engine.containers.list(all=True) == []

    asyncio.run(scene())


def test_strays_without_a_record_are_removed(tmp_path):
    daemon(
        tmp_path,
        """
        await containers.create(spec("sleep", "1000"), "web")
        await containers.start("web")
        await engine._services.registry.forget(engine._services.registry.get("web"))
        """,
    )

    async def scene():
        async with engine_at(tmp_path) as engine:
            assert await engine.containers.list(all=True) == []
            await until(lambda: not [x for x in leftovers(engine._services.instance) if "launch" not in x])

    asyncio.run(scene())


def test_a_record_that_cannot_be_read_is_set_aside(tmp_path):
    async def scene():
        async with engine_at(tmp_path, clean=False) as engine:
            await engine.containers.create(spec("true"), "good")
            await engine.documents("containers").put("b" * 64, "{broken")
        async with engine_at(tmp_path) as engine:
            assert [v.name for v in await engine.containers.list(all=True)] == ["good"]

    asyncio.run(scene())


def test_shutdown_keeps_containers_or_stops_them(tmp_path):
    async def scene():
        async with engine_at(tmp_path, clean=False) as engine:
            await engine.containers.create(spec("sleep", "1000", restart=RestartPolicy(name="always")), "one")
            await engine.containers.start("one")
            pid = (await engine.containers.inspect("one")).pid
        assert os.path.exists(f"/proc/{pid}")
        async with engine_at(tmp_path) as engine:
            assert (await engine.containers.inspect("one")).pid == pid
            await engine.shutdown(keep_containers=False)
            assert not os.path.exists(f"/proc/{pid}")

    asyncio.run(scene())


def test_health_turns_and_timeouts_kill_the_probe(tmp_path):
    (tmp_path / "flags").mkdir()

    async def scene():
        async with engine_at(tmp_path) as engine:
            found = []

            async def listen():
                async for event in engine.events.subscribe(filters={"event": ["health_status"]}):
                    found.append(event.action)  # noqa: PERF401 - as they come

            listening = asyncio.ensure_future(listen())
            mount = Mount(type="bind", source=str(tmp_path / "flags"), target="/flags")
            test = "echo probe; [ ! -e /flags/hang ] || sleep 100; [ -e /flags/ok ]"
            check = Healthcheck(
                test=("CMD-SHELL", test),
                interval=50_000_000,
                timeout=1_000_000_000,
                retries=2,
                start_interval=50_000_000,
            )
            await engine.containers.create(spec("sleep", "1000", healthcheck=check, mounts=(mount,)), "web")
            await engine.containers.start("web")
            record = engine._services.registry.get("web")
            await until(lambda: record.health.status == Health.UNHEALTHY)
            (tmp_path / "flags/ok").touch()
            await until(lambda: record.health.status == Health.HEALTHY)
            (tmp_path / "flags/hang").touch()
            await until(lambda: record.health.log[-1].exit_code == -1)
            assert record.health.log[-1].output == "Health check exceeded timeout (1s): probe\n"
            view = await engine.containers.inspect("web")
            assert len(view.health_log) <= 5
            assert found[:3] == [
                "health_status: starting",
                "health_status: unhealthy",
                "health_status: healthy",
            ]
            listening.cancel()

    asyncio.run(scene())


def test_following_a_log_ends_with_the_container(tmp_path):
    async def scene():
        async with engine_at(tmp_path) as engine:
            await engine.containers.create(shell("for i in 1 2 3; do echo $i; sleep 0.05; done"), "loop")
            await engine.containers.start("loop")
            found = [e.line async for e in engine.containers.logs("loop", LogOptions(follow=True))]
            assert found == [b"1\n", b"2\n", b"3\n"]

    asyncio.run(scene())
