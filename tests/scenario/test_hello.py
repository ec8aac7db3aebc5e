"""The hello stack from end to end, as a user runs it."""

from __future__ import annotations

import os
import shutil
import socket
import time
import urllib.request
from pathlib import Path

import oracle
import pytest
from harness import ROOT, Engine, lines, wait_until

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

STACK = str(ROOT / "examples/stacks/hello/stack.yml")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def port(engine: Engine) -> int:
    chosen = free_port()
    engine.environment["HELLO_PORT"] = str(chosen)
    return chosen


def visit(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return answer.read().decode()


def test_up_serves_counts_and_down_leaves_nothing(engine: Engine, port: int) -> None:
    engine.start()
    before = oracle.snapshot(engine.instance)
    up = engine.run("up", "-d", "--wait", "-f", STACK)
    assert "stack hello is up" in up.stderr
    assert "visitor number 1." in visit(port)
    assert "visitor number 2." in visit(port)

    containers = engine.ps("hello")
    assert sorted(containers) == ["hello-migrate-1", "hello-store-1", "hello-web-1", "hello-worker-1"]
    assert containers["hello-migrate-1"]["State"] == "exited"
    migrate, web, worker = (
        engine.inspect(f"hello-{name}-1")["State"] for name in ("migrate", "web", "worker")
    )
    assert migrate["ExitCode"] == 0
    assert web["Health"]["Status"] == "healthy"
    # web waited for the end of migrate, worker for the health of web
    assert (
        migrate["FinishedAt"] <= web["StartedAt"] <= web["Health"]["Log"][0]["Start"] <= worker["StartedAt"]
    )

    ps = {
        item["Service"]: item
        for item in lines(engine.run("-f", STACK, "ps", "-a", "--format", "json").stdout)
    }
    assert ps["web"]["Health"] == "healthy"
    assert ps["web"]["Publishers"] == [
        {"URL": "127.0.0.1", "TargetPort": 8000, "PublishedPort": port, "Protocol": "tcp"}
    ]
    assert "web: listening on port 8000" in engine.run("-f", STACK, "logs", "web").stdout
    wait_until(
        lambda: "worker: web is ok, 2 visits" in engine.run("-f", STACK, "logs", "worker").stdout,
        what="the worker's line",
    )

    # the count outlives the containers, and -v forgets it
    engine.run("down", "-f", STACK)
    assert engine.ps("hello") == {}
    engine.run("up", "-d", "--wait", "-f", STACK)
    assert "visitor number 3." in visit(port)
    engine.run("-f", STACK, "down", "-v")
    oracle.wait_for_nothing_leaked(engine.instance, before)


def test_a_second_up_changes_nothing_and_plan_says_so(engine: Engine, port: int) -> None:
    engine.run("up", "-d", "--wait", "-f", STACK)
    ids = {
        name: (item["Id"], engine.inspect(name)["State"]["Pid"]) for name, item in engine.ps("hello").items()
    }
    plan = engine.run("plan", "-f", STACK, "--detailed-exitcode")
    assert plan.stdout == "No changes: the stack is as its file says.\n"
    again = engine.run("up", "-d", "-f", STACK)
    assert "nothing to change" in again.stderr
    assert {
        name: (item["Id"], engine.inspect(name)["State"]["Pid"]) for name, item in engine.ps("hello").items()
    } == ids


def test_a_changed_service_is_recreated_alone(engine: Engine, port: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/stacks/hello", tmp_path / "hello")
    file = tmp_path / "hello/stack.yml"
    engine.run("up", "-d", "--wait", "-f", str(file))
    before = {name: item["Id"] for name, item in engine.ps("hello").items()}
    file.write_text(file.read_text().replace("WEB: web:8000", "WEB: web:8000\n      LOUD: 'yes'"))
    plan = engine.run("plan", "-f", str(file), "--detailed-exitcode", check=False)
    assert plan.returncode == 2
    assert "LOUD" in plan.stdout
    engine.run("up", "-d", "-f", str(file))
    after = {name: item["Id"] for name, item in engine.ps("hello").items()}
    assert {name for name in before if before[name] != after[name]} == {"hello-worker-1"}
    assert "LOUD=yes" in engine.inspect("hello-worker-1")["Config"]["Env"]


def test_exec_run_restart_stop_start(engine: Engine, port: int) -> None:
    engine.run("up", "-d", "--wait", "-f", STACK)
    assert (
        engine.run("-f", STACK, "exec", "-T", "web", "cat", "/etc/hello/greeting").stdout
        == "Hello from pystack!"
    )
    failed = engine.run(
        "-f", STACK, "exec", "-T", "web", "sh", "-c", "echo out; echo err >&2; exit 7", check=False
    )
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, "out\n", "err\n")
    code = "from client import ask; print(ask(do='get', key='schema'))"
    done = engine.run(
        "-f",
        STACK,
        "run",
        "--rm",
        "-T",
        "worker",
        "python3",
        "-c",
        f"import sys; sys.path.insert(0, '/app'); {code}",
    )
    assert done.stdout == "1\n"
    assert len(engine.ps("hello")) == 4
    started = engine.inspect("hello-web-1")["State"]["StartedAt"]
    engine.run("-f", STACK, "restart", "web")
    assert engine.inspect("hello-web-1")["State"]["StartedAt"] > started
    began = time.monotonic()
    engine.run("-f", STACK, "stop")
    assert time.monotonic() - began < 8
    assert {item["State"] for item in engine.ps("hello").values()} == {"exited"}
    engine.run("-f", STACK, "start")
    wait_until(lambda: engine.ps("hello")["hello-web-1"]["State"] == "running", what="web runs again")


def test_a_wrong_file_is_explained_and_touches_nothing(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(
        "services:\n  web:\n    image: host.local/base\n    prots: ['80:80']\n    depends_on: [dbb]\n  db:\n    image: host.local/base\n"
    )
    done = engine.run("up", "-d", "-f", str(file), check=False)
    assert done.returncode == 1
    assert f"{file}:4:5" in done.stderr
    assert "services.web" in done.stderr
    assert "did you mean `ports`?" in done.stderr
    assert f"{file}:5:18" in done.stderr
    assert "Traceback" not in done.stderr
    assert engine.ps(os.path.basename(tmp_path)) == {}


def test_two_engines_side_by_side(engine: Engine, port: int, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "run").mkdir()
    other = Engine(tmp_path / "root", tmp_path / "run")
    other.environment["HELLO_PORT"] = str(free_port())
    before = oracle.snapshot(other.instance)
    engine.run("up", "-d", "--wait", "-f", STACK)
    other.run("up", "-d", "--wait", "-f", STACK)
    try:
        assert "visitor number 1." in visit(port)
        assert "visitor number 1." in visit(int(other.environment["HELLO_PORT"]))
        assert "visitor number 2." in visit(port)
    finally:
        other.run("-f", STACK, "down", "-v")
        other.stop()
    oracle.wait_for_nothing_leaked(other.instance, before)
    assert "visitor number 3." in visit(port)
