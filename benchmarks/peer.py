"""A Docker daemon to measure beside: on its own socket, data root, exec root and bridge, gone without a trace afterwards.

dockerd changes iptables and sysctls of the host; what it changed is put back when it stops. It is ended by its pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import run_parent

#: Of this process alone: several peers may run at once.
BRIDGE = f"dkp{os.getpid()}"
SUBNET = f"10.213.{os.getpid() % 250}"
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
)


class PeerMissing(Exception):  # noqa: N818 - says what is the matter
    """There is no Docker to measure beside; says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    host: str
    pid: int
    containerd_pid: int
    version: str
    base: Path
    run: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.base), "DOCKER_HOST": self.host}


def _sysctls() -> dict[str, str]:
    values = {}
    for name in SYSCTLS:
        with contextlib.suppress(OSError):
            values[name] = Path("/proc/sys", name).read_text().strip()
    return values


def _call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def _bridges() -> set[str]:
    """Names of the bridges that dockerd makes for user networks. There is one peer at a time, so new ones are its own."""
    return {link.name for link in Path("/sys/class/net").glob("br-*")}


def _tables() -> dict[str, str]:
    return {tool: _call(f"{tool}-save") for tool in ("iptables", "ip6tables") if shutil.which(f"{tool}-save")}


def _restore(tables: dict[str, str]) -> None:
    """Put iptables back. A table that was not there before is emptied and opened: restoring "" would leave it as it is."""
    for tool, text in tables.items():
        for line in _call(f"{tool}-save").splitlines():
            if line.startswith("*") and line not in text:
                table = line[1:]
                for chain in ("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"):
                    _call(tool, "-t", table, "-P", chain, "ACCEPT")
                _call(tool, "-t", table, "-F")
                _call(tool, "-t", table, "-X")
        if text.strip():
            subprocess.run(
                [f"{tool}-restore"], input=text, text=True, check=False, capture_output=True, timeout=30
            )


def _child(pid: int, name: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text()
                if (
                    fields[fields.index("(") + 1 : fields.rindex(")")] == name
                    and int(fields.rsplit(")", 1)[1].split()[1]) == pid
                ):
                    return int(entry.name)
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One peer at a time: its bridge and what it does to iptables are the host's."""
    with Path(tempfile.gettempdir(), "pystack-peer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def docker_daemon(*, programs: Path | None = None) -> Iterator[Peer]:
    """A fresh dockerd for the duration of the block. Raises PeerMissing when Docker's packages are not there.

    `programs` is a folder whose dockerd and containerd are taken before those that are installed.
    """
    with _alone(), _daemon(programs) as peer:
        yield peer


@contextlib.contextmanager
def _daemon(programs: Path | None) -> Iterator[Peer]:
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    for program in ("dockerd", "containerd", "runc", "docker", "ip", "iptables-save"):
        if not shutil.which(program):
            raise PeerMissing(f"{program} is not installed (Debian: docker.io iptables iproute2)")
    base = Path(tempfile.mkdtemp(prefix="peer-", dir="/var/lib"))
    run = Path(tempfile.mkdtemp(prefix="peer-", dir=run_parent()))
    sysctls, tables, links = _sysctls(), _tables(), _bridges()
    _call("ip", "link", "add", BRIDGE, "type", "bridge")
    _call("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
    _call("ip", "link", "set", BRIDGE, "up")
    host = f"unix://{base}/docker.sock"
    log = (base / "log").open("w")
    process = subprocess.Popen(
        [
            shutil.which("dockerd", path=path) or "dockerd",
            f"--host={host}",
            f"--data-root={base}/data",
            f"--exec-root={run}",
            f"--pidfile={base}/pid",
            f"--bridge={BRIDGE}",
            "--default-address-pool=base=10.214.0.0/16,size=24",
        ],
        stdout=log,
        stderr=log,
        env={"PATH": path, "HOME": str(base)},
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "-H", host, "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerMissing(f"dockerd does not start: {(base / 'log').read_text()[-800:]}")
            time.sleep(0.1)
        version = _call("docker", "-H", host, "version", "--format", "{{.Server.Version}}").strip()
        yield Peer(
            host=host,
            pid=process.pid,
            containerd_pid=_child(process.pid, "containerd"),
            version=version,
            base=base,
            run=run,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        _restore(tables)
        for link in (BRIDGE, *sorted(_bridges() - links)):  # dockerd leaves the bridges of its networks
            _call("ip", "link", "del", link)
        _call("umount", f"{run}/netns/default")  # it keeps the host's namespace there, and its directory busy
        for name in SYSCTLS:  # br_netfilter's do not exist until dockerd loads the module: off is what was
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(sysctls.get(name, "0"))
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
