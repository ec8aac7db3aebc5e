"""What a container cannot do, tried from inside through the real docker client: by run, exec, health probe and re-adoption.

The daemon is started by a hostile parent: descriptors of the host's root, secrets in its environment, blocked and
ignored signals, supplementary groups, a low OOM score. Nothing of that may arrive in a container.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import images
import isolation
import oracle
import pytest
from isolation import DEFAULT_ERRNOS, fields, sections

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

DEFAULT_CAPS, NONE = "00000000a80425fb", "0" * 16
#: Everything that this machine has to give: the engine hands on no more than its own bounding set.
FULL = re.search(r"CapBnd:\t(\w+)", Path("/proc/self/status").read_text())[1]
SECRET = "leaked-5f2c1d"
V1 = Path("/sys/fs/cgroup/memory/tasks").exists()

#: Descriptors 3 to 20 of the host's root, ignored signals: what a careless service manager hands down.
_START = """
trap '' ALRM USR1 PIPE; umask 0; for n in {3..20}; do eval "exec $n</"; done; exec "$@"
"""


class Daemon(harness.Engine):
    """An engine with a hostile parent and a canary directory that nothing may read or change."""

    def __init__(self, base: Path) -> None:
        super().__init__(base / "root", base / "run")
        self.canary = base / "canary"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> int:
        secrets = {"AWS_SECRET_ACCESS_KEY": SECRET, "HTTP_PROXY": f"http://{SECRET}", "LISTEN_FDS": "3"}

        def before() -> None:
            os.setgroups([4242])
            try:
                Path("/proc/self/oom_score_adj").write_text("-500")
            except PermissionError:
                Path("/proc/self/oom_score_adj").write_text("300")  # any score but the container's
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})

        with open(f"{self.instance.run}/daemon.log", "ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", _START, "bash", sys.executable, "-P", "-m", "pystack", "daemon"],
                env=self.environment | secrets | env,
                cwd=self.canary,
                stdout=log,
                stderr=log,
                preexec_fn=before,  # noqa: PLW1509 - there are no threads
            )
        harness.wait_until(self._answers, what="the daemon answers")
        return self.process.pid

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            self.client.connect().close()
        except Exception:
            return False
        return True

    def restart(self) -> None:
        """Another daemon, after kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        super().stop()
        if self.process is not None:
            self.process.wait(20)

    def sh(self, script: str, *options: str, image: str = "box", **more: Any) -> str:
        """Output of a shell script in a container of its own, standard error included."""
        done = self.docker("run", "--rm", *options, image, "sh", "-c", f"exec 2>&1; {script}", **more)
        return done.stdout + done.stderr

    def begin(self, *options: str, image: str = "box", command: tuple[str, ...] = ("sleep", "1000")) -> str:
        return self.docker("run", "-d", *options, image, *command).stdout.strip()

    def exec(self, name: str, *command: str, options: tuple[str, ...] = (), check: bool = True) -> str:
        done = self.docker("exec", *options, name, *command, check=check)
        return done.stdout + done.stderr

    def refused(self, *arguments: str) -> str:
        """What `docker run` says when it fails before the program runs (125, or 126 and 127 of a start)."""
        done = self.docker("run", "--rm", *arguments, check=False)
        assert done.returncode in {125, 126, 127}, (arguments, done)
        return done.stderr

    def canary_is_whole(self) -> bool:
        names = {"token", "passwd", "group", "x"}
        assert set(os.listdir(self.canary)) == names, os.listdir(self.canary)
        assert (self.canary / "x").read_text() == "untouched"
        token = (self.canary / "token").stat()
        return token.st_nlink == 1 and stat.S_IMODE(token.st_mode) == 0o600


def _variants(canary: str) -> bytes:
    """The images: an honest one, and one for each trick."""
    link, member = images.symlink, images.member
    passwd = "root:x:0:0::/root:/bin/sh\n1000:x:7:8::/:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"
    group = "root:x:0:\naudio:x:29:bob,root\nbob:x:1001:\nextra:x:555:bob\n"
    marker = b"#!/bin/sh\n: > /marker\n"
    labels = {
        "com.docker.compose.project": "victim",
        "com.docker.compose.service": "web",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.container-number": "1",
        "com.docker.compose.config-hash": "0",
    }
    etc = [link(f"etc/{name}", f"{canary}/x") for name in ("hosts", "hostname", "resolv.conf", "mtab")]
    return isolation.archive(
        ("box:latest", [member("etc/passwd", passwd.encode()), member("etc/group", group.encode())], {}),
        (
            "evil:links",
            [
                link("evil", canary),
                link("dangling", f"{canary}/made"),
                link("etc/passwd", f"{canary}/passwd"),
                link("etc/group", f"{canary}/group"),
                *etc,
            ],
            {"WorkingDir": "/evil/new"},
        ),
        ("evil:volume", [link("evil", canary)], {"Volumes": {"/evil": {}, "/evil/below": {}}}),
        *((f"evil:{name}", [link(name, canary)], {}) for name in ("dev", "proc", "sys")),
        ("evil:pts", [images.directory("dev"), link("dev/pts", canary), link("dev/shm", canary), link("dev/ptmx", f"{canary}/x"), link("dev/null", f"{canary}/x"), link("dev/console", f"{canary}/x")], {}),
        ("evil:fifo", [member("etc/passwd", type=tarfile.FIFOTYPE)], {}),
        ("evil:group", [member("etc/group", b"g:x:1:\n" * 600_000)], {}),
        ("evil:cwd", [], {"WorkingDir": "/proc/self/fd/7"}),
        ("evil:labels", [], {"Labels": labels}),
        ("evil:self", [], {"Entrypoint": ["/proc/self/exe"], "Cmd": ["-c", "print(1)"]}),
        ("evil:shebang", [member("go", b"#!/proc/self/exe\n", mode=0o755)], {"Entrypoint": ["/go"], "Cmd": None}),
        ("evil:ps", [member(f"bin/{n}", marker, mode=0o755) for n in ("ps", "nsenter", "du", "tar", "xz")], {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    base = Path(tempfile.mkdtemp(prefix="pystack-isolation-", dir="/var/tmp"))
    base.chmod(0o755)
    made = Daemon(base)
    for name in ("root", "run", "canary"):
        (base / name).mkdir()
    (made.canary / "token").write_text(SECRET)
    (made.canary / "token").chmod(0o600)
    (made.canary / "passwd").write_text("alice:x:4242:4242::/:/bin/sh\n")
    (made.canary / "group").write_text("alice:x:4242:\n")
    (made.canary / "x").write_text("untouched")
    (base / "images.tar").write_bytes(_variants(str(made.canary)))
    before = oracle.snapshot(made.instance)
    try:
        made.start()
        made.docker("load", "-i", str(base / "images.tar"))
        yield made
        assert made.canary_is_whole()
        assert SECRET not in made.log()
        made.remove_everything()
        oracle.wait_for_nothing_leaked(made.instance, before)
    finally:
        made.stop()
        if not oracle.snapshot(made.instance).things["mount"]:
            shutil.rmtree(base, ignore_errors=True)


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
    assert [line for line in report["devices"] if line] == ["head: /tmp/n: Operation not permitted"] * 5
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
        assert 'invalid capability: "CAP_NOPE"' in daemon.refused(option, "NOPE", "box", "true")
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
    daemon.docker("kill", "one")
    assert "non running container" in daemon.refused("--pid", "container:one", "box", "true")
    assert "non running container" in daemon.refused("--network", "container:one", "box", "true")


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


# Descriptors and the engine's own processes


@pytest.mark.parametrize("options", [(), ("--cap-add", "SYS_PTRACE"), ("--init",)])
def test_the_engines_processes_cannot_be_caught(daemon: Daemon, options: tuple[str, ...]) -> None:
    """CVE-2019-5736, CVE-2016-9962: a watcher in the container tries every door of what execs and probes start."""
    python = os.path.realpath(sys.executable)
    before = Path(python).stat()
    daemon.begin("--name", "box1", "--health-cmd", "true", "--health-interval", "50ms", *options)
    watch = subprocess.Popen(
        ["docker", "exec", "box1", "/bin/watch", "8", f"{daemon.canary}/token"],
        env=daemon.environment | {"DOCKER_HOST": daemon.environment["PYSTACK_HOST"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(20):
        daemon.docker("exec", "box1", "true")
    daemon.docker("top", "box1")
    daemon.docker("exec", "box1", "touch", "/stop")
    text, _ = watch.communicate(timeout=20)
    counts = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()[-2:]}
    assert "CANARY" not in text
    # Whatever can be seen is confined already: tracing it would give nothing that the container has not.
    seen = {int(line.split()[1], 16) for line in text.splitlines() if line.startswith("caps ")}
    assert seen
    assert all(caps & ~(int(DEFAULT_CAPS, 16) | 1 << 19) == 0 for caps in seen), seen
    if "SYS_PTRACE" in options:  # as good as being that process: all the more must there be nothing to find
        assert counts["foreign"] > 0, "the watcher never saw one of ours"
    else:
        assert counts["denied"] > 0, "the watcher never saw one of ours"
        assert counts["foreign"] == 0, text
        assert "door" not in text
    for line in text.splitlines():
        if line.startswith("exe "):  # a sealed copy at most: F_SEAL_WRITE is 8
            assert line.startswith("exe /memfd:"), line
            assert int(line.rpartition("=")[2]) & 8 or "errno=26" in line, line
    assert Path(python).stat().st_mtime_ns == before.st_mtime_ns


def test_descriptors_are_not_a_way_out(daemon: Daemon) -> None:
    """CVE-2024-21626: working directories through /proc/self/fd."""
    daemon.begin("--name", "box1")
    up = f"../../../../../..{daemon.canary}/token"
    for number in range(3, 16, 2):
        place = f"/proc/self/fd/{number}"
        ran = daemon.docker("run", "--rm", "-w", place, "box", "cat", up, check=False)
        assert ran.returncode in {125, 126, 127}, ran
        done = daemon.docker("exec", "-w", place, "box1", "cat", up, check=False)
        assert done.returncode in {126, 127}, done
        assert SECRET not in ran.stdout + done.stdout
    assert daemon.refused("evil:cwd", "cat", up)
    for place in ("/proc/self/cwd", "/proc/1/root", "/proc/self/task/1/fd/5"):
        done = daemon.docker("exec", "-w", place, "box1", "cat", up, check=False)
        assert done.returncode in {1, 126, 127}
        assert SECRET not in done.stdout
    assert daemon.sh("/bin/pwd; readlink /proc/self/cwd", "-w", "/made/here").split() == ["/made/here"] * 2


def test_the_first_programs_own_descriptors(daemon: Daemon) -> None:
    daemon.begin("--name", "box1")
    for script in ("for n in /proc/1/fd/*; do readlink $n; done",):
        targets = daemon.exec("box1", "sh", "-c", script).split()
        assert targets[0] == "/dev/null"
        assert all(target.startswith("pipe:") for target in targets[1:3])
        assert len(targets) == 3
    assert "AWS" not in daemon.exec("box1", "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ")
    daemon.begin("--name", "box2", "--init")
    status = daemon.exec("box2", "cat", "/proc/1/status")
    facts = fields(status.splitlines())
    assert (facts["CapEff"], facts["Seccomp"], facts["Uid"].split()[0]) == (DEFAULT_CAPS, "2", "0")
    assert daemon.exec("box2", "sh", "-c", "ls /proc/1/fd; cat /proc/1/environ") == ""


def test_images_whose_program_is_the_engine(daemon: Daemon) -> None:
    """An entrypoint of /proc/self/exe executes the process that sets it up: a sealed copy that cannot even start."""
    for image in ("evil:self", "evil:shebang"):
        done = daemon.docker("run", "--rm", image, check=False)
        assert done.returncode != 0
        assert done.stdout == ""


# Users, environment, hostile images


def test_users_and_groups(daemon: Daemon) -> None:
    daemon.begin("--name", "box1")
    look = "grep -E '^(Uid|Gid|Groups)' /proc/self/status"

    def identity(*options: str) -> list[str]:
        both = [
            daemon.docker("run", "--rm", *options, "box", "sh", "-c", look).stdout,
            daemon.docker("exec", *options, "box1", "sh", "-c", look).stdout,
        ]
        assert both[0] == both[1]
        facts = fields(both[0].splitlines())
        return [facts["Uid"].split()[0], facts["Gid"].split()[0], facts["Groups"]]

    assert identity("-u", "4321:4321") == ["4321", "4321", "4321"]  # CVE-2022-36109
    assert identity("-u", "1000:1000") == ["7", "1000", "1000"]
    assert identity("-u", "bob") == ["1001", "1001", "29 555 1001"]
    assert identity("-u", "1001") == ["1001", "1001", "29 555 1001"]
    assert identity("-u", "bob:extra") == ["1001", "555", "555"]
    assert identity("-u", "1000") == ["7", "8", "8"]  # names first, as in Docker: a user may be called "1000"
    assert identity("-u", "4321") == ["4321", "0", "0"]
    added = daemon.sh(look, "-u", "1000:1000", "--group-add", "audio", "--group-add", "777")
    assert fields(added.splitlines())["Groups"] == "29 777 1000"
    for user in (
        "4294967296",
        "2147483648",
        "-1",
        "nope",
        "0:nope",
        "0:4294967296",
        "+0",
        "0x0",
        "1 000",
        "\n0",
    ):
        assert daemon.refused("-u", user, "box", "id")
        done = daemon.docker("exec", "-u", user, "box1", "id", check=False)
        assert done.returncode == 126, (user, done)
        assert "uid=" not in done.stdout
    daemon.refused("--group-add", "nope", "box", "id")


def test_user_databases_that_are_traps(daemon: Daemon) -> None:
    assert "4242" not in daemon.refused("-u", "alice", "-w", "/", "evil:links", "id")
    began = time.monotonic()
    assert "/etc/passwd" in daemon.refused("-u", "alice", "evil:fifo", "id")
    assert "/etc/group" in daemon.refused("-u", "root", "evil:group", "id")
    assert time.monotonic() - began < 5


def test_links_of_an_image_lead_nowhere(daemon: Daemon) -> None:
    options = ("-v", "vol:/evil/new", "--tmpfs", "/evil/t", "-v", "other:/dangling", "--tmpfs", "/dangling/t")
    daemon.docker("network", "create", "net1")
    daemon.begin("--name", "links", *options, image="evil:links")
    # The files of the container's network are its own, whatever stands in their place in the image.
    assert "links" not in (daemon.canary / "x").read_text()
    assert "localhost" in daemon.exec("links", "cat", "/etc/hosts", options=("-w", "/"))
    daemon.docker("network", "connect", "net1", "links")
    daemon.docker("restart", "-t", "0", "links")
    assert (
        daemon.exec("links", "sh", "-c", f"cat {daemon.canary}/token 2>&1 || true", options=("-w", "/"))
        != SECRET
    )
    assert daemon.canary_is_whole()
    daemon.docker("rm", "-f", "links")
    daemon.docker("network", "rm", "net1")
    daemon.docker("run", "--rm", "evil:volume", "ls", "/evil", check=False)
    daemon.docker("run", "--rm", "-w", "/evil/deep/er", "evil:volume", "true", check=False)
    assert daemon.canary_is_whole()


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "pts"])
def test_kernel_file_systems_only_on_ordinary_directories(daemon: Daemon, name: str) -> None:
    """Refused, or (the init layer hides the image's link) the real thing."""
    kinds = {"dev": "tmpfs", "proc": "proc", "sys": "sysfs", "pts": "devpts"}
    place = "/dev/pts" if name == "pts" else f"/{name}"
    done = daemon.docker("run", "--rm", f"evil:{name}", "grep", f" {place} ", "/proc/mounts", check=False)
    if done.returncode == 0:
        assert done.stdout.split()[2] == kinds[name]
    else:
        assert "must be an ordinary directory" in done.stderr
    daemon.docker("run", "--rm", "-t", f"evil:{name}", "true", check=False)
    assert daemon.canary_is_whole()


def test_programs_of_the_container_are_never_run_for_the_engine(daemon: Daemon) -> None:
    daemon.begin("--name", "box1", image="evil:ps")
    assert "sleep 1000" in daemon.docker("top", "box1").stdout
    daemon.docker("stats", "--no-stream", "box1")
    daemon.docker("inspect", "--size", "box1")
    daemon.docker("diff", "box1", check=False)
    daemon.docker("cp", "box1:/etc/passwd", "-", check=False)
    assert daemon.docker("exec", "box1", "ls", "/marker", check=False).returncode != 0


def test_labels_of_an_image_steer_nothing(daemon: Daemon) -> None:
    """CVE-2026-53488: `down` of a project must not take a container because of its image's labels."""
    daemon.begin("--name", "bystander", image="evil:labels")
    host = daemon.inspect("bystander")["HostConfig"]
    assert (host["RestartPolicy"]["Name"], host["LogConfig"]["Type"]) == ("no", "json-file")
    daemon.run("-p", "victim", "down", check=False)
    assert daemon.inspect("bystander")["State"]["Running"] is True


def test_line_breaks_write_nothing(daemon: Daemon) -> None:
    passwd = daemon.sh("cat /etc/passwd")
    trick = "x\nroot2::0:0::/:/bin/sh"
    assert daemon.sh("cat /etc/passwd", "-e", f"HOME={trick}", "-e", f"A={trick}") == passwd
    for option in ("--hostname", "--domainname", "--dns-search", "--dns-option", "--network-alias", "--name"):
        said = daemon.docker(
            "run",
            "--rm",
            option,
            "a\n1.2.3.4 evil",
            "box",
            "cat",
            "/etc/hosts",
            "/etc/resolv.conf",
            check=False,
        )
        assert said.returncode == 125, (option, said)
    for entry in (
        "a\n6.6.6.6 evil:1.2.3.4",
        "a:1.2.3.4\n6.6.6.6 evil",
        "a b:1.2.3.4",
        "a:fe80::1%x\n6.6.6.6 evil",
    ):
        daemon.refused("--add-host", entry, "box", "true")
    assert daemon.refused("-h", "a" * 64, "box", "true")


def test_sysctls(daemon: Daemon) -> None:
    own = ("--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.shm_rmid_forced=1")
    said = daemon.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced", *own)
    assert said.split() == ["0", "1"]
    defaults = daemon.sh(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
    )
    assert defaults.split() == ["0", "0", "2147483647"]
    core = Path("/proc/sys/kernel/core_pattern").read_text()
    for wrong in (
        *("kernel.core_pattern=|/x", "kernel.shm_rmid_forced=1+kernel.core_pattern=x", "vm.swappiness=1"),
        *("net/../kernel/core_pattern=x", "net..kernel.core_pattern=x", "fs.file-max=1", "kernel.hostname=x"),
        *("net.ipv4.no_such=1", "kernel.sem2=1"),
    ):
        daemon.refused("--sysctl", wrong, "box", "true")
    daemon.refused("--network", "host", "--sysctl", "net.ipv4.ip_forward=0", "box", "true")
    daemon.refused("--ipc", "host", "--sysctl", "kernel.shmmax=1", "box", "true")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core


# The daemon's own surface


def test_what_the_host_shows_of_the_engine(daemon: Daemon) -> None:
    daemon.begin("--name", "box1", "-e", f"S={SECRET}-env", "-v", "data:/data")
    instance = daemon.instance
    mode = stat.S_IMODE(os.stat(instance.socket).st_mode)
    assert mode in {0o600, 0o660}
    if mode == 0o600:
        with pytest.raises(PermissionError):
            _as_nobody(lambda: socket.socket(socket.AF_UNIX).connect(instance.socket))
    for place in (instance.root, f"{instance.run}/c"):
        with pytest.raises(PermissionError):
            _as_nobody(lambda place=place: os.listdir(place))  # type: ignore[misc]
    find = ["find", instance.root, "-maxdepth", "2", "-path", "*/containers*", "-perm", "/o+rwx"]
    seen = subprocess.run(find, capture_output=True, text=True, check=True).stdout.split()
    assert stat.S_IMODE(os.stat(instance.root).st_mode) == 0o700
    assert seen == [], seen
    abstract = [line for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line.split()[-1]]
    assert not [line for line in abstract if "pystack" in line or instance.run in line or instance.id in line]
    ours = {daemon.pid(), daemon.launcher_pid()}
    assert not _tcp_listeners(ours)
    arguments = subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert f"{SECRET}-env" not in arguments
    assert f"{SECRET}-env" not in daemon.log()


def test_the_engine_is_not_reached_from_inside(daemon: Daemon) -> None:
    script = "gw=$(ip r | awk '/default/{print $3}'); for p in 2375 2376 80 53; do nc -w1 $gw $p </dev/null && echo open $p; done"
    assert "open" not in daemon.sh(script, check=False)
    found = daemon.sh("grep -c '@.*pystack' /proc/net/unix; true", "--network", "host")
    assert found.splitlines()[0] == "0"


def _session_keyring() -> str:
    """The serial of this process' session keyring."""
    place = images.CACHE / "probe-here"
    place.write_bytes(isolation.program("probe"))
    place.chmod(0o755)
    return subprocess.run([place, "serial"], capture_output=True, text=True, check=True).stdout.strip()


def _as_nobody(action: Any) -> None:
    """Run `action` with the file-system rights of nobody; its PermissionError passes."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        action()
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _tcp_listeners(pids: set[int]) -> list[str]:
    """Listening TCP sockets in these processes' tables."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            inodes |= set(re.findall(r"socket:\[(\d+)\]", target))
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.append(words[1])
    return found
