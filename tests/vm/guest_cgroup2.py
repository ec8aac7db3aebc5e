"""Checks that run inside the machine as root on cgroup v2 with AppArmor: standard library only, one function each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

from pystack.kernel import apparmor, bpf, capabilities, cgroup_v2, host, limits, seccomp
from pystack.kernel import cgroup_files as files
from pystack.kernel.cgroups import EngineCgroups, detect
from pystack.kernel.devices import ALLOW_ALL, DEFAULT_RULES, parse_rule
from pystack.kernel.rootpath import Root, remove_tree
from pystack.model.container import Resources
from pystack.model.errors import Conflict, EngineError, InvalidInput, PystackError

MIB = 1 << 20
ID = "ab" * 32
NAME = "pystack-0vm00"


def run_inside(directory: str, code: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    join = f"open({directory + '/cgroup.procs'!r}, 'w').write('0')\n"
    return subprocess.Popen([sys.executable, "-IS", "-c", join + code, *arguments], **options)


def output(directory: str, code: str, *arguments: str) -> str:
    process = run_inside(directory, code, *arguments, stdout=subprocess.PIPE)
    return process.communicate(timeout=20)[0].decode().strip()


def failure(kind: type[PystackError], act: Callable[[], object]) -> PystackError:
    """The error of that kind which `act` must raise (there is no pytest in here)."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_detection(cgroups: EngineCgroups) -> None:
    found = detect()
    assert (found.mode, found.version, found.unified) == ("v2", "2", "/sys/fs/cgroup"), found
    assert {"cpu", "memory", "pids", "io", "cpuset"} <= found.controllers
    facts = host.facts()
    assert facts.security_options() == ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]
    assert facts.kernel[0] >= 6
    assert cgroups.features.memory_limit
    assert cgroups.features.swap_limit
    assert not cgroups.features.memory_swappiness
    _, warnings = limits.validate(Resources(memory=64 * MIB, memory_swappiness=5), facts, cgroups.features)
    assert len(warnings) == 1, warnings


def check_limits(cgroups: EngineCgroups) -> None:
    asked = Resources(
        memory=64 * MIB,
        memory_reservation=32 * MIB,
        memory_swappiness=10,
        oom_kill_disable=True,
        nano_cpus=500_000_000,
        cpu_shares=512,
        cpuset_cpus="0",
        pids_limit=20,
        blkio_weight=500,
    )
    [place] = cgroups.create(ID, asked)
    assert place == f"/sys/fs/cgroup/{NAME}/{ID}"
    expected = {
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "cpu.max": "50000 100000",
        "cpu.weight": "20",
        "cpuset.cpus": "0",
        "pids.max": "20",
    }
    found = {name: files.read(place, name).strip() for name in expected}
    assert found == expected, found
    assert cgroups.update(ID, Resources(memory=32 * MIB, memory_swap=-1, pids_limit=0)) == []
    assert files.read(place, "memory.swap.max").strip() == "max"
    assert files.read(place, "pids.max").strip() == "max"
    assert cgroups.update(ID, Resources(cpu_quota=-1)) == []
    assert files.read(place, "cpu.max").strip() == "max 100000"
    error = failure(InvalidInput, lambda: cgroups.create("cd" * 32, Resources(cpuset_cpus="0-x")))
    assert "cpuset.cpus" in str(error)
    assert cgroups.list_containers() == {ID}


PROBE = """
import os, stat, sys
def probe(kind, major, minor, flags):
    path = f"/tmp/probe-{kind}{major}-{minor}"
    if not os.path.exists(path):
        os.mknod(path, (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
        return 0
    except OSError as error:
        return error.errno
print([probe("c", 1, 3, 2), probe("c", 5, 0, 0) in (0, 6), probe("c", 1, 1, 0), probe("b", 7, 0, 0), probe("c", 1, 11, 1)])
"""
CLOSED = "[0, True, 1, 1, 1]"


def check_devices(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources())
    fd = os.open(place, os.O_RDONLY)
    before = output(place, PROBE)
    assert before.endswith(", 0]"), before  # kmsg opens without a program
    cgroups.set_devices(ID, DEFAULT_RULES)
    assert len(bpf.attached(fd)) == 1
    assert output(place, PROBE) == CLOSED
    cgroups.set_devices(ID, [*DEFAULT_RULES, parse_rule("c 1:11 rw")])
    assert len(bpf.attached(fd)) == 1, "replaced, not added"
    assert output(place, PROBE) == "[0, True, 1, 1, 0]"
    cgroups.update(ID, Resources(memory=64 * MIB))
    cgroups.set_devices(ID, DEFAULT_RULES)
    assert output(place, PROBE) == CLOSED
    again = EngineCgroups(NAME)  # another daemon: nothing but the cgroup holds the program
    assert output(again._main(ID), PROBE) == CLOSED
    cgroups.set_devices(ID, ALLOW_ALL)
    assert output(place, PROBE).endswith(", 0]")
    os.close(fd)
    started = time.perf_counter()
    for _ in range(20):
        cgroups.set_devices(ID, DEFAULT_RULES)
    print(f"device program: {(time.perf_counter() - started) * 50:.2f} ms each, emulated")


def check_device_programs_of_others_go(cgroups: EngineCgroups) -> None:
    """Two programs left on the cgroup, as by a crash of something else: one of ours is left after the next change."""
    [place] = cgroups.create(ID, Resources())
    fd = os.open(place, os.O_RDONLY)
    for _ in range(2):
        program = bpf._load(bpf.device_program(ALLOW_ALL))
        bpf._bpf(
            bpf._PROG_ATTACH,
            struct.pack("<IIIII", fd, program, bpf._ATTACH_CGROUP_DEVICE, bpf._ALLOW_MULTI, 0),
        )
        os.close(program)
    assert len(bpf.attached(fd)) == 2
    cgroups.set_devices(ID, DEFAULT_RULES)
    assert len(bpf.attached(fd)) == 1
    os.close(fd)
    assert output(place, PROBE) == CLOSED


def check_kill_and_remove(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources(pids_limit=50))
    code = "import os, time\nfor _ in range(10):\n    if os.fork() == 0: time.sleep(60)\nprint('up', flush=True)\ntime.sleep(60)\n"
    process = run_inside(place, code, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    os.mkdir(f"{place}/nested")
    child = next(pid for pid in cgroups.pids(ID) if pid != process.pid)
    files.write(f"{place}/nested", "cgroup.procs", str(child))
    assert len(cgroups.pids(ID)) == 11
    cgroups.kill(ID)
    assert process.wait(10) == -signal.SIGKILL
    asyncio.run(cgroups.remove(ID))
    assert not os.path.exists(place)
    cgroups.kill(ID)
    asyncio.run(cgroups.remove(ID))


def check_freeze(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources())
    code = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)\n"
    process = run_inside(place, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    asyncio.run(cgroups.freeze(ID))
    assert cgroups.is_frozen(ID)
    process.stdin.write(b"hello\n")
    os.set_blocking(process.stdout.fileno(), False)
    time.sleep(0.2)
    assert process.stdout.read(10) is None
    asyncio.run(cgroups.thaw(ID))
    os.set_blocking(process.stdout.fileno(), True)
    assert process.stdout.readline() == b"hello\n"
    asyncio.run(cgroups.freeze(ID))
    cgroups.kill(ID)
    assert process.wait(10) == -signal.SIGKILL


def check_out_of_memory(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources(memory=24 * MIB, memory_swap=24 * MIB))
    assert cgroups.oom_kills(ID) == 0
    assert run_inside(place, "data = bytearray(100 << 20)\n").wait(30) == -signal.SIGKILL
    assert cgroups.oom_kills(ID) == 1


def check_statistics(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources(memory=64 * MIB, pids_limit=7))
    process = run_inside(
        place,
        "sum(range(300_000))\nprint('x', flush=True)\ninput()\n",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"x\n"
    stats = cgroups.stats(ID)
    process.communicate(b"\n")
    assert stats["pids_stats"] == {"current": 1, "limit": 7}
    assert stats["memory_stats"]["limit"] == 64 * MIB
    assert 0 < stats["memory_stats"]["usage"] < 64 * MIB
    assert "inactive_file" in stats["memory_stats"]["stats"]
    assert 0 < stats["cpu_stats"]["cpu_usage"]["total_usage"] < stats["cpu_stats"]["system_cpu_usage"]


def check_parents_and_recovery(cgroups: EngineCgroups) -> None:
    [place] = cgroups.create(ID, Resources(memory=64 * MIB), "batch/low")
    assert place.endswith(f"{NAME}/batch/low/{ID}")
    assert files.read(place, "memory.max").strip() == str(64 * MIB)
    again = EngineCgroups(NAME)
    again.prepare()
    assert again.list_containers() == {ID}
    assert again._main(ID) == place
    process = run_inside(place, "input()\n", stdin=subprocess.PIPE)
    while not again.pids(ID):
        time.sleep(0.01)
    assert "cannot remove cgroup" in str(failure(Conflict, again.teardown))
    process.communicate(b"\n")


def check_processes_in_the_way_are_explained(_: EngineCgroups) -> None:
    """The rule of no internal processes, met as a container's engine would meet it."""
    os.mkdir("/sys/fs/cgroup/full")
    process = run_inside("/sys/fs/cgroup/full", "input()\n", stdin=subprocess.PIPE)
    while not files.pids_below("/sys/fs/cgroup/full"):
        time.sleep(0.01)
    error = failure(EngineError, lambda: cgroup_v2.enable_controllers("/sys/fs/cgroup/full"))
    process.communicate(b"\n")
    os.rmdir("/sys/fs/cgroup/full")
    assert "cannot enable the cgroup controllers" in str(error)
    assert error.hint


def check_apparmor(_: EngineCgroups) -> None:
    assert apparmor.enabled()
    assert apparmor.loaded_profiles() == set()
    assert apparmor.default_profile() == ""
    code = (
        "import os, sys\n"
        "fd = os.open('/proc/self/attr/apparmor/exec', os.O_WRONLY)\n"
        "os.write(fd, sys.argv[1].encode())\n"
        "os.execv(sys.executable, [sys.executable, '-ISc', 'print(open(\"/proc/self/attr/current\").read())'])\n"
    )
    wanted = apparmor.exec_attribute("unconfined").decode()
    assert subprocess.check_output([sys.executable, "-IS", "-c", code, wanted]).strip() == b"unconfined"
    missing = apparmor.exec_attribute("no-such-profile").decode()
    assert (
        subprocess.run(
            [sys.executable, "-IS", "-c", code, missing], stderr=subprocess.DEVNULL, check=False
        ).returncode
        != 0
    )


def check_seccomp_and_paths(_: EngineCgroups) -> None:
    program = seccomp.compile_profile(seccomp.default_profile(), capabilities.DEFAULT)
    code = (
        "import base64, ctypes, os, sys\n"
        "program = base64.b64decode(sys.argv[1]); code = ctypes.create_string_buffer(program, len(program))\n"
        "class P(ctypes.Structure): _fields_ = (('n', ctypes.c_ushort), ('f', ctypes.c_void_p))\n"
        "p = P(len(program) // 8, ctypes.addressof(code)); s = ctypes.CDLL(None, use_errno=True).syscall\n"
        "def call(*a): ctypes.set_errno(0); s(*map(ctypes.c_ulong, a)); return ctypes.get_errno()\n"
        "assert s(317, 1, 0, ctypes.byref(p)) == 0\n"
        "print([call(272, 0x10000000), call(435, 0, 0), call(41, 40, 1, 0), call(39)])\n"
    )
    text = subprocess.check_output([sys.executable, "-IS", "-c", code, base64.b64encode(program).decode()])
    assert text.strip() == b"[1, 38, 1, 0]", text
    os.makedirs("/tmp/root/real")
    os.symlink("/tmp/canary", "/tmp/root/evil")
    with Root.open_host("/tmp/root") as root:
        root.mkdir("evil/new")
        root.write_file("evil/new/file", b"x")
        assert stat.S_ISREG(os.lstat("/tmp/root/tmp/canary/new/file").st_mode)
    assert not os.path.exists("/tmp/canary")
    remove_tree("/tmp/root")
    assert not os.path.exists("/tmp/root")


CHECKS = {
    name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")
}


def main() -> None:
    """Run every check on cgroups of its own; print one line of JSON each."""
    for name, check in CHECKS.items():
        cgroups = EngineCgroups(NAME)
        error = ""
        started = time.perf_counter()
        try:
            cgroups.prepare()
            check(cgroups)
        except BaseException:
            error = traceback.format_exc()
        try:
            for container_id in cgroups.list_containers():
                cgroups.kill(container_id)
                asyncio.run(cgroups.remove(container_id))
            cgroups.teardown()
            assert not os.path.exists(f"/sys/fs/cgroup/{NAME}")
        except BaseException:
            error = error or traceback.format_exc()
        print(
            "pystack-vm "
            + json.dumps({"name": name, "error": error, "seconds": time.perf_counter() - started}),
            flush=True,
        )
