"""Streams of containers and execs: attach, stdin, terminals, logs, and what survives which death."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from runtime_harness import Box, box, collect, fd_count, process

from pystack.engine.runtime import record
from pystack.engine.runtime.client import Launcher, ShimProcess
from pystack.kernel.process import parent
from pystack.model.errors import Conflict, StartError

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path) as it:
        yield it


async def attached(made: Box, *argv: str, stdin: bool = False, **changes):
    proc = changes.pop("proc", None) or process(*argv)
    bundle = made.bundle(proc, stdin=stdin, stdin_once=changes.pop("stdin_once", stdin), **changes)
    shim = await made.launcher.launch(bundle)
    made.shims.append(shim)
    session = await shim.attach(stdin=stdin, stdout=True, stderr=True)
    await shim.go()
    await shim.wait_started()
    return bundle, shim, session


def log_lines(bundle) -> list[dict]:
    return [json.loads(line) for line in Path(bundle["log"]["path"]).read_text().splitlines()]


async def test_output_is_attached_and_logged_by_stream(made: Box) -> None:
    bundle, shim, session = await attached(
        made, "sh", "-c", "echo out; echo err >&2; printf 'h\\303\\251 \\377 end'"
    )
    output = await collect(session)
    assert output == {"stdout": b"out\nh\xc3\xa9 \xff end", "stderr": b"err\n"}
    await shim.closed
    entries = log_lines(bundle)
    assert sorted((e["stream"], e["log"]) for e in entries) == [
        ("stderr", "err\n"), ("stdout", "h\u00e9 \ufffd end"), ("stdout", "out\n")
    ]  # fmt: skip
    assert all(len(e["time"]) == 30 and e["time"].endswith("Z") for e in entries)
    assert os.stat(bundle["log"]["path"]).st_mode & 0o777 == 0o640


async def test_the_log_is_whole_when_the_exit_is_told(made: Box) -> None:
    for _ in range(5):
        bundle = made.bundle(process("sh", "-c", "seq 500"))
        shim = await made.start(bundle)
        await shim.exited
        assert len(log_lines(bundle)) == 500
        await shim.closed


async def test_stdin_ends_with_the_session_that_fed_it(made: Box) -> None:
    _, _, session = await attached(made, "sh", "-c", "cat; echo done", stdin=True)
    await session.send(b"hello\n")
    assert await session.receive() == ("stdout", b"hello\n")
    await session.close_stdin()
    assert await session.receive() == ("stdout", b"done\n")
    assert await session.receive() is None
    _, shim, session = await attached(made, "cat", stdin=True)
    await session.close()
    assert (await asyncio.wait_for(shim.exited, 5))["exit_code"] == 0


async def test_stdin_stays_open_between_sessions(made: Box) -> None:
    _, shim, session = await attached(made, "cat", stdin=True, stdin_once=False)
    await session.close_stdin()
    await session.close()
    second = await shim.attach(stdin=True, stdout=True, stderr=False)
    await second.send(b"again\n")
    assert await second.receive() == ("stdout", b"again\n")
    await second.close()


async def test_much_input_reaches_a_slow_reader(made: Box) -> None:
    data = os.urandom(1 << 20) * 8
    _, _, session = await attached(made, "sh", "-c", "sleep 0.3; sha256sum", stdin=True)
    await session.send(data)
    await session.close_stdin()
    output = await collect(session)
    assert output["stdout"].split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_nothing_is_lost_on_a_slow_client(made: Box) -> None:
    size = 20 << 20
    script = f"import sys, hashlib; d = bytes(range(256)) * {size // 256}; sys.stdout.buffer.write(d)"
    log = {"path": "", "max_size": -1, "max_file": 1, "compress": False, "attributes": {}}
    _, shim, session = await attached(made, "python3", "-c", script, log=log)
    await asyncio.sleep(0.3)
    assert not shim.exited.done()  # the container waits for its slow reader
    total, digest = 0, hashlib.sha256()
    while (chunk := await session.receive()) is not None:
        total += len(chunk[1])
        digest.update(chunk[1])
        if total < 2 << 20:
            await asyncio.sleep(0.01)
    assert total == size
    assert digest.hexdigest() == hashlib.sha256(bytes(range(256)) * (size // 256)).hexdigest()
    await shim.closed


async def test_a_client_that_does_not_read_is_dropped_for_the_others_sake(made: Box) -> None:
    log = {"path": "", "max_size": -1, "max_file": 1, "compress": False, "attributes": {}}
    _, shim, idle = await attached(made, "sh", "-c", "sleep 0.5; head -c 20000000 /dev/zero", log=log)
    reader = await shim.attach(stdin=False, stdout=True, stderr=True)
    assert len((await asyncio.wait_for(collect(reader), 30))["stdout"]) == 20_000_000
    assert len((await collect(idle))["stdout"]) < 20_000_000
    await shim.closed


async def test_a_client_that_leaves_does_not_hold_the_container(made: Box) -> None:
    _, shim, session = await attached(made, "sh", "-c", "head -c 5000000 /dev/zero")
    await session.receive()
    await session.close()
    assert (await asyncio.wait_for(shim.exited, 10))["exit_code"] == 0


async def test_a_full_stdin_costs_no_time(made: Box) -> None:
    """The client hangs up while the container does not read: the shim must sleep, not spin on the hang-up."""
    _, shim, session = await attached(made, "sleep", "100", stdin=True)
    sending = asyncio.create_task(session.send(b"x" * (4 << 20)))
    await asyncio.sleep(0.2)
    sending.cancel()
    await session.close()
    stat = Path(f"/proc/{parent(shim.pid)}/stat")
    before = stat.read_text().rsplit(")", 1)[1].split()[11:13]
    await asyncio.sleep(0.5)
    after = stat.read_text().rsplit(")", 1)[1].split()[11:13]
    assert sum(map(int, after)) - sum(map(int, before)) <= 5  # ticks of 10 ms


async def test_terminal(made: Box) -> None:
    script = "tty; stty size; stat -c '%t' /dev/console; test -t 0 -a -t 1 -a -t 2 && echo all; ls /dev/pts; read x; echo got $x"
    proc = process("sh", "-c", script, tty=True, console_size=[33, 99])
    bundle, shim, session = await attached(made, proc=proc, stdin=True)
    await session.send(b"word\n")
    output = (await collect(session))["stdout"].decode()
    assert output.replace("word\r\n", "", 1).split() == [
        "/dev/pts/0",
        "33",
        "99",
        "88",
        "all",
        "0",
        "ptmx",
        "got",
        "word",
    ]
    await shim.closed
    assert "".join(e["log"] for e in log_lines(bundle)) == output


async def test_resize(made: Box) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    _, shim, session = await attached(made, proc=process("bash", "-c", script, tty=True), stdin=True)
    assert await session.receive() == ("stdout", b"ready\r\n")
    await shim.resize(rows=40, columns=120)
    assert (await collect(session))["stdout"] == b"40 120\r\n"


async def test_exec_streams(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))
    before = fd_count()
    running = await shim.exec(process("sh", "-c", "cat; echo err >&2; exit 3"), stdin=True)
    await running.send(b"input")
    await running.close_stdin()
    assert await collect(running) == {"stdout": b"input", "stderr": b"err\n"}
    assert await running.exited == 3
    assert running.pid > 1
    await running.close()
    running = await shim.exec(process("sh", "-c", "kill -TERM $$"))
    assert await running.exited == 143
    await running.close()
    await asyncio.sleep(0.01)
    assert fd_count() == before


async def test_exec_with_a_terminal(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))
    proc = process(
        "sh",
        "-c",
        "tty; stty size; read x; stty size; echo $x",
        tty=True,
        console_size=[20, 70],
        user="alice",
    )
    running = await shim.exec(proc)
    text = b""
    while text.count(b"\n") < 2:
        text += (await running.receive())[1]
    assert text == b"/dev/pts/0\r\n20 70\r\n"
    running.resize(rows=30, columns=90)
    await running.send(b"word\n")
    assert (await collect(running))["stdout"].split() == [b"word", b"30", b"90", b"word"]
    assert await running.exited == 0
    await running.close()


async def test_exec_ends_though_a_background_process_holds_its_output(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))
    running = await shim.exec(process("sh", "-c", "sleep 50 & echo here"))
    output = await asyncio.wait_for(collect(running), 5)
    assert output["stdout"] == b"here\n"
    await running.close()


async def test_sessions_may_be_closed_while_they_are_waited_for(made: Box) -> None:
    _, shim, session = await attached(made, "sleep", "100", stdin=True)
    running = await shim.exec(process("sleep", "100"), stdin=True)
    for one in (session, running):
        receiving = asyncio.create_task(one.receive())
        sending = asyncio.create_task(one.send(b"x" * (1 << 20)))
        await asyncio.sleep(0.05)
        await one.close()
        assert await asyncio.wait_for(receiving, 2) is None
        await asyncio.wait_for(sending, 2)
    again = await shim.exec(process("echo", "fine"))
    assert (await collect(again))["stdout"] == b"fine\n"


async def test_many_execs_at_once(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))

    async def one(number: int) -> bytes:
        running = await shim.exec(process("echo", str(number)))
        output = await collect(running)
        await running.exited
        return output["stdout"]

    results = await asyncio.gather(*[one(number) for number in range(20)])
    assert results == [b"%d\n" % number for number in range(20)]


async def test_execs_end_with_their_container(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))
    running = await shim.exec(process("sleep", "100"))
    await shim.signal(9)
    assert (await asyncio.wait_for(shim.exited, 5))["exit_code"] == 137
    assert await asyncio.wait_for(running.exited, 5) == 137
    await shim.closed
    for attempt in (
        shim.exec(process("true")),
        shim.attach(stdin=False, stdout=True, stderr=True),
        shim.signal(9),
    ):
        with pytest.raises(Conflict):
            await attempt


async def test_rotation_and_compression(made: Box) -> None:
    bundle = made.bundle(process("sh", "-c", "seq 1 3000"))
    bundle["log"] = {
        **bundle["log"],
        "max_size": 40_000,
        "max_file": 3,
        "compress": True,
        "attributes": {"a": "b"},
    }
    shim = await made.start(bundle)
    await shim.closed
    path = bundle["log"]["path"]
    names = sorted(name for name in os.listdir(bundle["directory"]) if name.startswith("log"))
    assert names == ["log", "log.1.gz", "log.2.gz"]
    kept = gzip.decompress(Path(path + ".2.gz").read_bytes()) + gzip.decompress(
        Path(path + ".1.gz").read_bytes()
    )
    entries = [json.loads(line) for line in (kept.decode() + Path(path).read_text()).splitlines()]
    numbers = [int(e["log"]) for e in entries]
    assert numbers == list(range(numbers[0], 3001))
    assert entries[0]["attrs"] == {"a": "b"}
    assert os.stat(path).st_size <= 40_200


async def test_a_full_disk_does_not_hold_the_container(made: Box) -> None:
    bundle = made.bundle(process("sh", "-c", "seq 1000"))
    bundle["log"] = {**bundle["log"], "path": "/dev/full"}
    shim = await made.start(bundle)
    assert (await asyncio.wait_for(shim.exited, 5))["exit_code"] == 0
    await shim.closed
    assert shim.log_dropped == 1000


async def test_containers_live_on_without_launcher_and_daemon(made: Box) -> None:
    """kill -9 of the launcher, and the daemon's end of every socket closed: re-adopted with streams, exec and exit."""
    bundle = made.bundle(process("sh", "-c", "read x; echo got $x; exit 7"), stdin=True)
    first = await made.start(bundle)
    first_pid = first.pid
    os.kill(made.launcher.pid, signal.SIGKILL)
    first.close()
    again = await ShimProcess.reconnect(bundle["socket"])
    made.shims.append(again)
    assert (again.pid, again.run, again.directory) == (first_pid, 1, bundle["directory"])
    assert again.started_at
    assert os.readlink(f"/proc/self/fd/{again.netns_fd}") == os.readlink(f"/proc/{first_pid}/ns/net")
    await again.wait_started()
    running = await again.exec(process("id", "-u"))
    assert (await collect(running))["stdout"] == b"0\n"
    await running.close()
    session = await again.attach(stdin=True, stdout=True, stderr=True)
    await session.send(b"me\n")
    assert (await collect(session))["stdout"] == b"got me\n"
    assert (await again.exited)["exit_code"] == 7
    await again.closed
    assert await ShimProcess.reconnect(bundle["socket"]) is None
    assert record.load(bundle["directory"])["exit_code"] == 7
    other = await made.start(made.bundle(process("sleep", "100")))  # a new launcher
    assert other.is_alive()


async def test_an_exit_without_a_daemon_is_recorded(made: Box) -> None:
    bundle = made.bundle(process("sh", "-c", "sleep 0.1; exit 9"))
    shim = await made.start(bundle)
    pid = shim.pid
    shim.close()
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            break
        await asyncio.sleep(0.02)
    saved = record.load(bundle["directory"])
    assert (saved["exit_code"], saved["run"], saved["pid"]) == (9, 1, pid)


async def test_a_daemon_that_dies_before_go_leaves_nothing(made: Box) -> None:
    bundle = made.bundle(process("sleep", "100"))
    shim = await made.launcher.launch(bundle)
    pid, supervisor = shim.pid, parent(shim.pid)
    shim.close()
    for _ in range(200):
        if not os.path.exists(f"/proc/{supervisor}"):
            break
        await asyncio.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(f"/proc/{supervisor}")
    assert not os.path.exists(bundle["socket"])
    assert record.load(bundle["directory"])["exit_code"] == 125


async def test_a_shim_that_is_killed_takes_its_container_along(made: Box) -> None:
    shim = await made.start(made.bundle(process("sleep", "100")))
    os.kill(parent(shim.pid), signal.SIGKILL)
    ended = await asyncio.wait_for(shim.exited, 5)
    assert ended["exit_code"] == 137
    assert "shim" in ended["error"]
    await shim.closed
    assert not shim.is_alive()


@pytest.mark.parametrize(
    "place", ["shim.child.cloned", "shim.socket.bound", "child.root.mounted", "child.exec.ready"]
)
async def test_deaths_during_a_start_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PYSTACK_FAILPOINTS", f"{place}={'kill' if place.startswith('shim') else 'error'}")
    async with box(tmp_path) as made:
        with pytest.raises(Exception, match="cannot") as caught:  # noqa: PT012
            shim = await made.launcher.launch(made.bundle(process("sleep", "100")))
            await shim.go()
            await asyncio.wait_for(shim.wait_started(), 5)
        assert getattr(caught.value, "exit_code", 125) == 125
        if isinstance(caught.value, StartError):
            await shim.closed
            assert not shim.is_alive()


async def test_the_launcher_imports_little_and_runs_from_a_sealed_copy(made: Box) -> None:
    await made.run(process("true"))
    assert os.readlink(f"/proc/{made.launcher.pid}/exe").startswith("/memfd:")
    maps = Path(f"/proc/{made.launcher.pid}/maps").read_text()
    assert "pydantic" not in maps
    assert Path(f"/proc/{made.launcher.pid}/environ").read_bytes() in {b"", b"\0"}
    assert made.launcher.warnings == []


async def test_the_launcher_ends_with_its_daemon(made: Box) -> None:
    await made.launcher.start()
    other = Launcher()
    await other.start()
    pid = other.pid
    await other.close()
    assert not os.path.exists(f"/proc/{pid}")
