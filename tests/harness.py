"""A real engine for tests: its own root, run directory and socket, driven by the real `pystack` command."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pystack.cli.client import ApiError, Client, EngineUnreachable
from pystack.model.names import Instance

ROOT = Path(__file__).resolve().parent.parent


def run_parent() -> str:
    """Where run directories go: on a tmpfs, as /run is on any host that booted; the paths short, for sockets' sake."""
    for place in ("/run", "/dev/shm"):
        if os.access(place, os.W_OK) and _is_tmpfs(place):
            return place
    return "/var/tmp"


@functools.cache
def client_version() -> int:
    """Major version of the `docker` client in the PATH; 20 is Debian's, which the tests take, too."""
    said = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[2].split(".")[0])


def _is_tmpfs(path: str) -> bool:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return any(fields[1] == path and fields[2] == "tmpfs" for fields in mounts)


class Engine:
    """One engine instance. Nothing runs until a command starts the daemon, as for a user."""

    def __init__(self, root: Path, run: Path) -> None:
        self.instance = Instance(root=str(root), run=str(run), socket=f"{run}/pystack.sock")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "PYSTACK_ROOT": str(root),
            "PYSTACK_RUN": str(run),
            "PYSTACK_HOST": f"unix://{run}/pystack.sock",
            "NO_COLOR": "1",
        }
        self.client = Client(self.environment["PYSTACK_HOST"])

    def run(
        self,
        *arguments: str,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """`pystack ARGUMENTS`; with `check`, a non-zero status fails the test with what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "pystack", *arguments],
            env=self.environment | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )
        if check:
            assert done.returncode == 0, (
                f"pystack {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
            )
        return done

    def docker(
        self, *arguments: str, check: bool = True, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """The real docker client against this engine."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment | {"DOCKER_HOST": self.environment["PYSTACK_HOST"]},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )
        if check:
            assert done.returncode == 0, (
                f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
            )
        return done

    def start(self, **env: str) -> int:
        """Start the daemon if none answers; returns its pid."""
        self.run("ps", "-p", "none", check=False, env=env)
        return self.pid()

    def pid(self) -> int:
        return int(self.client.get("/daemon")["pid"])

    def launcher_pid(self) -> int:
        """Of the launcher; one that died is replaced within a second."""
        return int(wait_until(lambda: self.client.get("/daemon")["launcher"], what="a launcher"))

    def ps(self, project: str) -> dict[str, dict[str, Any]]:
        """The stack's containers by name."""
        items = self.client.get(
            "/containers/json", {"all": True, "filters": {"label": [f"com.docker.compose.project={project}"]}}
        )
        return {item["Names"][0][1:]: item for item in items}

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/containers/{name}/json")
        return found

    def kill(self, pid: int) -> None:
        """SIGKILL by pid, and wait until the process is gone."""
        assert pid > 1, f"{pid} is no process of an engine"
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and Path(f"/proc/{pid}").exists() and not self._zombie(pid):
            time.sleep(0.005)

    def _zombie(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    def stop(self) -> None:
        """Orderly end of the daemon."""
        self.run("daemon", "--stop", check=False)

    def remove(self, container_id: str) -> None:
        """Remove by force; one with --rm may be faster."""
        try:
            self.client.delete(f"/containers/{container_id}", {"force": True, "v": True})
        except ApiError as error:
            if error.status != 404:
                raise

    def remove_everything(self) -> None:
        """Whatever the test left: remove every container, network and volume, then stop the daemon."""
        try:
            self.client.connect().close()
        except EngineUnreachable:
            if not Path(self.instance.root, "state.db").exists():
                return
            self.start()
        for stack in self.client.get(
            "/stacks"
        ):  # or one that is being resumed would make its containers again
            self.run("-p", stack["name"], "down", "-v", check=False)
        for item in self.client.get("/containers/json", {"all": True}):
            self.remove(item["Id"])
        for network in self.client.get("/networks"):
            if network["Name"] not in {"bridge", "host", "none"}:
                self.client.delete(f"/networks/{network['Id']}")
        for volume in self.client.get("/volumes")["Volumes"]:
            self.client.delete(f"/volumes/{volume['Name']}", {"force": True})
        self.stop()

    def log(self) -> str:
        path = Path(self.instance.run, "daemon.log")
        return f"--- daemon.log\n{path.read_text()[-4000:]}" if path.exists() else "--- no daemon.log"


def wait_until(condition: Any, *, within: float = 10.0, what: str = "condition") -> Any:
    """Poll until `condition()` is true and return it; fails with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.02)


def write_stack(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]
