"""Ways out of a container that others left open, tried through the real docker client: each names its CVE where it has one."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import pytest
from hostile import SECRET, Daemon, hostile_daemon  # noqa: F401 - the fixture `daemon`
from isolation import fields

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

DEFAULT_CAPS = "00000000a80425fb"


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


def test_a_shared_volume_that_changes_under_a_start(daemon: Daemon) -> None:
    """CVE-2021-30465: the mount's target is a directory when it is looked at and a link to the host when it is used."""
    swap = (
        f"cd /v; mkdir d; ln -s {daemon.canary} l; while :; do mv d sub; mv sub d; mv l sub; mv sub l; done"
    )
    daemon.begin("--name", "swapper", "-v", "shared:/v", command=("sh", "-c", f"exec 2>/dev/null; {swap}"))
    look = f"cat /v/sub/token {daemon.canary}/token 2>&1; grep -c canary /proc/self/mountinfo"
    codes = set()
    for _ in range(12):
        done = daemon.docker(
            *(
                "run",
                "--rm",
                "-v",
                "shared:/v",
                "-v",
                "other:/v/sub",
                "--tmpfs",
                "/v/sub/t",
                "box",
                "sh",
                "-c",
                look,
            ),
            check=False,
        )
        assert SECRET not in done.stdout
        codes.add(done.returncode)
    assert codes <= {0, 1, 125, 126, 127}, codes
    assert str(daemon.canary) not in Path("/proc/self/mountinfo").read_text()
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
        # An old client does not send an alias that the default network has no use for.
        kept = option == "--network-alias" and harness.client_version() < 24 and "evil" not in said.stdout
        assert said.returncode == 125 or kept, (option, said)
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
