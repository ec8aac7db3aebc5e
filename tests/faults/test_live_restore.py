"""Live restore: containers in every state while the daemon ends and another begins, by SIGTERM, SIGKILL and an upgrade.

One daemon holds all states at once. Afterwards: the same processes, the right exit codes of what ended meanwhile, whole
logs, and a published port that has answered all the time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from harness import ROOT, Engine, wait_until

from pystack.cli.client import EngineUnreachable

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

COUNTER = "import time\nn = 0\nwhile True:\n n += 1\n print(n, flush=True)\n time.sleep(0.005)"
ENDING = "import os, time\nwhile not os.path.exists('/data/go'): time.sleep(0.01)\nprint('last words', flush=True)\nos._exit(42)"
SLEEP = ("sleep", "1000")


class Prober(threading.Thread):
    """Asks the published port all the time; keeps what went wrong."""

    def __init__(self, port: str) -> None:
        super().__init__(daemon=True)
        self.url, self.failures, self.answers, self.going = f"http://127.0.0.1:{port}/", [], 0, True

    def ask(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=20) as answer:
                self.answers += answer.status == 200
        except OSError as error:
            self.failures.append(f"{time.strftime('%T')} {error}")
            return False
        return True

    def run(self) -> None:
        while self.going:
            self.ask()
            time.sleep(0.02)


def start_newer(engine: Engine, place: Path) -> None:
    """Start the daemon of a newer version, from another directory."""
    shutil.copytree(ROOT / "src", place / "src", symlinks=False, ignore=shutil.ignore_patterns("__pycache__"))
    init = place / "src/pystack/__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "99.'))
    log = f"{engine.instance.run}/daemon.log"
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "pystack", "daemon"],
        engine.environment | {"PYTHONPATH": str(place / "src")},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    wait_until(
        lambda: Path(engine.instance.socket).exists() and _answers(engine), within=30, what="an answer"
    )
    version = engine.client.get("/version")["PystackVersion"]
    assert version.startswith("99."), version


def _answers(engine: Engine) -> bool:
    try:
        engine.client.connect().close()
    except EngineUnreachable:
        return False
    return True


def end_daemon(engine: Engine, how: str) -> None:
    pid = engine.pid()
    if how == "SIGKILL":
        engine.kill(pid)
        return
    os.kill(pid, signal.SIGTERM)
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists() or engine._zombie(pid), within=30, what="the daemon ends"
    )


def begin_states(engine: Engine, shared: Path) -> subprocess.Popen[bytes]:
    """A container in each state; returns the client of the exec that is active."""
    image = "host.local/base"
    run = ("run", "-d", "--network", "none", "--name")
    engine.docker("create", "--name", "created", image, *SLEEP)
    engine.docker(*run, "exited", image, "sh", "-c", "echo gone; exit 7")
    engine.docker(*run, "counter", image, "python3", "-u", "-c", COUNTER)
    engine.docker(*run, "ending", "-v", f"{shared}:/data", image, "python3", "-u", "-c", ENDING)
    engine.docker(*run, "paused", image, *SLEEP)
    engine.docker("pause", "paused")
    engine.docker(*run, "restarting", "--restart", "always", image, "sh", "-c", "exit 5")
    engine.docker(*run, "limited", "--memory", "32m", "--pids-limit", "9", image, *SLEEP)
    check = ("--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-start-period", "1h")
    engine.docker(*run, "checked", *check, "--health-start-interval", "200ms", image, *SLEEP)
    web = ("python3", "-m", "http.server", "8000", "--directory", "/etc")
    engine.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::8000", image, *web)
    wait_until(lambda: len(engine.inspect("checked")["State"]["Health"]["Log"]) >= 2, what="probes")
    wait_until(lambda: engine.inspect("restarting")["RestartCount"] >= 4, what="restarts")
    wait_until(lambda: engine.inspect("restarting")["State"]["Status"] == "restarting", what="back-off")
    active = subprocess.Popen(
        ["docker", "exec", "counter", "sh", "-c", "sleep 555 & wait"],
        env=engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: "sleep 555" in engine.docker("top", "counter").stdout, what="the exec runs")
    return active


LIVE = ("counter", "ending", "paused", "checked", "web", "limited")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "upgrade"])
def test_every_state_outlives_the_daemon(engine: Engine, tmp_path: Path, how: str) -> None:
    engine.start()
    active = begin_states(engine, tmp_path)
    attached = subprocess.Popen(
        ["docker", "attach", "--no-stdin", "--sig-proxy=false", "counter"],
        env=engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert attached.stdout is not None
    attached.stdout.readline()
    pids = {name: engine.inspect(name)["State"]["Pid"] for name in LIVE}
    before = {name: engine.inspect(name) for name in ("created", "exited", "restarting", "checked")}
    port = engine.docker("port", "web").stdout.strip().rpartition(":")[2]
    prober = Prober(port)
    wait_until(prober.ask, what="the server listens")
    prober.failures.clear()
    prober.start()
    wait_until(lambda: prober.answers > 2, what="the port answers")

    end_daemon(engine, how)
    (tmp_path / "go").touch()  # one ends while no daemon is there
    wait_until(lambda: not Path(f"/proc/{pids['ending']}").exists(), what="it ended")
    assert active.wait(30) != 0, "who was attached is told that the connection broke"
    attached.communicate(timeout=30)
    time.sleep(0.5)
    if how == "upgrade":
        start_newer(engine, tmp_path)
    else:
        engine.start()

    live = [name for name in LIVE if name != "ending"]
    assert {name: engine.inspect(name)["State"]["Pid"] for name in live} == {
        name: pids[name] for name in live
    }
    states = {name: engine.inspect(name)["State"]["Status"] for name in (*live, "created", "exited")}
    assert states == dict.fromkeys(live, "running") | {
        "paused": "paused", "created": "created", "exited": "exited",
    }  # fmt: skip
    for name in ("created", "exited"):  # nothing about them has changed
        assert engine.inspect(name)["State"] == before[name]["State"]
    ended = wait_until(
        lambda: (s := engine.inspect("ending")["State"])["Status"] == "exited" and s, what="its end"
    )
    assert (ended["ExitCode"], ended["OOMKilled"]) == (42, False)
    assert engine.docker("wait", "ending").stdout == "42\n"
    assert engine.docker("logs", "ending").stdout == "last words\n"
    # the exec goes on, the attach is taken up again, and no line is lost or doubled
    assert "sleep 555" in engine.docker("top", "counter").stdout
    again = engine.client.get("/containers/counter/json")
    assert again["State"]["Running"]
    lines = [int(line) for line in engine.docker("logs", "counter").stdout.split()]
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) > 100
    # health goes on where it was, and its rules hold
    health = engine.inspect("checked")["State"]["Health"]
    assert health["Status"] == "starting"
    known = {probe["Start"] for probe in before["checked"]["State"]["Health"]["Log"]}
    assert len(health["Log"]) >= min(len(known), 5)
    engine.docker("exec", "checked", "touch", "/tmp/well")
    wait_until(lambda: engine.inspect("checked")["State"]["Health"]["Status"] == "healthy", what="well again")
    # the restarting one goes on with its count
    count = before["restarting"]["RestartCount"]
    wait_until(lambda: engine.inspect("restarting")["RestartCount"] > count, within=30, what="a restart")
    wait_until(
        lambda: engine.inspect("restarting")["State"]["ExitCode"] == 5, what="its exit code, between two runs"
    )
    # what is live can be used as before
    engine.docker("unpause", "paused")
    engine.docker("update", "--pids-limit", "20", "limited")
    assert engine.docker("exec", "limited", "true").returncode == 0
    engine.docker("start", "created")
    engine.docker("stop", "-t", "0", "restarting")
    wait_until(lambda: prober.answers > 5, what="answers")
    prober.going = False
    prober.join(30)
    assert prober.failures == []
