"""The engine's cgroups on this machine's v1 controllers: limits, devices, kill, freeze, statistics, removal."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from pystack.kernel import cgroup_files as files
from pystack.kernel import failpoints
from pystack.kernel.cgroups import EngineCgroups, detect
from pystack.kernel.devices import ALLOW_ALL, DEFAULT_RULES, block_number, parse_rule
from pystack.model.container import DeviceLimit, Resources
from pystack.model.errors import Conflict, InvalidInput

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(detect().mode == "v2", reason="this host has no v1 controllers"),
]

ID = "ab" * 32
MIB = 1 << 20


@pytest.fixture
def cgroups(tmp_path):
    engine = EngineCgroups(f"pystack-test-{os.getpid()}-{tmp_path.name}")
    engine.prepare()
    yield engine
    for container_id in engine.list_containers():
        engine.kill(container_id)
        asyncio.run(engine.remove(container_id))
    engine.teardown()
    assert not [top for top in engine._tops if os.path.exists(top)]


def run_inside(directories, code, **options):
    """A Python that joins as a container's child does (0 into `tasks`), then runs `code`."""
    join = "".join(f"open({place + '/tasks'!r}, 'w').write('0')\n" for place in directories)
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", join + code], **options)


def test_limits_reach_the_kernel(cgroups):
    asked = Resources(
        memory=64 * MIB,
        memory_reservation=32 * MIB,
        memory_swappiness=10,
        nano_cpus=500_000_000,
        cpu_shares=512,
        cpuset_cpus="0",
        pids_limit=20,
    )
    directories = cgroups.create(ID, asked)
    assert directories == cgroups._directories(ID)
    assert all(os.path.isdir(place) and place.endswith(f"{cgroups.name}/{ID}") for place in directories)
    places = cgroups._by_controller(ID)
    expected = {
        ("memory", "memory.limit_in_bytes"): 64 * MIB,
        ("memory", "memory.memsw.limit_in_bytes"): 128 * MIB,
        ("memory", "memory.soft_limit_in_bytes"): 32 * MIB,
        ("memory", "memory.swappiness"): 10,
        ("cpu", "cpu.shares"): 512,
        ("cpu", "cpu.cfs_quota_us"): 50_000,
        ("cpuset", "cpuset.cpus"): 0,
        ("pids", "pids.max"): 20,
    }
    for (controller, name), value in expected.items():
        assert files.read_int(places[controller], name, -1) == value, name
    assert files.read(places["cpuset"], "cpuset.mems").strip()
    assert cgroups.update(ID, Resources(memory=256 * MIB, memory_swap=512 * MIB, pids_limit=-1)) == []
    assert files.read_int(places["memory"], "memory.limit_in_bytes") == 256 * MIB
    assert files.read(places["pids"], "pids.max").strip() == "max"
    assert cgroups.update(ID, Resources(memory=32 * MIB, memory_swap=48 * MIB)) == []
    with pytest.raises(Conflict, match="smaller than already set memoryswap"):
        cgroups.update(ID, Resources(memory=64 * MIB, memory_swap=16 * MIB))


@pytest.fixture
def disk(tmp_path):
    """A block device of this test's own."""
    image = tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, 8 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot make a loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_block_device_limits(cgroups, disk):
    limit = lambda value: (DeviceLimit(path=disk, value=value),)  # noqa: E731
    cgroups.create(
        ID,
        Resources(
            blkio_device_read_bps=limit(1 << 20),
            blkio_device_write_bps=limit(2 << 20),
            blkio_device_read_iops=limit(100),
            blkio_device_write_iops=limit(200),
        ),
    )
    place = cgroups._by_controller(ID)["blkio"]
    number = block_number(disk)
    found = {
        name: files.read(place, f"blkio.throttle.{name}_device").strip()
        for name in ("read_bps", "write_bps", "read_iops", "write_iops")
    }
    assert found == {
        "read_bps": f"{number} {1 << 20}",
        "write_bps": f"{number} {2 << 20}",
        "read_iops": f"{number} 100",
        "write_iops": f"{number} 200",
    }
    with pytest.raises(
        InvalidInput, match=r"cannot set blkio\.bfq\.weight_device .* Operation not supported"
    ):
        cgroups.update(ID, Resources(blkio_weight_device=limit(500)))  # the disk has no bfq scheduler


@pytest.mark.skipif(
    not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"),
    reason="this kernel has no CONFIG_RT_GROUP_SCHED",
)
def test_realtime_is_lent_and_returned(cgroups):
    top = f"{cgroups.hierarchy.mounts['cpu']}/{cgroups.name}"
    runtime = lambda place: files.read_int(place, "cpu.rt_runtime_us")  # noqa: E731
    other = "cd" * 32
    cgroups.create(ID, Resources(cpu_realtime_runtime=20_000), "batch/low")
    cgroups.create(other, Resources(cpu_realtime_period=500_000, cpu_realtime_runtime=15_000), "batch")
    assert runtime(cgroups._by_controller(ID)["cpu"]) == 20_000
    assert [runtime(f"{top}{part}") for part in ("", "/batch", "/batch/low")] == [50_000, 50_000, 20_000]
    cgroups.update(ID, Resources(cpu_realtime_runtime=10_000))
    asyncio.run(cgroups.remove(other))
    assert [runtime(f"{top}{part}") for part in ("", "/batch", "/batch/low")] == [10_000, 10_000, 10_000]
    with pytest.raises(InvalidInput, match=r"cannot set cpu\.rt_runtime_us .* '990000'"):
        cgroups.create(other, Resources(cpu_realtime_runtime=990_000))
    asyncio.run(cgroups.remove(ID))
    assert runtime(top) == 0


def test_a_refused_limit_leaves_nothing(cgroups):
    with pytest.raises(InvalidInput, match=r"cannot set cpuset\.cpus .* '4000'"):
        cgroups.create(ID, Resources(cpuset_cpus="4000"))
    assert cgroups.list_containers() == set()


def test_devices_are_closed_inside(cgroups, tmp_path):
    directories = cgroups.create(ID, Resources())
    cgroups.set_devices(ID, [*DEFAULT_RULES, parse_rule("c 1:11 r")])
    listed = files.read(cgroups._by_controller(ID)["devices"], "devices.list").split("\n")
    assert "c 1:11 r" in listed
    assert "a *:* rwm" not in listed
    code = """
import os, stat, sys
def probe(kind, major, minor, flags):
    path = sys.argv[1] + f"/{kind}{major}-{minor}"
    if not os.path.exists(path):
        os.mknod(path, (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
        return 0
    except OSError as error:
        return error.errno
print([probe("c", 1, 3, 1), probe("c", 1, 1, 0), probe("b", 254, 0, 0), probe("c", 10, 229, 0), probe("c", 1, 11, 1)])
"""
    join = "".join(f"open({place + '/tasks'!r}, 'w').write('0')\n" for place in directories)
    command = [sys.executable, "-I", "-S", "-c", join + code, tmp_path]
    assert subprocess.check_output(command, text=True).strip() == "[0, 1, 1, 1, 1]"
    cgroups.set_devices(ID, ALLOW_ALL)
    assert (
        subprocess.check_output(command, text=True).strip().endswith(", 0, 0]")
    )  # fuse and kmsg of this very host
    cgroups.set_devices(ID, DEFAULT_RULES)
    assert subprocess.check_output(command, text=True).strip() == "[0, 1, 1, 1, 1]"


def test_kill_takes_forks_and_nested_cgroups(cgroups):
    directories = cgroups.create(ID, Resources(pids_limit=100))
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        time.sleep(60)
print("up", flush=True)
time.sleep(60)
"""
    process = run_inside(directories, code, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    nested = f"{cgroups._main(ID)}/nested"
    os.mkdir(nested)
    child = next(pid for pid in cgroups.pids(ID) if pid != process.pid)
    files.write(nested, "tasks", str(child))
    assert len(cgroups.pids(ID)) == 21
    with pytest.raises(Conflict, match="still has processes"):
        cgroups.create(ID, Resources())
    started = time.perf_counter()
    cgroups.kill(ID)
    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()
    asyncio.run(cgroups.remove(ID))
    print(f"kill 21 and remove: {(time.perf_counter() - started) * 1e3:.1f} ms")
    assert cgroups.is_empty(ID)
    assert cgroups.list_containers() == set()
    cgroups.kill(ID)
    asyncio.run(cgroups.remove(ID))


def test_freeze_and_thaw(cgroups):
    directories = cgroups.create(ID, Resources())
    code = "import sys\nprint('up', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)\n"
    process = run_inside(directories, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout.readline() == b"up\n"
    asyncio.run(cgroups.freeze(ID))
    assert cgroups.is_frozen(ID)
    process.stdin.write(b"hello\n")
    os.set_blocking(process.stdout.fileno(), False)
    time.sleep(0.05)
    assert process.stdout.read(10) is None
    asyncio.run(cgroups.thaw(ID))
    os.set_blocking(process.stdout.fileno(), True)
    assert process.stdout.readline() == b"hello\n"
    asyncio.run(cgroups.freeze(ID))
    cgroups.kill(ID)  # also what is frozen
    assert process.wait(5) == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()


def test_out_of_memory_is_counted(cgroups):
    directories = cgroups.create(ID, Resources(memory=24 * MIB, memory_swap=24 * MIB))
    assert cgroups.oom_kills(ID) == 0
    process = run_inside(directories, "data = bytearray(100 << 20)\n")
    assert process.wait(20) == -signal.SIGKILL
    assert cgroups.oom_kills(ID) == 1


def test_statistics_in_dockers_shape(cgroups):
    directories = cgroups.create(ID, Resources(memory=64 * MIB, pids_limit=7))
    process = run_inside(
        directories,
        "sum(range(3_000_000))\nprint('x', flush=True)\ninput()\n",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"x\n"
    started = time.perf_counter()
    stats = cgroups.stats(ID)
    print(f"stats: {(time.perf_counter() - started) * 1e3:.2f} ms")
    process.communicate(b"\n")
    assert stats["pids_stats"] == {"current": 1, "limit": 7}
    assert stats["memory_stats"]["limit"] == 64 * MIB
    assert 0 < stats["memory_stats"]["usage"] < 64 * MIB
    assert "total_inactive_file" in stats["memory_stats"]["stats"]
    usage = stats["cpu_stats"]["cpu_usage"]["total_usage"]
    assert 10_000_000 < usage < stats["cpu_stats"]["system_cpu_usage"]
    assert stats["cpu_stats"]["online_cpus"] == os.cpu_count()
    assert isinstance(stats["blkio_stats"]["io_service_bytes_recursive"], list)


def test_parents_and_recovery_by_name(cgroups):
    cgroups.create(ID, Resources(), cgroup_parent="/batch/low")
    assert cgroups._main(ID).endswith(f"{cgroups.name}/batch/low/{ID}")
    other = "cd" * 32
    cgroups.create(other, Resources())
    again = EngineCgroups(cgroups.name)  # a daemon that knows only the name
    again.prepare()
    assert again.list_containers() == {ID, other}
    assert again._main(ID) == cgroups._main(ID)
    process = run_inside(again._directories(ID), "input()\n", stdin=subprocess.PIPE)
    while not again.pids(ID):
        time.sleep(0.01)
    try:
        with pytest.raises(Conflict, match="cannot remove cgroup"):
            again.teardown()
    finally:
        process.communicate(b"\n")
    for bad in ("../x", "a/../../x", "supervisor", ID):
        with pytest.raises(InvalidInput, match="cannot use cgroup parent"):
            cgroups.create("ef" * 32, Resources(), cgroup_parent=bad)


def test_a_left_over_is_replaced_with_its_limits(cgroups):
    cgroups.create(ID, Resources(memory=64 * MIB))
    cgroups.create(ID, Resources())
    assert files.read_int(cgroups._by_controller(ID)["memory"], "memory.limit_in_bytes") > 1 << 60
    started = time.perf_counter()
    for number in range(50):
        container_id = f"{number:064x}"
        cgroups.create(container_id, Resources(memory=64 * MIB, pids_limit=100))
        cgroups.set_devices(container_id, DEFAULT_RULES)
    took = (time.perf_counter() - started) * 1e3
    started = time.perf_counter()

    async def remove_all():
        for number in range(50):
            await cgroups.remove(f"{number:064x}")

    asyncio.run(remove_all())
    print(f"50 created with devices: {took:.1f} ms, removed: {(time.perf_counter() - started) * 1e3:.1f} ms")
    assert cgroups.list_containers() == {ID}
    assert took < 500


def test_supervisor_and_features(cgroups):
    assert all(os.path.isdir(place) for place in cgroups.supervisor_dirs())
    process = run_inside(cgroups.supervisor_dirs(), "input()\n", stdin=subprocess.PIPE)
    process.communicate(b"\n")
    assert process.returncode == 0
    assert cgroups.features.memory_limit
    assert cgroups.features.cpu_cfs


def test_kill_ends_a_fork_bomb(cgroups):
    directories = cgroups.create(ID, Resources(pids_limit=40))
    code = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
while True:
    try:
        if os.fork() and os.getpid() % 3 == 0:
            os._exit(0)
    except OSError:
        pass
"""
    process = run_inside(directories, code, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    time.sleep(0.05)
    deadline = time.monotonic() + 10
    while not cgroups.is_empty(ID):
        cgroups.kill(ID)
        assert time.monotonic() < deadline
    process.wait(5)
    process.stdout.close()


def test_kill_meets_a_process_that_joined_only_some_hierarchies(cgroups):
    directories = cgroups.create(ID, Resources())
    main = cgroups._main(ID)
    process = run_inside(
        [place for place in directories if place != main][:1], "input()\n", stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 5
    while not cgroups.pids(ID):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cgroups.kill(ID)
    assert process.wait(5) == -signal.SIGKILL
    process.stdin.close()


def test_a_fault_half_way_leaves_nothing_and_a_crash_is_found_by_name(cgroups):
    failpoints.configure("cgroup.container.created=3*error")
    try:
        with pytest.raises(OSError, match="failpoint"):
            cgroups.create(ID, Resources())
    finally:
        failpoints.configure("")
    assert cgroups.list_containers() == set()
    os.mkdir(f"{cgroups._tops[-1]}/{ID}")  # as left by a kill -9 between two hierarchies
    again = EngineCgroups(cgroups.name)
    assert again.list_containers() == {ID}
    again.kill(ID)
    asyncio.run(again.remove(ID))
    assert again.list_containers() == set()
