"""The `pystack` command as a user meets it: attached `up`, a terminal, progress forms, several files, its own start."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from harness import Engine, wait_until, write_stack

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

STACK = """
name: cli
services:
  talk:
    image: host.local/base
    command: ["sh", "-c", "n=0; while :; do n=$$((n+1)); echo line $$n; sleep 0.05; done"]
    stop_signal: SIGKILL
  ends:
    image: host.local/base
    command: ["sh", "-c", "echo short; exit 3"]
"""


@pytest.fixture
def stack(tmp_path: Path) -> str:
    return str(write_stack(tmp_path / "stack.yml", STACK))


def terminal(engine: Engine, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """`pystack ARGUMENTS` on a pseudo-terminal of 24 x 80."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "pystack", *arguments],
        env=engine.environment | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    return process, master


def read_until(master: int, pattern: str, *, within: float = 20) -> str:
    """Read the terminal until `pattern` was printed; returns everything read."""
    seen, deadline = "", time.monotonic() + within
    while not re.search(pattern, seen):
        assert time.monotonic() < deadline, f"not printed: {pattern}\n{seen}"
        if select.select([master], [], [], 0.1)[0]:
            try:
                seen += os.read(master, 65536).decode(errors="replace")
            except OSError:
                break
    assert re.search(pattern, seen), seen
    return seen


def test_attached_up_shows_logs_and_ctrl_c_stops(engine: Engine, stack: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pystack", "-f", stack, "up"],
        env=engine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    seen = ""
    while "line 5\n" not in seen:
        line = process.stdout.readline()
        assert line, engine.log()
        seen += line
    assert re.search(r"^talk-1 +\| line 1$", seen, re.MULTILINE)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "ends-1 exited with code 3" in errors
    assert {item["State"] for item in engine.ps("cli").values()} == {"exited"}


def test_logs_follow_and_tail(engine: Engine, stack: str) -> None:
    engine.run("-f", stack, "up", "-d")
    wait_until(lambda: "line 9" in engine.run("-f", stack, "logs", "talk").stdout, what="nine lines")
    assert (
        len(engine.run("-f", stack, "logs", "--tail", "2", "--no-log-prefix", "talk").stdout.splitlines())
        == 2
    )
    assert engine.run("-f", stack, "logs", "ends").stdout == "ends-1  | short\n"
    follow = subprocess.Popen(
        [sys.executable, "-m", "pystack", "-f", stack, "logs", "-f", "--tail", "1", "talk"],
        env=engine.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    numbers = [int(follow.stdout.readline().split()[-1]) for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    engine.run("-f", stack, "down")
    assert follow.wait(timeout=10) == 0
    follow.stdout.close()


def test_a_terminal_in_the_container(engine: Engine, stack: str) -> None:
    engine.run("-f", stack, "up", "-d")
    process, master = terminal(engine, "-f", stack, "exec", "talk", "sh")
    os.write(master, b"tty; stty size; echo done-$((40+2))\n")
    seen = read_until(master, r"done-42\r\n")
    assert "/dev/pts/0" in seen
    os.write(master, b"exit 5\n")
    read_until(master, r"exit 5")
    assert process.wait(timeout=10) == 5
    os.close(master)


def test_progress_forms(engine: Engine, stack: str) -> None:
    engine.start()
    events = [
        json.loads(line)
        for line in engine.run("--progress", "json", "-f", stack, "up", "-d").stderr.splitlines()
        if line[0] == "{"
    ]
    assert {"id": "Container cli-talk-1", "status": "Done", "text": "Started"}.items() <= next(
        event for event in events if event["text"] == "Started" and event["id"] == "Container cli-talk-1"
    ).items()
    assert engine.run("--progress", "quiet", "-f", stack, "down").stderr.startswith("stack is down")
    process, master = terminal(engine, "--progress", "tty", "-f", stack, "up", "-d")
    seen = read_until(master, r"stack cli is up")
    assert process.wait(timeout=10) == 0
    assert re.search(r"\[\+\] up \d+/\d+", seen)
    assert "✔ Container cli-talk-1" in re.sub(r"\x1b\[[0-9;]*m", "", seen)
    os.close(master)


def test_several_files_profiles_and_variables(engine: Engine, tmp_path: Path) -> None:
    one = write_stack(
        tmp_path / "a.yml",
        "name: multi\nservices:\n  s:\n    image: host.local/base\n    command: [sleep, '100']\n    stop_signal: SIGKILL\n    environment: {A: '${WORD:-none}', B: old}\n  extra:\n    image: host.local/base\n    command: [sleep, '100']\n    stop_signal: SIGKILL\n    profiles: [more]\n",
    )
    two = write_stack(tmp_path / "b.yml", "services:\n  s:\n    environment: {B: new}\n")
    (tmp_path / ".env").write_text("WORD=from-file\n")
    engine.run("-f", str(one), "-f", str(two), "up", "-d", cwd=tmp_path)
    assert sorted(engine.ps("multi")) == ["multi-s-1"]
    assert {"A=from-file", "B=new"} <= set(engine.inspect("multi-s-1")["Config"]["Env"])
    engine.run(
        "up",
        "-d",
        "-f",
        str(one),
        "-f",
        str(two),
        "--profile",
        "more",
        cwd=tmp_path,
        env={"WORD": "from-shell"},
    )
    assert sorted(engine.ps("multi")) == ["multi-extra-1", "multi-s-1"]
    assert "A=from-shell" in engine.inspect("multi-s-1")["Config"]["Env"]
    config = json.loads(
        engine.run("-f", str(one), "-f", str(two), "config", "--format", "json", cwd=tmp_path).stdout
    )
    assert config["services"]["s"]["environment"] == {"A": "from-file", "B": "new"}


def test_scale_and_round_robin(engine: Engine, tmp_path: Path) -> None:
    stack = str(
        write_stack(
            tmp_path / "s.yml",
            "name: scale\nservices:\n  s:\n    image: host.local/base\n    command: [sleep, '100']\n    stop_signal: SIGKILL\n    deploy: {replicas: 3}\n",
        )
    )
    engine.run("-f", stack, "up", "-d")
    assert sorted(engine.ps("scale")) == ["scale-s-1", "scale-s-2", "scale-s-3"]
    found = engine.run("-f", stack, "exec", "-T", "--index", "2", "s", "getent", "ahostsv4", "s").stdout
    assert len({line.split()[0] for line in found.splitlines()}) == 3
    engine.run("-f", stack, "up", "-d", "--scale", "s=1")
    assert sorted(engine.ps("scale")) == ["scale-s-1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upp"], "did you mean `up`?"),
        (["up", "--nope"], "unrecognized arguments: --nope"),
        (["-f", "/nowhere/stack.yml", "up"], "/nowhere/stack.yml"),
        (["-f", "STACK", "logs", "nope"], "no such service: nope"),
    ],
)
def test_wrong_usage_ends_with_1_and_says_what_to_do(
    engine: Engine, stack: str, arguments: list[str], message: str
) -> None:
    done = engine.run(*[stack if a == "STACK" else a for a in arguments], check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_imports_little(engine: Engine) -> None:
    code = "import sys; from pystack.cli.main import main; main(['version']); print(sorted(m for m in ('pydantic', 'networkx', 'pyroute2', 'aiohttp', 'asyncio', 'ruamel', 'http.client', 'subprocess') if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=engine.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_service_that_fails_is_shown_with_its_last_lines(engine: Engine, tmp_path: Path) -> None:
    text = """
name: fails
services:
  first:
    image: host.local/base
    command: ["sh", "-c", "echo about to fail; echo because of this >&2; exit 9"]
  second:
    image: host.local/base
    command: ["true"]
    depends_on: {first: {condition: service_completed_successfully}}
"""
    done = engine.run("-f", str(write_stack(tmp_path / "f.yml", text)), "up", "-d", check=False)
    assert done.returncode == 1
    assert "container fails-first-1 exited (9)\n  | about to fail\n  | because of this\n" in done.stderr
    assert "hint: pystack logs first" in done.stderr
    assert engine.ps("fails")["fails-second-1"]["State"] == "created"
