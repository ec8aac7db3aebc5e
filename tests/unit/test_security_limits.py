"""Limits: Docker's messages, units of v1 and v2, and what mountinfo says about a host."""

from dataclasses import replace

import pytest

from pystack.kernel import blockio, cgroup_v1, cgroup_v2, devices, limits
from pystack.kernel.cgroup_files import Features, Hierarchy, parse_mountinfo
from pystack.kernel.host import Host, parse_cpu_list, parse_kernel
from pystack.model.container import DeviceLimit, Resources
from pystack.model.errors import EngineError, InvalidInput, NotFound

MIB = 1 << 20
ALL = Features(
    memory_limit=True,
    swap_limit=True,
    memory_reservation=True,
    memory_swappiness=True,
    oom_kill_disable=True,
    cpu_shares=True,
    cpu_cfs=True,
    cpuset=True,
    pids_limit=True,
    blkio_weight=True,
    blkio_weight_device=True,
    blkio_read_bps=True,
    blkio_write_bps=True,
    blkio_read_iops=True,
    blkio_write_iops=True,
    cpu_realtime=True,
)
NONE = replace(ALL, **dict.fromkeys(ALL.__slots__, False))
HOST = Host(
    kernel=(6, 1),
    kernel_release="6.1",
    machine="x86_64",
    operating_system="",
    hostname="",
    cpus=frozenset({0, 1, 2}),
    memory_nodes=frozenset({0}),
    memory=1 << 30,
    swap=0,
    cap_last_cap=40,
    security_modules=(),
    apparmor=False,
    seccomp=True,
    cgroups=Hierarchy(mode="v2", controllers=frozenset(), mounts={}, unified="/"),
)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"memory": 5 * MIB}, "Minimum memory limit allowed is 6MB"),
        (
            {"memory": 64 * MIB, "memory_swap": 32 * MIB},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"memory_swap": MIB},
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        (
            {"memory": 8 * MIB, "memory_reservation": 9 * MIB},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        ({"memory_reservation": MIB}, "Minimum memory reservation allowed is 6MB"),
        ({"nano_cpus": 4 * 10**9}, "Range of CPUs is from 0.01 to 3.00, as there are only 3 CPUs available"),
        ({"nano_cpus": 10**6}, "Range of CPUs is from 0.01 to 3.00, as there are only 3 CPUs available"),
        (
            {"nano_cpus": 10**9, "cpu_period": 1000},
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            {"nano_cpus": 10**9, "cpu_quota": 1000},
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            {"cpu_period": 999},
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"cpuset_cpus": "0-7"}, "Requested CPUs are not available - requested 0-7, available: 0-2"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"cpuset_mems": "1"}, "Requested memory nodes are not available - requested 1, available: 0"),
        ({"blkio_weight": 9}, "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_errors(resources, message):
    assert limits.validate(Resources(**resources), HOST, ALL) == ([message], [])


def test_what_is_right_says_nothing():
    fine = Resources(
        memory=6 * MIB, memory_swap=-1, nano_cpus=10**7, cpuset_cpus="0,2", pids_limit=-1, blkio_weight=10
    )
    assert limits.validate(fine, HOST, ALL) == ([], [])
    assert limits.validate(Resources(memory_swap=MIB), HOST, ALL, update=True) == ([], [])


def test_a_kernel_without_limits_warns():
    asked = Resources(
        memory=64 * MIB, memory_reservation=32 * MIB, oom_kill_disable=True, cpu_shares=2, pids_limit=5
    )
    errors, warnings = limits.validate(asked, HOST, NONE)
    assert errors == []
    assert len(warnings) == 5
    assert all(
        text.startswith("Your kernel does not support ") and text.endswith("discarded.") for text in warnings
    )
    _, warnings = limits.validate(Resources(memory=64 * MIB), HOST, replace(ALL, swap_limit=False))
    assert warnings == [
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
    ]
    _, warnings = limits.validate(Resources(oom_kill_disable=True), HOST, ALL)
    assert warnings[0].startswith("OOM killer is disabled for the container, but no memory limit is set")


def test_swap_defaults_to_twice_the_memory():
    assert Resources(memory=64 * MIB).memory_and_swap == 128 * MIB
    assert Resources(memory=64 * MIB, memory_swap=-1).memory_and_swap == -1
    assert Resources().memory_and_swap == 0


def test_realtime_and_block_devices():
    weight = (DeviceLimit(path="/dev/a", value=9),)
    rate = (DeviceLimit(path="/dev/a", value=1),)
    for asked, message in (
        (
            {"cpu_realtime_period": 5, "cpu_realtime_runtime": 6},
            "cpu real-time runtime cannot be higher than",
        ),
        ({"blkio_weight_device": weight}, "Range of blkio weight is from 10 to 1000"),
        ({"memory": -1}, "Minimum memory limit allowed is 6MB"),
    ):
        (error,), warnings = limits.validate(Resources(**asked), HOST, ALL)
        assert error.startswith(message)
        assert warnings == []
    (error,), _ = limits.validate(Resources(cpu_realtime_runtime=6), HOST, NONE)
    assert error == "kernel does not support CPU real-time scheduler"
    fields = ("read_bps", "write_bps", "read_iops", "write_iops")
    everything = Resources(kernel_memory=1, **{f"blkio_device_{name}": rate for name in fields})
    assert limits.validate(everything, HOST, NONE) == (
        [],
        [
            "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
            "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
            "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
            "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
            "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
        ],
    )


def test_lines_of_block_devices(monkeypatch):
    monkeypatch.setattr(blockio, "block_number", {"/dev/a": "8:0", "/dev/b": "8:16"}.__getitem__)
    a, b = DeviceLimit(path="/dev/a", value=100), DeviceLimit(path="/dev/b", value=0)
    asked = Resources(
        blkio_weight=10, blkio_weight_device=(a,), blkio_device_read_bps=(a, b), blkio_device_write_iops=(a,)
    )
    assert blockio.v1_settings(asked) == [
        ("blkio.weight", "10"),
        ("blkio.bfq.weight", "10"),
        ("blkio.weight_device", "8:0 100"),
        ("blkio.bfq.weight_device", "8:0 100"),
        ("blkio.throttle.read_bps_device", "8:0 100"),
        ("blkio.throttle.read_bps_device", "8:16 0"),
        ("blkio.throttle.write_iops_device", "8:0 100"),
    ]
    assert blockio.v2_settings(asked) == [
        ("io.bfq.weight", "10"),
        ("io.weight", "default 1"),
        ("io.bfq.weight", "8:0 100"),
        ("io.weight", "8:0 910"),
        ("io.max", "8:0 rbps=100 wiops=100"),
        ("io.max", "8:16 rbps=max"),
    ]
    with pytest.raises(InvalidInput, match="not a block device"):
        devices.block_number("/dev/null")
    with pytest.raises(NotFound, match="cannot limit block device /dev/no-such-disk"):
        devices.block_number("/dev/no-such-disk")


def test_files_of_v2_by_name():
    assert cgroup_v2.settings(Resources(unified={"memory.high": "1", "memory.oom.group": "1"})) == [
        ("memory.high", "1"),
        ("memory.oom.group", "1"),
    ]
    for name in ("cgroup.procs", "cgroup.subtree_control", "../memory.high", "memory.max", "devices.allow"):
        with pytest.raises(InvalidInput, match="cannot set the cgroup file"):
            cgroup_v2.settings(Resources(unified={name: "1"}))
    with pytest.raises(InvalidInput, match="give one line"):
        cgroup_v2.settings(Resources(unified={"memory.high": "1\n2"}))


def test_v2_units():
    assert [cgroup_v2.cpu_weight(shares) for shares in (2, 1024, 262144, 1, 10**9)] == [
        1,
        39,
        10000,
        1,
        10000,
    ]
    assert [blockio.io_weight(weight) for weight in (10, 500, 1000)] == [1, 4950, 10000]
    assert cgroup_v2.cpu_max(Resources(nano_cpus=1_500_000_000)) == "150000 100000"
    assert cgroup_v2.cpu_max(Resources(cpu_quota=-1, cpu_period=50_000)) == "max 50000"
    assert cgroup_v2.cpu_max(Resources()) == ""
    assert cgroup_v2.settings(Resources(memory=64 * MIB, memory_swap=100 * MIB, pids_limit=0)) == [
        ("memory.max", str(64 * MIB)),
        ("memory.swap.max", str(36 * MIB)),
        ("pids.max", "max"),
    ]
    assert cgroup_v2.swap_max(64 * MIB, 64 * MIB) == "0"
    assert cgroup_v2.swap_max(64 * MIB, -1) == "max"
    assert cgroup_v2.settings(Resources()) == []


def test_v1_order_of_memory_limits():
    both = Resources(memory=64, memory_swap=128)
    names = lambda found: [name for _, name, _ in found]  # noqa: E731
    assert names(cgroup_v1.memory_settings(both)) == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    assert names(cgroup_v1.memory_settings(both, 32)) == [
        "memory.memsw.limit_in_bytes",
        "memory.limit_in_bytes",
    ]
    assert cgroup_v1.cpu_settings(Resources(nano_cpus=500_000_000)) == [
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
    ]


def test_statistics_lines():
    assert cgroup_v1.block_entries("8:0 Read 10\n8:0 Total 10\nTotal 10\n") == [
        {"major": 8, "minor": 0, "op": "Read", "value": 10},
        {"major": 8, "minor": 0, "op": "Total", "value": 10},
    ]
    volume, count = cgroup_v2.block_entries("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n8:0 \n")
    assert volume == [
        {"major": 254, "minor": 0, "op": "read", "value": 1},
        {"major": 254, "minor": 0, "op": "write", "value": 2},
    ]
    assert [entry["value"] for entry in count] == [3, 4]


V1 = "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n"
BOTH = "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
NAMED = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
V2 = "41 31 0:38 / /sys/fs/cgroup/my\\040tree rw - cgroup2 cgroup2 rw\n"


def test_what_a_host_has():
    enabled = {"devices", "cpu", "cpuacct"}
    hybrid = parse_mountinfo([V1, BOTH, NAMED, V2], enabled)
    assert (hybrid.mode, hybrid.version) == ("hybrid", "1")
    assert hybrid.tops == ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/devices"]
    assert parse_mountinfo([V1], enabled).mode == "v1"
    unified = parse_mountinfo([NAMED, V2], enabled)
    assert (unified.mode, unified.tops, unified.version) == ("v2", ["/sys/fs/cgroup/my tree"], "2")
    assert parse_mountinfo([V1, V2], set()).mode == "v2"
    with pytest.raises(EngineError, match="cannot find a cgroup file system"):
        parse_mountinfo([], enabled)


def test_lists_and_versions():
    assert parse_cpu_list("0-2,7\n") == {0, 1, 2, 7}
    assert limits.cpu_list(frozenset({0, 1, 2, 7})) == "0-2,7"
    for text in ("3-1", "a", "0-999999999"):
        with pytest.raises(ValueError, match=r".+"):
            parse_cpu_list(text)
    assert parse_kernel("6.18.44-fc-v782") == (6, 18)
