"""Die at every failpoint: start an engine that is killed there, run the work again, and nothing is lost or left.

The work takes a stack up, changes it, runs a command in it, and takes it down with its volume. Failpoints lie in the
daemon, the launcher and the shims; all inherit PYSTACK_FAILPOINTS.
"""

from __future__ import annotations

import re
from pathlib import Path

import oracle
import pytest
from harness import ROOT, Engine, write_stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

STACK = """
name: fp
services:
  a:
    image: host.local/base
    command: ["sleep", "1000"]
    environment: {{VERSION: "{version}"}}
    volumes: ["data:/data"]
    ports: ["127.0.0.1::80"]
    mem_limit: 64m
    configs: [{{source: c, target: /etc/c}}]
  b:
    image: host.local/base
    command: ["sleep", "1000"]
    depends_on: [a]
    init: true
volumes: {{data: {{}}}}
configs: {{c: {{content: hello}}}}
"""
#: Failpoints that this work does not come by, and why. Everything else must be reached, or the test fails.
ELSEWHERE: dict[str, str] = {}


def names() -> list[str]:
    found: set[str] = set()
    for room in ("engine", "image", "kernel", "network", "reconciler", "volume", "api"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r'failpoint\("([a-z0-9_.-]+)"\)', path.read_text()))
    return sorted(found)


def work(engine: Engine, one: str, two: str, **env: str) -> bool:
    """The work; True if every command succeeded."""
    ok = True
    for command in (
        ("up", "-d", "-f", one),
        ("-f", one, "exec", "-T", "b", "true"),
        ("up", "-d", "-f", two),
        ("restart", "-f", two, "-t", "1", "b"),
        ("down", "-v", "-f", two),
    ):
        done = engine.run(*command, check=False, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        ok = ok and done.returncode == 0
    return ok


@pytest.mark.parametrize("name", names())
def test_killed_at(engine: Engine, tmp_path: Path, name: str) -> None:
    one = str(write_stack(tmp_path / "one.yml", STACK.format(version="1")))
    two = str(write_stack(tmp_path / "two.yml", STACK.format(version="2")))
    before = oracle.snapshot(engine.instance)
    failing = {"PYSTACK_FAILPOINTS": f"{name}=1*kill"}
    clean = work(engine, one, two, **failing)
    if clean and name not in ELSEWHERE:
        pytest.fail(f"the work never came by {name}: extend it, or give the reason in ELSEWHERE")
    engine.stop()
    assert work(engine, one, two), engine.log()
    engine.stop()
    oracle.wait_for_nothing_leaked(engine.instance, before)
