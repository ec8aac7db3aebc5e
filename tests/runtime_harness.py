"""A small root and bundles for the tests of the runtime: the host's /usr, read-only, over an empty layer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pystack.engine.runtime.bundle import Bundle, DeviceNode, Process
from pystack.engine.runtime.client import Launcher, ShimProcess
from pystack.engine.runtime.streams import AttachStream

DEFAULT_CAPS = 0xA80425FB
MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
PASSWD = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1000:\naudio:x:29:alice\nusers:x:100:alice\n"


def devices() -> list[DeviceNode]:
    return [
        DeviceNode(path=f"/dev/{name}", type="c", major=a, minor=b, mode=0o666, uid=0, gid=0)
        for name, (a, b) in NODES.items()
    ]


def process(*argv: str, **changes: Any) -> Process:
    base: Process = {
        "argv": list(argv),
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=box"],
        "cwd": "/",
        "user": "",
        "group_add": [],
        "capabilities": {
            "bounding": DEFAULT_CAPS, "permitted": DEFAULT_CAPS, "effective": DEFAULT_CAPS, "inheritable": 0, "ambient": 0
        },
        "no_new_privileges": False,
        "seccomp": "",
        "rlimits": [],
        "oom_score_adj": 0,
        "tty": False,
        "console_size": [0, 0],
        "apparmor": "",
    }  # fmt: skip
    return {**base, **changes}  # type: ignore[typeddict-item]


class Box:
    """Makes bundles below one temporary directory and launches them."""

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        self.directory = directory
        self.launcher = launcher
        self.lower = directory / "lower"
        for name in ("etc", "root", "tmp", "usr"):
            (self.lower / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.lower / name).symlink_to(f"usr/{name}")
        (self.lower / "etc/passwd").write_text(PASSWD)
        (self.lower / "etc/group").write_text(GROUP)
        self.shims: list[ShimProcess] = []

    def bundle(self, proc: Process, **changes: Any) -> Bundle:
        container_id = uuid.uuid4().hex * 2
        home = self.directory / container_id
        for name in ("upper", "work", "root"):
            (home / name).mkdir(parents=True)
        base: Bundle = {
            "id": container_id,
            "run": 1,
            "directory": str(home),
            "socket": str(home / "shim.sock"),
            "process": proc,
            "init": False,
            "stdin": False,
            "stdin_once": False,
            "log": {"path": str(home / "log"), "max_size": -1, "max_file": 1, "compress": False, "attributes": {}},
            "namespaces": {
                "mnt": "new", "pid": "new", "net": "new", "ipc": "new", "uts": "new", "cgroup": "host", "user": "host"
            },
            "hostname": "box",
            "domainname": "",
            "cgroups": [],
            "rootfs": {
                "lower": [str(self.lower)], "upper": str(home / "upper"), "work": str(home / "work"),
                "mountpoint": str(home / "root"), "readonly": False,
            },
            "mounts": [
                {"kind": "bind", "source": "/usr", "target": "/usr", "readonly": True, "recursive": True, "propagation": ""}
            ],
            "devices": devices(),
            "shm_size": 64 * 1024 * 1024,
            "masked_paths": MASKED,
            "readonly_paths": READONLY,
            "sysctls": {},
            "privileged": False,
        }  # fmt: skip
        return {**base, **changes}  # type: ignore[typeddict-item]

    async def start(self, bundle: Bundle) -> ShimProcess:
        shim = await self.launcher.launch(bundle)
        self.shims.append(shim)
        await shim.go()
        await shim.wait_started()
        return shim

    async def run(self, proc: Process, *, timeout: float = 10, **changes: Any) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a program in a container of its own."""
        bundle = self.bundle(proc, **changes)
        shim = await self.launcher.launch(bundle)
        self.shims.append(shim)
        async with asyncio.timeout(timeout):
            session = await shim.attach(stdin=False, stdout=True, stderr=True)
            await shim.go()
            await shim.wait_started()
            output = await collect(session)
            record = await shim.exited
            await shim.closed
        shim.close()
        return record["exit_code"], output["stdout"].decode(), output["stderr"].decode()

    async def close(self) -> None:
        for shim in self.shims:
            if not shim.closed.done():
                with contextlib.suppress(Exception):
                    await shim.signal(9)
                    await asyncio.wait_for(shim.closed, 5)
            shim.close()


async def collect(session: Any) -> dict[str, bytes]:
    """All output of a session, by stream, until its end."""
    output = {"stdout": b"", "stderr": b""}
    while (chunk := await session.receive()) is not None:
        output[chunk[0]] += chunk[1]
    if isinstance(session, AttachStream):
        await session.close()
    return output


@contextlib.asynccontextmanager
async def box(directory: Path, **launcher: Any) -> AsyncIterator[Box]:
    runner = Launcher(**launcher)
    made = Box(directory, runner)
    try:
        yield made
    finally:
        await made.close()
        await runner.close()
        shutil.rmtree(directory, ignore_errors=True)


def fd_count(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
