"""Whole containers on cgroup v2: launcher, shim and child of the engine inside the machine. Standard library only."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import shutil
import time
import traceback
from pathlib import Path

from runtime_harness import Box, box, collect, process

from pystack.kernel import capabilities, seccomp
from pystack.kernel import cgroup_files as files
from pystack.kernel.cgroups import EngineCgroups
from pystack.kernel.devices import DEFAULT_RULES
from pystack.model.container import Resources
from pystack.model.errors import StartError

MIB = 1 << 20
NAME = "pystack-0vm01"
PROGRAM = base64.b64encode(seccomp.compile_profile(seccomp.default_profile(), capabilities.DEFAULT)).decode()

#: What a process of the container sees of itself, as JSON.
FACTS = """
import ctypes, json, os, stat
def errno_of(act):
    try:
        act()
        return 0
    except OSError as error:
        return error.errno
def device(kind, major, minor):
    os.mknod("/probe", kind | 0o600, os.makedev(major, minor))
    try:
        return errno_of(lambda: os.close(os.open("/probe", os.O_RDONLY | os.O_NONBLOCK)))
    finally:
        os.unlink("/probe")
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    libc.syscall(*map(ctypes.c_ulong, arguments))
    return ctypes.get_errno()
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
mounts = [line.split() for line in open("/proc/self/mounts")]
print(json.dumps({
    "cgroup": open("/proc/self/cgroup").read().strip(),
    "mount": [(fields[2], fields[3].split(",")[0]) for fields in mounts if fields[1] == "/sys/fs/cgroup"],
    "memory": open("/sys/fs/cgroup/memory.max").read().strip(),
    "mkdir": errno_of(lambda: os.mkdir("/sys/fs/cgroup/x")),
    "devices": [device(stat.S_IFCHR, 1, 3), device(stat.S_IFCHR, 1, 1), device(stat.S_IFCHR, 1, 11), device(stat.S_IFBLK, 7, 0)],
    "seccomp": [status["Seccomp"].strip(), call(272, 0x10000000), call(435, 0, 0), call(250, 0)],
    "capabilities": status["CapEff"].strip(),
    "confined": open("/proc/self/attr/apparmor/current").read().strip(),
}))
"""
EXPECTED = {
    "cgroup": "0::/",
    "mount": [["cgroup2", "ro"]],
    "memory": str(64 * MIB),
    "mkdir": errno.EROFS,
    "devices": [0, 1, 1, 1],
    "seccomp": ["2", 1, 38, 1],
    "capabilities": "00000000a80425fb",
    "confined": "unconfined",
}


def python(code: str) -> dict[str, object]:
    return process("python3", "-ISc", code, seccomp=PROGRAM)  # type: ignore[return-value]


class Place:
    """A box whose containers have a cgroup with limits and device rules, as the engine starts them."""

    def __init__(self, made: Box, cgroups: EngineCgroups) -> None:
        self.box = made
        self.cgroups = cgroups

    def bundle(self, code: str, resources: Resources, **changes: object) -> dict[str, object]:
        bundle = self.box.bundle(python(code), **changes)
        bundle["namespaces"] = {**bundle["namespaces"], "cgroup": "new"}
        bundle["cgroups"] = self.cgroups.create(bundle["id"], resources)
        self.cgroups.set_devices(bundle["id"], DEFAULT_RULES)
        return bundle

    async def finish(self, container_id: str) -> None:
        self.cgroups.kill(container_id)
        await self.cgroups.remove(container_id)


async def facts_of(session: object) -> dict[str, object]:
    output = await collect(session)
    assert output["stdout"], output["stderr"].decode()
    return json.loads(output["stdout"])


async def check_container_and_exec(place: Place) -> None:
    bundle = place.bundle(FACTS, Resources(memory=64 * MIB))
    shim = await place.box.launcher.launch(bundle)
    place.box.shims.append(shim)
    session = await shim.attach(stdin=False, stdout=True, stderr=True)
    await shim.go()
    await shim.wait_started()
    assert await facts_of(session) == EXPECTED
    assert (await shim.exited)["exit_code"] == 0
    await place.finish(bundle["id"])
    sleeper = place.bundle("import time; time.sleep(100)", Resources(memory=64 * MIB))
    started = time.perf_counter()
    shim = await place.box.start(sleeper)
    print(f"container on v2: started in {(time.perf_counter() - started) * 1e3:.0f} ms, emulated")
    assert len(place.cgroups.pids(sleeper["id"])) == 1
    running = await shim.exec(python(FACTS))
    assert await facts_of(running) == EXPECTED
    await place.finish(sleeper["id"])
    assert (await shim.exited)["exit_code"] == 137


async def check_container_out_of_memory(place: Place) -> None:
    bundle = place.bundle("data = bytearray(100 << 20)", Resources(memory=24 * MIB, memory_swap=24 * MIB))
    shim = await place.box.start(bundle)
    record = await shim.exited
    assert record["exit_code"] == 137, record
    assert record["oom_killed"], record
    await place.finish(bundle["id"])


async def check_container_pids_limit(place: Place) -> None:
    code = "import os, time\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(50)\nexcept OSError as e: os._exit(e.errno)"
    bundle = place.bundle(code, Resources(pids_limit=8))
    shim = await place.box.start(bundle)
    record = await shim.exited
    assert record["exit_code"] == errno.EAGAIN, record
    assert not record["oom_killed"]
    await place.finish(bundle["id"])


async def check_container_apparmor(place: Place) -> None:
    for profile, fails in (("unconfined", False), ("no-such-profile", True)):
        bundle = place.bundle("print('x')", Resources())
        bundle["process"]["apparmor"] = profile
        shim = await place.box.launcher.launch(bundle)
        place.box.shims.append(shim)
        await shim.go()
        try:
            await shim.wait_started()
            assert not fails
        except StartError as error:
            assert fails, error.message  # noqa: PT017 - there is no pytest in here
        await shim.exited
        await place.finish(bundle["id"])


CHECKS = {
    name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")
}


async def _run(check: object) -> None:
    cgroups = EngineCgroups(NAME)
    cgroups.prepare()
    directory = Path("/tmp/box")
    directory.mkdir()
    try:
        async with box(directory, cgroups=cgroups.supervisor_dirs()) as made:
            await asyncio.wait_for(check(Place(made, cgroups)), 40)  # type: ignore[operator]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        for container_id in cgroups.list_containers():
            cgroups.kill(container_id)
            await cgroups.remove(container_id)
        for _ in range(100):  # shims and the launcher take a moment to leave
            if not any(files.pids_below(place) for place in cgroups.supervisor_dirs()):
                break
            await asyncio.sleep(0.05)
        cgroups.teardown()


def main() -> None:
    """Run every check with an engine's cgroups of its own; print one line of JSON each."""
    for name, check in CHECKS.items():
        error = ""
        started = time.perf_counter()
        try:
            asyncio.run(_run(check))
        except BaseException:
            error = traceback.format_exc()
        print(
            "pystack-vm "
            + json.dumps({"name": name, "error": error, "seconds": time.perf_counter() - started}),
            flush=True,
        )
