"""What confines a container, looked at from inside through the real docker client: by run, exec, probe and re-adoption."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import harness
import images
import isolation
import pytest
from hostile import SECRET, Daemon, hostile_daemon  # noqa: F401 - the fixture `daemon`
from isolation import DEFAULT_ERRNOS, fields, sections

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

DEFAULT_CAPS, NONE = "00000000a80425fb", "0" * 16
#: Everything that this machine has to give: the engine hands on no more than its own bounding set.
FULL = re.search(r"CapBnd:\t(\w+)", Path("/proc/self/status").read_text())[1]
V1 = Path("/sys/fs/cgroup/memory/tasks").exists()


# Everything that confines a process, by every way to start one

#: What may differ between PID 1 and a process beside it.
_OWN = {"fds", "pts", "first"}


def check_default(report: dict[str, list[str]]) -> None:
    """A report from a container with no options."""
    status = fields(report["status"])
    assert [status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd")] == [DEFAULT_CAPS] * 3
    assert [status[f"Cap{kind}"] for kind in ("Inh", "Amb")] == [NONE] * 2
    assert (status["SigIgn"], status["SigBlk"], status["SigCgt"]) == (NONE, NONE, NONE)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("0", "2", "0022")
    assert status["Groups"].split() == ["0", "29"]
    assert report["oom"] == ["0"]
    assert report["cwd"] == ["/"]
    assert dict(zip(DEFAULT_ERRNOS, report["errnos"], strict=True)) == {
        name: errno for name, (_, errno) in DEFAULT_ERRNOS.items()
    }
    assert len(report["doors"]) == len(isolation.CLOSED_DOORS)
    assert "0" not in report["doors"]
    assert report["masked"] == []
    assert report["writes"] == []
    assert [line for line in report["devices"] if line] == ["head: n: Operation not permitted"] * 5
    assert report["shared"] == ["0"]
    assert report["links"] == ["eth0", "lo"]
    assert report["keyring"] == ["0"]
    check_file_systems(report)
    names = {line.partition("=")[0] for line in report["environment"]}
    assert names - {"PWD"} == {"PATH", "HOSTNAME", "HOME"}
    assert SECRET not in str(report)


def check_file_systems(report: dict[str, list[str]]) -> None:
    """Mounts and device nodes of a container with no options."""
    mounts = {line.split()[0]: line.split()[1:] for line in reversed(report["mounts"])}
    kernel = {"nosuid", "nodev", "noexec"}
    for place, kind, way in (("/proc", "proc", "rw"), ("/sys", "sysfs", "ro"), ("/proc/sys", "proc", "ro")):
        assert mounts[place][0] == kind
        assert {way, *kernel} <= set(mounts[place][1].split(",")), (place, mounts[place])
    for place, (_, options, *_) in mounts.items():
        if place.startswith("/sys/fs/cgroup"):
            assert {"ro", *kernel} <= set(options.split(",")), (place, options)
    assert mounts["/dev"][0] == "tmpfs"
    assert {"nosuid", "mode=755", "size=65536k"} <= set(mounts["/dev"][1].split(","))
    assert {*kernel, "size=65536k"} <= set(mounts["/dev/shm"][1].split(","))
    assert {"nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"} <= set(mounts["/dev/pts"][1].split(","))
    own = {"/", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
    assert {p for p in report["points"] if not p.startswith(("/proc", "/sys", "/dev"))} == own
    nodes = ["core"] if os.path.exists("/proc/kcore") else []
    nodes += [
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    ]
    assert [line for line in report["dev"] if " " not in line] == nodes
    devices = {line.split()[0]: line.split()[1:] for line in report["dev"] if " " in line}
    numbers = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    assert devices == {f"/dev/{name}": [number, "666", "0:0"] for name, number in numbers.items()}


def test_every_way_in_is_confined_alike(daemon: Daemon) -> None:
    """PID 1, exec, health probe; then all again with a daemon that took the container over."""
    probe = "/report > /tmp/h; mv /tmp/h /tmp/health"
    daemon.begin(
        *("--name", "box1", "--health-cmd", probe, "--health-interval", "300ms"),
        command=("sh", "-c", "/report > /tmp/f; mv /tmp/f /tmp/first; exec sleep 1000"),
    )

    def kept(name: str) -> dict[str, list[str]]:
        def read() -> str:
            return daemon.docker("exec", "box1", "cat", f"/tmp/{name}", check=False).stdout

        return sections(harness.wait_until(read, what=name))

    reports = {
        "first": kept("first"),
        "health": kept("health"),
        "exec": sections(daemon.exec("box1", "/report")),
    }
    daemon.restart()
    reports["exec after a restart"] = sections(daemon.exec("box1", "/report"))
    daemon.exec("box1", "rm", "-f", "/tmp/health")
    reports["health after a restart"] = kept("health")
    daemon.docker("restart", "-t", "0", "box1")
    reports["exec after docker restart"] = sections(daemon.exec("box1", "/report"))
    for way, report in reports.items():
        check_default(report)
        others = {line.partition(" ")[2] for line in report["fds"] if int(line.split()[0]) > 2}
        assert others <= {"/report"}, (way, others)  # the shell's own script
        assert len(report["fds"]) - len(others) == 3, way
        for name, lines in report.items():
            same = name in _OWN or (name == "namespaces" and way == "exec after docker restart")
            assert same or lines == reports["first"][name], (way, name)
    assert reports["exec"]["first"] == [f"SigBlk:\t{NONE}", f"SigIgn:\t{NONE}"]
    host = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net", "uts", "ipc")}
    inside = reports["first"]["namespaces"]
    assert not host & set(inside)
    assert inside[6] == os.readlink("/proc/self/ns/user")
    if V1:
        assert inside[5] == os.readlink("/proc/self/ns/cgroup")
    other = sections(daemon.sh("/report"))["namespaces"]
    assert not set(other[:5]) & set(inside[:5])
    limits = Path(f"/proc/{daemon.pid()}/limits").read_text()
    assert all(line in limits for line in reports["first"]["limits"])


def test_what_was_asked_for_holds_by_every_way_in(daemon: Daemon, tmp_path: Path) -> None:
    """Options instead of defaults: PID 1, exec, health probe, and both again with a daemon that took over."""
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    look = (
        "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; ulimit -Sn; ulimit -Hn; "
        "cat /proc/self/oom_score_adj; cat /proc/self/cgroup; mkdir /tmp/d 2>&1; touch /x 2>&1; pwd; echo $ASKED"
    )
    daemon.begin(
        *(
            "--name",
            "asked",
            "--read-only",
            "--tmpfs",
            "/tmp:mode=1777",
            "-u",
            "1001:29",
            "--group-add",
            "555",
        ),
        *("--cap-drop", "ALL", "--cap-add", "CHOWN", "--security-opt", "no-new-privileges", "-w", "/etc"),
        *("--security-opt", f"seccomp={profile}", "--ulimit", "nofile=100:200", "--oom-score-adj", "300"),
        *("-m", "64m", "-e", "ASKED=yes", "--health-interval", "300ms"),
        *("--health-cmd", f"({look}) > /tmp/h; mv /tmp/h /tmp/health"),
        command=("sh", "-c", f"({look}) > /tmp/f; mv /tmp/f /tmp/first; exec sleep 1000"),
    )

    def kept(name: str) -> str:
        def read() -> str:
            return daemon.docker("exec", "asked", "cat", f"/tmp/{name}", check=False).stdout

        return str(harness.wait_until(read, within=30, what=name))

    first = kept("first")
    status = fields(first.splitlines()[:10])
    assert (status["NoNewPrivs"], status["Seccomp"], status["CapBnd"]) == ("1", "2", "0000000000000001")
    assert (status["CapEff"], status["Uid"].split()[0], status["Gid"].split()[0]) == (NONE, "1001", "29")
    assert set(status["Groups"].split()) == {"29", "555"}
    for text in ("100\n200\n300\n", "Operation not supported", "Read-only file system", "/etc\nyes\n"):
        assert text in first, text
    assert kept("health") == first
    assert daemon.exec("asked", "sh", "-c", look) == first
    daemon.restart()
    assert daemon.exec("asked", "sh", "-c", look) == first
    daemon.exec("asked", "rm", "-f", "/tmp/health")
    assert kept("health") == first


@pytest.mark.parametrize(
    ("options", "permitted", "bounding", "nnp", "seccomp"),
    [
        (("-u", "1000:1000"), NONE, DEFAULT_CAPS, "0", "2"),
        (("-u", "1001", "--cap-add", "SYS_ADMIN"), NONE, "00000000a82425fb", "0", "2"),
        (("--cap-drop", "ALL"), NONE, NONE, "0", "2"),
        (("--cap-drop", "all", "--cap-add", "CAP_KILL"), "0000000000000020", "0000000000000020", "0", "2"),
        (("--cap-drop", "chown", "--cap-drop", "MKNOD"), "00000000a00425fa", "00000000a00425fa", "0", "2"),
        (("--cap-add", "ALL"), FULL, FULL, "0", "2"),
        (("--security-opt", "no-new-privileges"), DEFAULT_CAPS, DEFAULT_CAPS, "1", "2"),
        (("--security-opt", "seccomp=unconfined"), DEFAULT_CAPS, DEFAULT_CAPS, "0", "0"),
        (("--privileged",), FULL, FULL, "0", "0"),
        (("--privileged", "--security-opt", "no-new-privileges:true"), FULL, FULL, "1", "0"),
    ],
)
def test_capabilities_and_privileges(
    daemon: Daemon, options: tuple[str, ...], permitted: str, bounding: str, nnp: str, seccomp: str
) -> None:
    look = ("grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status")
    daemon.begin(
        "--name", "box1", *options, command=("sh", "-c", f"grep -E '{look[2]}' {look[3]}; sleep 1000")
    )
    first = harness.wait_until(lambda: daemon.docker("logs", "box1").stdout, what="PID 1's report")
    for text in (first, daemon.exec("box1", *look)):
        status = fields(text.splitlines())
        assert [status["CapPrm"], status["CapEff"], status["CapBnd"]] == [permitted, permitted, bounding]
        assert [status["CapInh"], status["CapAmb"]] == [NONE, NONE]
        assert (status["NoNewPrivs"], status["Seccomp"]) == (nnp, seccomp)
    user = fields(daemon.exec("box1", *look, options=("-u", "1000")).splitlines())
    assert (user["CapPrm"], user["CapEff"], user["CapBnd"]) == (NONE, NONE, bounding)
    # What one container was given is not the next one's (CVE-2018-10856).
    after = fields(daemon.sh("grep -E '^(Cap|Seccomp:)' /proc/self/status").splitlines())
    assert (after["CapEff"], after["CapBnd"], after["Seccomp"]) == (DEFAULT_CAPS, DEFAULT_CAPS, "2")


def test_capabilities_that_do_not_exist_and_those_that_are_missing(daemon: Daemon) -> None:
    for option in ("--cap-add", "--cap-drop"):
        assert 'unknown capability: "CAP_NOPE"' in daemon.refused(option, "NOPE", "box", "true")
    assert daemon.docker("ps", "-aq").stdout == ""
    said = daemon.sh("chown 1 /tmp; mknod /tmp/x c 1 3; su bob -c id", "--cap-drop", "ALL", check=False)
    assert said.count("Operation not permitted") >= 2
    assert "uid=1001" not in said
    # The setuid bit works as in any system, unless no_new_privs takes it away.
    script = "cp /bin/probe /tmp/p; chmod 4755 /tmp/p; su bob -c '/tmp/p uid'"
    assert daemon.sh(script) == "euid=0\n"
    assert daemon.sh(script, "--security-opt", "no-new-privileges") == "euid=1001\n"


def test_exec_privileged_has_capabilities_and_the_same_filter(daemon: Daemon) -> None:
    """As in Docker: the filter and the device cgroup are the container's, whatever the exec may do."""
    daemon.begin("--name", "box1")
    script = "exec 2>&1; grep -E '^(CapEff|Seccomp:)' /proc/self/status; mknod /tmp/m c 1 1; head -c1 /tmp/m; rm /tmp/m"
    text = daemon.exec("box1", "sh", "-c", script, options=("--privileged",), check=False)
    assert f"CapEff:\t{FULL}" in text
    assert "Seccomp:\t2" in text
    assert "head: /tmp/m: Operation not permitted" in text
    assert daemon.exec("box1", "grep", "CapEff", "/proc/self/status") == f"CapEff:\t{DEFAULT_CAPS}\n"


# Seccomp


def test_capabilities_open_their_group_of_system_calls(daemon: Daemon) -> None:
    probe = "/bin/probe 272,0x4000000 56,0x04000011 435 312,1,1,0 323,1 250,0,0xfffffffffffffffd,0 238,0"
    assert daemon.sh(probe).split() == ["1", "1", "38", "1", "1", "1", "1"]
    admin = daemon.sh(probe, "--cap-add", "SYS_ADMIN").split()
    assert (admin[:2], admin[3:]) == (["0", "0"], ["1", "1", "1", "1"])
    assert daemon.sh(probe, "--cap-add", "SYS_PTRACE").split()[3] != "1"
    assert daemon.sh(probe, "--cap-add", "SYS_NICE").split()[6] == "0"
    daemon.begin("--name", "box1", "--cap-add", "SYS_ADMIN")
    assert daemon.exec("box1", *probe.split()).split() == admin


def test_profiles_of_the_user(daemon: Daemon, tmp_path: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO"}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    daemon.begin("--name", "box1", "--security-opt", f"seccomp={profile}")
    for option in ((), ("-u", "1000"), ("--privileged",)):
        said = daemon.exec("box1", "sh", "-c", "mkdir /tmp/d; touch /tmp/ok", options=option, check=False)
        assert "Operation not permitted" in said
    assert daemon.exec("box1", "ls", "/tmp/ok") == "/tmp/ok\n"
    rule["action"] = "SCMP_ACT_PLEASE"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    assert "invalid seccomp action" in daemon.refused("--security-opt", f"seccomp={profile}", "box", "true")
    profile.write_text("{")
    daemon.refused("--security-opt", f"seccomp={profile}", "box", "true")
    assert "Seccomp:\t0" in daemon.sh(
        "grep Seccomp: /proc/self/status", "--security-opt", "seccomp=unconfined"
    )
    assert daemon.refused("--security-opt", "nonsense=1", "box", "true")


def test_session_keyrings_are_the_containers_own(daemon: Daemon) -> None:
    """keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING): the serial of what a process would search for keys.

    Each exec has one of its own: runc makes a container's searchable by its name, for every other container's root, too.
    """
    command = ("/bin/probe", "serial")
    options = ("--security-opt", "seccomp=unconfined")
    daemon.begin("--name", "box1", *options)
    daemon.begin("--name", "box2", *options)
    first, other = daemon.exec("box1", *command).strip(), daemon.exec("box2", *command).strip()
    assert first != other
    assert min(int(first), int(other)) > 0
    assert _session_keyring() not in {first, other}


# Namespaces, devices, resources


def test_shared_namespaces_and_references_to_nothing(daemon: Daemon) -> None:
    one = daemon.begin("--name", "one")
    names = "for n in mnt pid net uts ipc; do readlink /proc/self/ns/$n; done"
    own = daemon.exec("one", "sh", "-c", names).splitlines()
    with_net = daemon.sh(names, "--network", "container:one").splitlines()
    assert [a == b for a, b in zip(own, with_net, strict=True)] == [False, False, True, False, False]
    with_pid = daemon.sh(f"{names}; ps", "--pid", f"container:{one}").splitlines()
    assert [a == b for a, b in zip(own, with_pid, strict=False)] == [False, True, False, False, False]
    assert any("sleep 1000" in line for line in with_pid)
    host = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "uts", "ipc")]
    shared = daemon.sh(
        names, *("--pid", "host", "--network", "host", "--uts", "host", "--ipc", "host")
    ).splitlines()
    assert shared[1:5] == host
    for wrong in (
        *(("--network", "container:nope"), ("--pid", "container:nope"), ("--ipc", "container:nope")),
        *(("--network", "nope"), ("--ipc", "foo"), ("--pid", "foo"), ("--uts", "foo"), ("--userns", "foo")),
        *(("--cgroupns", "foo"), ("--runtime", "nope"), ("--cgroup-parent", "/../../x")),
    ):
        daemon.refused(*wrong, "box", "true")
    assert "non-shareable IPC" in daemon.refused("--ipc", "container:one", "box", "true")
    daemon.docker("kill", "one")
    assert "is not running" in daemon.refused("--pid", "container:one", "box", "true")
    assert "non running container" in daemon.refused("--network", "container:one", "box", "true")


def test_shared_memory_goes_with_the_ipc_namespace(daemon: Daemon) -> None:
    """`shareable` and `container:`: namespace and /dev/shm; over exec and a new daemon, and without a donor: no."""
    daemon.begin("--name", "donor", "--ipc", "shareable", "--shm-size", "3m")
    daemon.exec("donor", "sh", "-c", "echo shared > /dev/shm/f")
    look = ("sh", "-c", "readlink /proc/self/ns/ipc; cat /dev/shm/f; grep ' /dev/shm ' /proc/mounts")
    donor = daemon.exec("donor", *look)
    assert "size=3072k" in donor
    assert {"nosuid", "nodev", "noexec"} <= set(donor.split()[5].split(","))
    daemon.begin("--name", "joins", "--ipc", "container:donor")
    daemon.restart()
    assert daemon.exec("joins", *look) == donor
    daemon.begin(
        "--name", "chain", "--ipc", "container:joins", "--pid", "container:donor", "--cap-add", "SYS_PTRACE"
    )
    assert daemon.exec("chain", *look) == donor
    # What the target's end means: those who joined go on with what they have, and cannot join again without it.
    daemon.docker("restart", "-t", "0", "donor")
    assert "shared" not in daemon.exec("donor", *look, check=False)
    assert daemon.exec("joins", "cat", "/dev/shm/f") == "shared\n"
    daemon.docker("restart", "-t", "0", "joins")
    assert daemon.exec("joins", "readlink", "/proc/self/ns/ipc") == daemon.exec(
        "donor", "readlink", "/proc/self/ns/ipc"
    )
    daemon.docker("kill", "donor")
    failed = daemon.docker("restart", "-t", "0", "joins", check=False)
    assert "failed to join IPC namespace" in failed.stderr
    for name in ("chain", "joins", "donor"):
        daemon.docker("rm", "-f", name)
    none = daemon.sh("readlink /proc/self/ns/ipc; ls -d /dev/shm", "--ipc", "none", check=False).splitlines()
    assert none[0] != os.readlink("/proc/self/ns/ipc")
    assert "No such file" in none[1]
    with_uts = daemon.sh("hostname; cat /proc/sys/kernel/domainname", "--uts", "host").splitlines()
    assert with_uts == [os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text().strip()]
    named = daemon.sh("hostname; cat /proc/sys/kernel/domainname", "-h", "web", "--domainname", "x.org")
    assert named.splitlines() == ["web", "x.org"]
    for options, message in {
        ("--uts", "host", "-h", "x"): "conflicting options: hostname and the UTS mode",
        ("--ipc", "container:"): "invalid IPC mode",
        ("--pid", "container:"): "invalid PID mode",
    }.items():
        assert message in daemon.refused(*options, "box", "true"), options


def test_sysctls_of_the_containers_own_namespaces(daemon: Daemon) -> None:
    asked = {
        "net.ipv4.ip_forward": "1",
        "kernel.shmmax": "12345",
        "fs.mqueue.msg_max": "11",
        "kernel.msgmax": "777",
    }
    options = [part for name, value in asked.items() for part in ("--sysctl", f"{name}={value}")]
    script = "; ".join(f"cat /proc/sys/{name.replace('.', '/')}" for name in asked)
    assert daemon.sh(script, *options).split() == list(asked.values())
    for options, message in (
        (
            ("--sysctl", "kernel.core_pattern=x"),
            "sysctl 'kernel.core_pattern=x' is not ",
        ),  # allowed; once: whitelisted
        (("--sysctl", "net.ipv4.ip_forward=1", "--network", "host"), "not allowed in host network namespace"),
        (("--sysctl", "kernel.shmmax=1", "--ipc", "host"), "not allowed in the hosts ipc namespace"),
        (("--sysctl", "kernel.shm_rmid_forced=1+kernel.core_pattern=x"), "kernel.shm_rmid_forced"),
        (("--sysctl", "net/../kernel/core_pattern=x"), "sysctl"),
        (("--sysctl", "net.ipv4.nothing=1"), "sysctl"),
    ):
        assert message in daemon.refused(*options, "box", "true"), options


def test_devices(daemon: Daemon) -> None:
    major, minor = (int(n) for n in Path("/proc/partitions").read_text().split("\n")[2].split()[:2])
    script = f"mknod /tmp/b b {major} {minor}; head -c1 /tmp/b; mknod /tmp/m c 1 1; head -c1 /tmp/m; rm -f /tmp/[bm]"
    twice = ["head: /tmp/b: Operation not permitted", "head: /tmp/m: Operation not permitted"]
    daemon.begin("--name", "box1")
    assert daemon.exec("box1", "sh", "-c", f"exec 2>&1; {script}").splitlines() == twice
    daemon.docker(
        "update", "--memory", "64m", "--memory-swap", "64m", "box1"
    )  # runc #3551: update lost the rules
    assert daemon.exec("box1", "sh", "-c", f"exec 2>&1; {script}").splitlines() == twice
    daemon.restart()
    assert daemon.exec("box1", "sh", "-c", f"exec 2>&1; {script}").splitlines() == twice
    # --device gives the node with the access that was asked for, and nothing else.
    if os.path.exists("/dev/loop-control"):
        look = "head -c 0 /dev/mine && echo opened; : > /dev/mine; mknod /dev/other c 10 237; head -c 0 /dev/other"
        said = daemon.sh(look, "--device", "/dev/loop-control:/dev/mine:r", check=False)
        assert "opened" in said
        assert "create /dev/mine: Operation not permitted" in said
        assert "head: /dev/other" not in said  # the rule is for the device, whatever its name
        again = daemon.sh(f"ls /dev/mine; {script}")
        assert "No such file" in again
        assert again.splitlines()[1:] == twice
        rule = daemon.sh(
            "mknod /tmp/k c 10 237; head -c 0 /tmp/k && echo opened", "--device-cgroup-rule", "c 10:237 r"
        )
        assert "opened" in rule
    for wrong in (
        ("--device-cgroup-rule", "c 1:x r"),
        ("--device", "/dev/nope"),
        ("--device", "/etc/passwd"),
    ):
        daemon.refused(*wrong, "box", "true")
    before = os.stat("/dev/null")
    daemon.exec("box1", "id", options=("-u", "1000"))
    daemon.sh("id > /dev/null", "-u", "1000")
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_terminals_are_the_containers_own(daemon: Daemon) -> None:
    plain = daemon.sh("ls /dev/pts; ls /dev/console; tty", check=False).splitlines()
    assert plain == ["ptmx", "ls: /dev/console: No such file or directory", "not a tty"]
    script = "tty; ls /dev/pts | tr '\\n' ' '; stat -c %t /dev/console; ls -l /proc/self/fd | wc -l"
    done = daemon.docker("run", "--rm", "-t", "box", "sh", "-c", script)
    assert done.stdout.split()[:4] == ["/dev/pts/0", "0", "ptmx", "88"]
    daemon.begin("--name", "box1")
    assert daemon.docker("exec", "-t", "box1", "tty").stdout.strip() == "/dev/pts/0"


def test_limits_of_processes(daemon: Daemon) -> None:
    script = (
        "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; cat /proc/self/status | grep Cpus_allowed_list"
    )
    options = (
        "--ulimit",
        "nofile=100:200",
        "--oom-score-adj",
        "500",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "16",
    )
    daemon.begin("--name", "box1", *options)
    for text in (daemon.sh(script, *options), daemon.exec("box1", "sh", "-c", script)):
        assert text.split()[:3] == ["100", "200", "500"]
        assert text.split()[-1] == "0"
    bomb = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done"
    assert "fork" in daemon.sh(bomb, "--pids-limit", "16", check=False)
    assert "fork" in daemon.exec("box1", "sh", "-c", bomb, check=False)
    if V1:
        inside = daemon.docker(
            "run", "--rm", "box", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.current; ps | wc -l"
        ).stdout
        assert int(inside.split()[0]) <= 4
    for wrong in (
        ("-m", "4m"),
        ("--cpuset-cpus", "77"),
        ("--ulimit", "nofile=10:5"),
        ("--oom-score-adj", "2000"),
    ):
        daemon.refused(*wrong, "box", "true")


def test_memory_ends_the_container_and_nothing_else(daemon: Daemon) -> None:
    grow = ("dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=60")
    limit = ("-m", "32m", "--memory-swap", "32m")
    pids = {daemon.pid(), daemon.launcher_pid()}
    daemon.docker("run", "--name", "first", *limit, "box", *grow, check=False)
    assert daemon.inspect("first")["State"]["OOMKilled"] is True
    assert daemon.inspect("first")["State"]["ExitCode"] == 137
    daemon.begin("--name", "box1", *limit)
    done = daemon.docker("exec", "box1", *grow, check=False)
    assert done.returncode == 137, done
    assert pids == {daemon.pid(), daemon.launcher_pid()}


def test_mounts(daemon: Daemon, tmp_path: Path) -> None:
    """Propagation, read-only binds with what is mounted below them, tmpfs flags, nothing over /proc."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec", "x", source / "sub"], check=True)
    try:
        script = "touch /m/f; touch /m/sub/f; grep ' /m' /proc/mounts; grep -c shared: /proc/self/mountinfo"
        said = daemon.sh(script, "-v", f"{source}:/m:ro", check=False).splitlines()
        assert [line.rpartition(": ")[2] for line in said[:2]] == ["Read-only file system"] * 2
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(said[3].split()[3].split(","))
        assert said[-1] == "0"
        rw = daemon.sh(
            "touch /m/sub/f; mount -o remount,suid,dev,exec /m/sub; grep ' /m/sub' /proc/mounts",
            "-v",
            f"{source}:/m",
        )
        assert "nosuid,nodev,noexec" in rw
        assert (source / "sub/f").exists()
        # What a container mounts never arrives on the host.
        daemon.sh(
            "mount -t tmpfs inner /m/sub; grep -c inner /proc/mounts",
            "--cap-add",
            "SYS_ADMIN",
            "-v",
            f"{source}:/m",
        )
        assert "inner" not in Path("/proc/self/mountinfo").read_text()
    finally:
        subprocess.run(["umount", source / "sub"], check=True)
    flags = daemon.sh("grep ' /t ' /proc/mounts", "--tmpfs", "/t").split()[3].split(",")
    assert {"nosuid", "nodev", "noexec"} <= set(flags)
    for place in ("/proc", "/proc/self/attr", "/proc/1/ns", "/", "relative"):
        daemon.refused("-v", f"vol:{place}", "box", "true")
    for place in ("/proc", "/proc/self"):
        daemon.refused("--tmpfs", place, "box", "true")
    readonly = daemon.sh(
        "touch /f; touch /etc/f; touch /dev/f; rm /dev/f; touch /tmp/f", "--read-only", check=False
    )
    assert readonly.count("Read-only file system") == 3
    assert SECRET not in daemon.sh(
        f"cat {daemon.canary}/token; cat /proc/self/mountinfo; chroot /proc/1/root cat {daemon.canary}/token",
        check=False,
    )


def test_the_root_cannot_be_left(daemon: Daemon) -> None:
    script = (
        "import os\nos.mkdir('/x')\nos.chroot('/x')\nfor _ in range(64): os.chdir('..')\nos.chroot('.')\n"
    )
    script += f"print(os.path.exists('{daemon.canary}'), os.path.exists('/x'), os.path.exists('/proc/1/root/proc/1'))"
    done = daemon.docker("run", "--rm", "host.local/base", "python3", "-c", script)
    assert done.stdout.split() == ["False", "True", "True"]


def _session_keyring() -> str:
    """The serial of this process' session keyring."""
    place = images.CACHE / "probe-here"
    place.write_bytes(isolation.program("probe"))
    place.chmod(0o755)
    return subprocess.run([place, "serial"], capture_output=True, text=True, check=True).stdout.strip()
