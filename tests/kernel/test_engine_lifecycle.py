"""Containers through their life on the real kernel: create, start, stop, kill, pause, restart, remove, wait, attach."""

import asyncio
import os
import time

import pytest
from engines import execute, output, read, run, scene, shell, spec, state, until

from pystack.engine.interface import LogOptions
from pystack.model.container import (
    ContainerSpec,
    ExecSpec,
    FileContent,
    Mount,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pystack.model.errors import Conflict, InvalidInput, NotFound, NotModified, StartError

pytestmark = pytest.mark.kernel


def actions(events):
    return [e.action for e in events]


def record_events(engine):
    found = []

    async def listen():
        async for event in engine.events.subscribe(filters={"type": ["container"]}):
            found.append(event)  # noqa: PERF401 - they must be seen as they come

    return found, asyncio.ensure_future(listen())


def test_run_to_the_end_with_output_exit_code_and_events_in_dockers_order(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        events, listening = record_events(engine)
        await asyncio.sleep(0)
        containers = engine.containers
        made = await containers.create(shell("echo out; echo err >&2; exit 3", auto_remove=True), "one")
        session = await containers.attach("one", stdin=False, stdout=True, stderr=True)
        gone = asyncio.ensure_future(containers.wait("one", "removed"))
        await asyncio.sleep(0)
        await containers.start("one")
        assert await read(session) == {"stdout": b"out\n", "stderr": b"err\n"}
        assert (await gone).exit_code == 3
        await until(lambda: actions(events)[-1:] == ["destroy"])
        assert actions(events) == ["create", "attach", "start", "die", "destroy"]
        died = events[3].attributes
        assert (died["exitCode"], died["execDuration"], died["name"]) == ("3", "0", "one")
        assert events[3].actor_id == made.id
        with pytest.raises(NotFound, match=r"No such container: one"):
            await containers.inspect("one")
        listening.cancel()


def test_a_log_is_whole_when_wait_returns(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        code, text = await run(engine, "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; exit 7")
        assert code == 7
        assert text.split() == [str(n) for n in range(2000)]


def test_stop_does_not_wait_for_a_process_that_cannot_react(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        made = await engine.containers.create(spec("sleep", "1000"), "deaf")
        await engine.containers.start("deaf")
        began = time.monotonic()
        await engine.containers.stop("deaf")
        seconds = time.monotonic() - began
        view = await engine.containers.inspect(made.id)
        assert (view.state, view.exit_code, view.manually_stopped) == ("exited", 137, True)
        assert seconds < 3
        with pytest.raises(NotModified):
            await engine.containers.stop("deaf")


def test_stop_lets_a_process_end_by_itself_and_kills_it_after_its_time(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        events, listening = record_events(engine)
        await asyncio.sleep(0)
        traps = "trap 'exit 5' TERM; trap '' INT; echo up; while :; do sleep 0.01; done"
        for name in ("polite", "stubborn"):
            await engine.containers.create(shell(traps), name)
            await engine.containers.start(name)
            async for _line in engine.containers.logs(name, LogOptions(follow=True)):
                break
        await engine.containers.stop("polite")
        assert (await engine.containers.inspect("polite")).exit_code == 5
        await until(lambda: actions(events)[-1] == "stop")
        assert [(e.action, e.attributes.get("signal")) for e in events[-3:]] == [
            ("kill", "15"),
            ("die", None),
            ("stop", None),
        ]
        began = time.monotonic()
        await engine.containers.kill("stubborn", signal="SIGWINCH")
        assert await state(engine, "stubborn") == "running"
        await engine.containers.stop("stubborn", timeout=0, signal="INT")
        assert time.monotonic() - began < 3
        assert (await engine.containers.inspect("stubborn")).exit_code == 137
        listening.cancel()


def test_kill_of_what_does_not_run_and_names_that_are_taken(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        made = await engine.containers.create(spec("true"), "web")
        with pytest.raises(Conflict, match=rf"container {made.id} is not running"):
            await engine.containers.kill("web")
        with pytest.raises(Conflict, match=rf'name "/web" is already in use by container "{made.id}"'):
            await engine.containers.create(spec("true"), "web")
        await engine.containers.rename("web", "front")
        again = await engine.containers.create(spec("true"), "web")
        with pytest.raises(Conflict, match="already in use"):
            await engine.containers.rename("front", "web")
        await engine.containers.remove(again.id[:12])
        assert [v.name for v in await engine.containers.list(all=True)] == ["front"]


def test_programs_that_cannot_start(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        for command, code in ((("/nope",), 127), (("/etc/passwd",), 126)):
            made = await engine.containers.create(spec(*command))
            with pytest.raises(StartError) as caught:
                await engine.containers.start(made.id)
            assert caught.value.exit_code == code
            view = await engine.containers.inspect(made.id)
            assert (view.state, view.exit_code) == ("created", code)
            assert view.error
        made = await engine.containers.create(spec("/nope", auto_remove=True))
        with pytest.raises(StartError):
            await engine.containers.start(made.id)
        await until(lambda: made.id not in os.listdir(f"{tmp_path}/root/containers"))


def test_pause_freezes_and_stop_thaws(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(shell("while :; do echo x; sleep 0.01; done"), "loop")
        await containers.start("loop")
        await containers.pause("loop")
        assert await state(engine, "loop") == "paused"
        await asyncio.sleep(0.05)
        before = len(await output(engine, "loop"))
        await asyncio.sleep(0.1)
        assert len(await output(engine, "loop")) == before
        with pytest.raises(Conflict, match="paused"):
            await containers.exec_create("loop", ExecSpec(command=("true",)))
        with pytest.raises(Conflict, match="already paused"):
            await containers.pause("loop")
        await containers.unpause("loop")
        await asyncio.sleep(0.1)
        assert len(await output(engine, "loop")) > before
        await containers.pause("loop")
        await containers.stop("loop")
        assert await state(engine, "loop") == "exited"


def test_restart_policy_delays_and_counts(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        failing = shell("exit 9", restart=RestartPolicy(name="on-failure", maximum_retry_count=2))
        await containers.create(failing, "failing")
        began = time.monotonic()
        await containers.start("failing")
        await until(lambda: engine._services.registry.get("failing").record.restart_count == 2)
        while await state(engine, "failing") != "exited":
            await asyncio.sleep(0.01)
        assert 0.3 <= time.monotonic() - began < 3, "100 ms, then 200 ms"
        view = await containers.inspect("failing")
        assert (view.restart_count, view.exit_code) == (2, 9)
        await containers.create(shell("exit 0", restart=RestartPolicy(name="always")), "always")
        await containers.start("always")
        await until(lambda: engine._services.registry.get("always").record.restart_count >= 1)
        await containers.stop("always") if await state(engine, "always") != "exited" else None
        count = (await containers.inspect("always")).restart_count
        await asyncio.sleep(0.5)
        view = await containers.inspect("always")
        assert (view.state, view.restart_count) == ("exited", count)
        with pytest.raises(InvalidInput, match="can't create 'AutoRemove' container with restart policy"):
            await containers.create(shell("true", auto_remove=True, restart=RestartPolicy(name="always")))


def test_restart_by_hand_keeps_an_auto_remove_container(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        made = await engine.containers.create(spec("sleep", "1000", auto_remove=True), "keep")
        await engine.containers.start("keep")
        first = (await engine.containers.inspect("keep")).pid
        await engine.containers.restart("keep")
        view = await engine.containers.inspect(made.id)
        assert view.state == "running"
        assert view.pid != first


def test_exec_has_the_containers_confinement(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        limited = shell(
            "cat /proc/self/status; ulimit -n; sleep 1000",
            cap_drop=("ALL",),
            cap_add=("KILL",),
            security_opt=("no-new-privileges",),
            env=("A=1",),
            working_dir="/tmp",
            resources=Resources(ulimits=(Ulimit(name="nofile", soft=100, hard=200),)),
        )
        await engine.containers.create(limited, "box")
        await engine.containers.start("box")
        script = 'cat /proc/self/status; ulimit -n; echo "$A $B $PWD $HOME"'
        code, text = await execute(engine, "box", "sh", "-c", script, env=("B=2",))
        assert code == 0
        fields = ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Groups")

        def facts(status):
            pairs = (line.partition(":") for line in status.splitlines())
            return {k: v.strip() for k, _, v in pairs if k in fields}

        await until(lambda: os.path.getsize(engine._services.registry.get("box").log_path) > 1000)
        assert facts(text) == facts(await output(engine, "box"))
        assert facts(text)["CapEff"] == "0000000000000020"
        assert facts(text)["Seccomp"] == "2"
        assert text.splitlines()[-2:] == ["100", "1 2 /tmp /root"]
        privileged = await execute(engine, "box", "grep", "CapEff", "/proc/self/status", privileged=True)
        assert int(privileged[1].split()[1], 16) > 1 << 38
        assert (await execute(engine, "box", "sh", "-c", "exit 42"))[0] == 42
        with pytest.raises(StartError) as caught:
            await execute(engine, "box", "/nope")
        assert caught.value.exit_code == 127


def test_exec_stdin_and_a_terminal(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("sleep", "1000"), "box")
        await containers.start("box")
        exec_id = await containers.exec_create(
            "box", ExecSpec(command=("cat",), attach_stdin=True, attach_stdout=True)
        )
        session = await containers.exec_start(exec_id)
        await session.send(b"hello")
        await session.close_stdin()
        assert (await read(session))["stdout"] == b"hello"
        await session.close()
        exec_id = await containers.exec_create(
            "box",
            ExecSpec(
                command=("sh", "-c", "stty size; tty"), tty=True, attach_stdout=True, console_size=(30, 90)
            ),
        )
        session = await containers.exec_start(exec_id)
        assert (await read(session))["stdout"].split() == [b"30", b"90", b"/dev/pts/0"]
        await session.close()


def test_attach_to_a_terminal_and_detach(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("cat", tty=True, open_stdin=True), "term")
        session = await containers.attach("term", stdin=True, stdout=True, stderr=True)
        await containers.start("term")
        await session.send(b"abc\n")
        said = b""
        while said.count(b"abc") < 2:
            said += (await session.receive())[1]
        await session.send(b"\x10\x11")
        assert await session.receive() is None
        await session.close()
        assert await state(engine, "term") == "running"
        again = await containers.attach("term", stdin=False, stdout=True, stderr=True, logs=True)
        assert (await again.receive())[1].startswith(b"abc")
        await again.close()
        await containers.stop("term", timeout=0)


def test_mounts_files_and_volumes(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "f").write_text("bound\n")

    @scene(tmp_path)
    async def _(engine):
        mounts = (
            Mount(type="bind", source=str(tmp_path / "src"), target="/b/ind", read_only=True),
            Mount(type="tmpfs", target="/b", tmpfs_options="size=1m"),
            Mount(type="volume", source="data", target="/data"),
            Mount(type="volume", target="/anon"),
        )
        files = (FileContent(target="/run/secrets/s", content=b"\xff", uid=5, mode=0o400),)
        script = (
            "cat /b/ind/f; touch /b/ind/g 2>/dev/null || echo ro; touch /b/x && echo tmpfs; echo kept > /data/k; "
            "stat -c '%u %a %s' /run/secrets/s; cat /etc/hostname >/dev/null && echo hostname"
        )
        code, text = await run(engine, script, "one", mounts=mounts, files=files)
        assert text.splitlines() == ["bound", "ro", "tmpfs", "5 400 1", "hostname"]
        assert code == 0
        named = {v.name: v.anonymous for v in await engine.volumes.list()}
        assert named.pop("data") is False
        assert list(named.values()) == [True]
        code, text = await run(engine, "cat /data/k; ls /anon", volumes_from=("one:ro",))
        assert (code, text) == (0, "kept\n")
        with pytest.raises(Conflict, match="volume is in use"):
            await engine.volumes.remove("data")
        for view in await engine.containers.list(all=True):
            await engine.containers.remove(view.id, volumes=True)
        assert [v.name for v in await engine.volumes.list()] == ["data"]


def test_namespaces_of_other_containers_and_of_the_host(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        await engine.containers.create(spec("sleep", "1000"), "main")
        made = await engine.containers.create(spec("true", network_mode="container:main"))
        with pytest.raises(Conflict, match="non running container"):
            await engine.containers.start(made.id)
        await engine.containers.start("main")
        pid = (await engine.containers.inspect("main")).pid
        code, text = await run(
            engine,
            "readlink /proc/self/ns/net /proc/self/ns/uts; cat /proc/1/cmdline | tr '\\0' ' '",
            network_mode="container:main",
            pid_mode="container:main",
        )
        net, uts, *rest = text.split()
        assert net == os.readlink(f"/proc/{pid}/ns/net")
        assert uts != os.readlink(f"/proc/{pid}/ns/uts")
        assert rest == ["sleep", "1000"]
        code, text = await run(
            engine,
            "readlink /proc/self/ns/net; readlink /proc/self/ns/pid",
            network_mode="host",
            pid_mode="host",
        )
        assert (code, text.split()) == (
            0,
            [os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/pid")],
        )
        with pytest.raises(InvalidInput, match=r"No such container: nope"):
            await engine.containers.create(spec("true", network_mode="container:nope"))
        with pytest.raises(InvalidInput, match=r"No such container: nope"):
            await engine.containers.create(spec("true", ipc_mode="container:nope"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "nope:1"}, "No such image: nope:1"),
        ({"cap_add": ("NOPE",)}, "(?i)unknown capability"),
        ({"security_opt": ("nonsense",)}, "invalid --security-opt"),
        ({"security_opt": ('seccomp={"defaultAction":"SCMP_ACT_NOPE"}',)}, "(?i)seccomp|action"),
        ({"resources": Resources(memory=1 << 20)}, "Minimum memory limit allowed is 6MB"),
        ({"sysctls": {"kernel.core_pattern": "x"}}, "is not in a separate kernel namespace"),
        (
            {"sysctls": {"net.ipv4.ip_forward": "1"}, "network_mode": "host"},
            "not allowed in host network namespace",
        ),
        ({"mounts": (Mount(type="tmpfs", target="/proc/sys"),)}, "inside /proc"),
        (
            {"mounts": (Mount(type="bind", source="/nope", target="/x"),)},
            "bind source path does not exist: /nope",
        ),
        (
            {"mounts": (Mount(type="tmpfs", target="/x"), Mount(type="tmpfs", target="/x/"))},
            "Duplicate mount point",
        ),
        ({"stop_signal": "NOPE"}, "invalid signal"),
        ({"runtime": "nope"}, "unknown or invalid runtime name"),
        ({"working_dir": "rel"}, "absolute path"),
    ],
)
def test_refused_at_create_with_nothing_left(tmp_path, changes, message):
    @scene(tmp_path)
    async def _(engine):
        with pytest.raises((InvalidInput, NotFound), match=message):
            await engine.containers.create(
                ContainerSpec(**({"image": "host.local/base", "command": ("true",)} | changes)), "xx"
            )
        assert await engine.containers.list(all=True) == []
        assert os.listdir(f"{tmp_path}/root/containers") == []
        await engine.containers.create(spec("true"), "xx")


def test_limits_update_stats_and_top(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(
            spec("sleep", "1000", resources=Resources(memory=64 << 20, pids_limit=50)), "box"
        )
        await containers.start("box")
        raw = (await containers.stats("box")).raw
        assert raw["memory_stats"]["limit"] == 64 << 20
        assert raw["pids_stats"]["limit"] == 50
        await containers.update(
            "box", resources=Resources(memory=32 << 20), restart=RestartPolicy(name="always")
        )
        assert (await containers.stats("box")).raw["memory_stats"]["limit"] == 32 << 20
        assert (await containers.inspect("box")).spec.restart.name == "always"
        titles, rows = await containers.top("box")
        assert titles[:3] == ["UID", "PID", "PPID"]
        assert [row[-1] for row in rows] == ["sleep 1000"]
        shared = await containers.stats("box", max_age=60)
        assert await containers.stats("box", max_age=60) is shared, "one reading for all who watch"
        assert await containers.stats("box") is not shared
        await containers.stop("box")
        assert (await containers.stats("box", max_age=60)).raw["memory_stats"] == {}


def test_oom_is_reported(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        events, listening = record_events(engine)
        limits = Resources(memory=24 << 20, memory_swap=24 << 20)
        code, _text = await run(
            engine, "python3 -c 'x = bytearray(200 << 20)'; exit $?", "hungry", resources=limits
        )
        view = await engine.containers.inspect("hungry")
        assert code == 137
        assert view.oom_killed
        assert "oom" in actions(events)
        listening.cancel()


def test_prune_removes_only_what_has_ended(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        await engine.containers.create(spec("sleep", "1000"), "runs")
        await engine.containers.start("runs")
        await run(engine, "true", "done")
        await run(engine, "true", "kept", labels={"keep": ""})
        removed, _bytes = await engine.containers.prune({"label!": ["keep"]})
        assert len(removed) == 1
        assert {v.name for v in await engine.containers.list(all=True)} == {"runs", "kept"}
        with pytest.raises(Conflict, match="container is running"):
            await engine.containers.remove("runs")


def test_fifty_at_once(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await engine.images.ensure("host.local/base")
        began = time.perf_counter()
        made = await asyncio.gather(*(containers.create(spec("sleep", "1000"), f"c{n}") for n in range(50)))
        created = time.perf_counter()
        await asyncio.gather(*(containers.start(m.id) for m in made))
        started = time.perf_counter()
        assert {v.state for v in await containers.list()} == {"running"}
        await asyncio.gather(*(containers.stop(m.id) for m in made))
        stopped = time.perf_counter()
        await asyncio.gather(*(containers.remove(m.id) for m in made))
        removed = time.perf_counter()
        print(
            f"\n50 containers: create {created - began:.3f} s, start {started - created:.3f} s, "
            f"stop {stopped - started:.3f} s, remove {removed - stopped:.3f} s, {engine._store.commits} commits"
        )
        assert engine._store.commits < 250
