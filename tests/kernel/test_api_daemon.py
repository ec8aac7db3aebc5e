"""The daemon as a process: one per instance, ready when it says so, ended in an orderly way, started by systemd's rules."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

from pystack.cli.client import Client, EngineUnreachable

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

COMMAND = [sys.executable, "-c", "import sys; from pystack.api.daemon import main; sys.exit(main())"]


class Daemon:
    def __init__(self, engine: harness.Engine) -> None:
        self.engine = engine
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **options: object) -> subprocess.Popen[bytes]:
        env = {**self.engine.environment, **options.pop("env", {})}  # type: ignore[dict-item]
        with open(f"{self.engine.instance.run}/daemon.log", "ab") as log:
            process = subprocess.Popen(COMMAND, env=env, stdout=log, stderr=log, **options)  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def wait_ready(self, process: subprocess.Popen[bytes]) -> float:
        """Seconds until the first answer."""
        began = time.monotonic()
        while True:
            assert process.poll() is None, self.engine.log()
            assert time.monotonic() - began < 20, self.engine.log()
            try:
                answer = self.engine.client.request("GET", "/_ping")
            except EngineUnreachable:
                time.sleep(0.005)
                continue
            seconds = time.monotonic() - began
            assert answer.read() == b"OK"
            answer.close()
            return seconds


@pytest.fixture
def daemon(engine: harness.Engine) -> Iterator[Daemon]:
    made = Daemon(engine)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def test_life(daemon: Daemon) -> None:
    process = daemon.start()
    seconds = daemon.wait_ready(process)
    print(f"first answer after {seconds * 1000:.0f} ms")
    instance = daemon.engine.instance
    shown = daemon.engine.client.get("/daemon")
    assert (shown["pid"], shown["instance"], shown["root"]) == (process.pid, instance.id, instance.root)
    assert shown["launcher"] > 1
    assert stat.S_IMODE(os.stat(instance.socket).st_mode) in {0o600, 0o660}
    assert stat.S_IMODE(os.stat(instance.root).st_mode) == 0o700
    for path in Path(instance.root).iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o006, f"everyone can read {path}"
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    second = subprocess.run(
        COMMAND, env=daemon.engine.environment, check=False, capture_output=True, text=True, timeout=20
    )
    assert second.returncode == 1
    assert f"one with pid {process.pid} serves {instance.root} already" in second.stderr
    assert daemon.engine.client.get("/daemon")["pid"] == process.pid
    process.send_signal(signal.SIGUSR1)
    harness.wait_until(lambda: "task Task-1" in daemon.engine.log(), what="the dump of tasks")
    process.terminate()
    assert process.wait(10) == 0
    assert not Path(instance.socket).exists()


def test_a_killed_daemon_is_followed_by_another(daemon: Daemon) -> None:
    first = daemon.start()
    daemon.wait_ready(first)
    first.kill()
    first.wait(10)
    assert Path(daemon.engine.instance.socket).exists(), "nobody could clean up"
    second = daemon.start()
    daemon.wait_ready(second)
    assert daemon.engine.client.get("/daemon")["pid"] == second.pid


def test_stop_by_request(daemon: Daemon) -> None:
    process = daemon.start()
    daemon.wait_ready(process)
    daemon.engine.client.post("/daemon/stop")
    assert process.wait(10) == 0


def test_systemd(daemon: Daemon, tmp_path: Path) -> None:
    """Socket activation and readiness: descriptor 3 is the listening socket, READY=1 comes on the notify socket."""
    path = str(tmp_path / "activated.sock")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        listener.bind(path)
        listener.listen()
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(20)
        # As systemd does it: the descriptor is number 3, and LISTEN_PID is the pid of the program itself.
        script = f'export LISTEN_PID=$$; exec "$@" 3<&{listener.fileno()}'
        with open(f"{daemon.engine.instance.run}/daemon.log", "ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", script, "bash", *COMMAND],
                env=daemon.engine.environment
                | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")},
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )
        daemon.started.append(process)
        assert b"READY=1" in notify.recv(4096), daemon.engine.log()
        assert Client(f"unix://{path}").get("/daemon")["pid"] == process.pid
        assert not Path(daemon.engine.instance.socket).exists()
        process.terminate()
        assert notify.recv(4096) == b"STOPPING=1"
        assert process.wait(10) == 0
        assert Path(path).exists(), "a socket that was passed is not ours to remove"


def test_a_bad_address_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        env={**os.environ, "PYSTACK_HOST": "tcp://0.0.0.0:2375", "PYSTACK_ROOT": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert "cannot listen on tcp://0.0.0.0:2375" in done.stderr
    assert "Traceback" not in done.stderr


def test_requests_are_not_written_to_the_log(daemon: Daemon) -> None:
    """What containers are given may be secret: it is in inspect by design, and nowhere else."""
    process = daemon.start()
    daemon.wait_ready(process)
    secret = "s3cr3t-of-the-test"
    body = {"Image": "nosuch", "Env": [f"A={secret}"], "HostConfig": {"Memory": secret}}
    for payload in (body, {**body, "HostConfig": {}}):
        answer = daemon.engine.client.request("POST", "/containers/create", payload, check=False)
        text = answer.read().decode()
        answer.close()
        assert answer.status in {400, 404}, json.dumps(text)
        assert secret not in text
    assert secret not in Path(daemon.engine.instance.run, "daemon.log").read_text()
