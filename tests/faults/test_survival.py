"""kill -9 of the daemon, of the launcher, or of both: containers, logs and the next command do not care."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import oracle
import pytest
from harness import Engine, wait_until, write_stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

COUNTER = "import time\nn = 0\nwhile True:\n n += 1\n print(n, flush=True)\n time.sleep(0.002)"
STACK = """
name: survivor
services:
  counter:
    image: host.local/base
    command: ["python3", "-u", "-c", {code}]
    restart: always
  web:
    image: host.local/base
    command: ["python3", "-m", "http.server", "8000", "--bind", "0.0.0.0"]
    working_dir: /etc
    ports: ["127.0.0.1::8000"]
    depends_on: [counter]
    volumes: ["data:/data"]
volumes:
  data:
"""
VICTIMS = ("daemon", "launcher", "both")


@pytest.fixture
def stack(tmp_path: Path) -> str:
    return str(write_stack(tmp_path / "stack.yml", STACK.format(code=json.dumps(COUNTER))))


def kill(engine: Engine, victim: str) -> None:
    daemon, launcher = engine.pid(), engine.launcher_pid()
    if victim in {"launcher", "both"}:
        engine.kill(launcher)
    if victim in {"daemon", "both"}:
        engine.kill(daemon)


def numbers(engine: Engine, stack: str) -> list[int]:
    return [
        int(line) for line in engine.run("-f", stack, "logs", "--no-log-prefix", "counter").stdout.split()
    ]


@pytest.mark.parametrize("victim", VICTIMS)
def test_running_containers_live_on_and_lose_no_line(engine: Engine, stack: str, victim: str) -> None:
    engine.start()
    before = oracle.snapshot(engine.instance)
    engine.run("up", "-d", "-f", stack)
    pids = {name: engine.inspect(name)["State"]["Pid"] for name in engine.ps("survivor")}
    port = engine.ps("survivor")["survivor-web-1"]["Ports"][0]["PublicPort"]
    for _ in range(3):
        kill(engine, victim)
        time.sleep(0.2)
        engine.start()
        assert {name: engine.inspect(name)["State"]["Pid"] for name in engine.ps("survivor")} == pids
        assert all(item["State"] == "running" for item in engine.ps("survivor").values())
        # the published port answers from the host, and the service by its name from a neighbour
        probe = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=5).status)"
        assert (
            subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
            == "200\n"
        )
        inside = "import urllib.request; print(urllib.request.urlopen('http://web:8000/', timeout=5).status)"
        assert engine.run("-f", stack, "exec", "-T", "counter", "python3", "-c", inside).stdout == "200\n"
    seen = numbers(engine, stack)
    assert len(seen) > 50
    assert seen == list(range(1, len(seen) + 1))
    assert "nothing to change" in engine.run("up", "-d", "-f", stack).stderr
    engine.run("down", "-v", "-f", stack)
    serving = (str(engine.pid()), str(engine.launcher_pid()))
    before.things["process"] = set()

    def leaked() -> list[str]:  # the daemon and launcher of now are others than before
        found = oracle.snapshot(engine.instance).leaked_since(before)
        return [
            thing for thing in found if not thing.startswith(tuple(f"process: {pid} " for pid in serving))
        ]

    wait_until(lambda: not leaked(), what="nothing is left")  # the kernel takes a moment for a veth


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_killed_in_the_middle_of_an_up(engine: Engine, stack: str, victim: str, delay: float) -> None:
    engine.start()
    up = subprocess.Popen(
        [sys.executable, "-m", "pystack", "up", "-d", "-f", stack],
        env=engine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.05 + delay)
    kill(engine, victim)
    _, errors = up.communicate(timeout=60)
    assert "Traceback" not in errors
    engine.run("up", "-d", "-f", stack)
    wait_until(
        lambda: (
            {item["State"] for item in engine.ps("survivor").values()} == {"running"}
            and len(engine.ps("survivor")) == 2
        ),
        what="both run",
    )
    assert "No changes" in engine.run("plan", "-f", stack).stdout
    engine.run("down", "-v", "-f", stack)  # the fixture's oracle finds what is left behind


def test_an_exit_while_no_daemon_runs_is_known_to_the_next(engine: Engine, tmp_path: Path) -> None:
    stack = str(
        write_stack(
            tmp_path / "s.yml",
            "name: gone\nservices:\n  a:\n    image: host.local/base\n    command: ['sh', '-c', 'sleep 1; exit 42']\n",
        )
    )
    engine.run("up", "-d", "-f", stack)
    kill(engine, "both")
    time.sleep(1.2)
    engine.start()
    state = engine.inspect("gone-a-1")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 42)
    assert state["FinishedAt"] > state["StartedAt"]
