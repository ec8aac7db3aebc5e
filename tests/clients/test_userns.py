"""`userns-remap`: containers whose root is nobody on the host, through the real docker client.

The daemon has /etc/subuid and /etc/subgid of its own, in a mount namespace of its own.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from hostile import SECRET, Daemon, running
from isolation import fields, sections

pytestmark = [pytest.mark.clients, pytest.mark.timeout(180)]

BASE, COUNT = 200_000, 65_536
_PRIVATE = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'


class Remapped(Daemon):
    """Containers' ids begin at BASE."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.subid = base / "subid"
        self.subid.write_text(f"other:1:5\nnobody:{BASE}:{COUNT}\n")
        self.wrapper = ("unshare", "-m", "--propagation", "slave", "sh", "-c", _PRIVATE, str(self.subid))

    def start(self, **env: str) -> int:
        Path(self.instance.root, "daemon.json").write_text(json.dumps({"userns-remap": "nobody"}))
        return super().start(**env)

    def stop(self) -> None:
        super().stop()
        Path(self.instance.root, "daemon.json").unlink(missing_ok=True)


@pytest.fixture(scope="module", name="daemon")
def remapped_daemon() -> Iterator[Remapped]:
    if not (os.path.exists("/etc/subuid") and os.path.exists("/etc/subgid")):
        pytest.skip("no /etc/subuid and /etc/subgid to mount over: apt-get install passwd")
    with running(Remapped) as made:
        yield made


def host_ids(daemon: Remapped, name: str) -> list[str]:
    pid = daemon.inspect(name)["State"]["Pid"]
    status = fields(Path(f"/proc/{pid}/status").read_text().splitlines())
    return [status["Uid"].split()[0], status["Gid"].split()[0]]


def test_every_way_in_has_the_ids(daemon: Remapped) -> None:
    """PID 1, exec, probe, init; with a terminal; after another daemon took over."""
    look = "cat /proc/self/uid_map /proc/self/gid_map; id -u; readlink /proc/self/ns/user; cat /proc/self/setgroups"
    probe = f"({look}) > /tmp/h; mv /tmp/h /tmp/health"
    daemon.begin(
        *("--name", "box1", "--health-cmd", probe, "--health-interval", "300ms", "--init"),
        command=("sh", "-c", f"({look}) > /tmp/first; exec sleep 1000"),
    )
    assert host_ids(daemon, "box1") == [str(BASE)] * 2

    def kept(name: str) -> list[str]:
        return harness.wait_until(
            lambda: daemon.exec("box1", "sh", "-c", f"cat /tmp/{name} 2>/dev/null", check=False), what=name
        ).split()

    first = kept("first")
    assert first[:7] == ["0", str(BASE), str(COUNT)] * 2 + ["0"]
    assert first[7] != os.readlink("/proc/self/ns/user")
    assert first[8] == "allow"
    assert daemon.exec("box1", "sh", "-c", look).split() == first
    assert kept("health") == first
    daemon.restart()
    assert daemon.exec("box1", "sh", "-c", look).split() == first
    terminal = daemon.docker(
        "exec", "-t", "box1", "sh", "-c", "tty; stat -c '%u %g %a' $(tty)"
    ).stdout.split()
    assert terminal == ["/dev/pts/0", "0", "5", "620"]
    daemon.exec("box1", "rm", "/tmp/health")
    assert kept("health") == first
    daemon.docker("restart", "-t", "0", "box1")
    assert daemon.exec("box1", "id", "-u", options=("-u", "1002")) == "1002\n"
    own = daemon.exec("box1", "readlink", "/proc/self/ns/user").strip()
    assert daemon.sh("readlink /proc/self/ns/user").strip() not in {own, os.readlink("/proc/self/ns/user")}


def test_what_confines_holds_too(daemon: Remapped) -> None:
    report = sections(daemon.sh("/report"))
    status = fields(report["status"])
    assert status["CapEff"] == status["CapBnd"] == "00000000a80425fb"
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("0", "2", "0022")
    assert status["Groups"].split() == ["0", "29"]
    assert (report["masked"], report["shared"]) == ([], ["0"])
    assert all(
        line.endswith("Permission denied") for line in report["writes"]
    )  # root's files, before their mounts
    assert report["links"] == ["eth0", "lo"]
    assert len(report["fds"]) <= 4
    own = {"/", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
    assert {p for p in report["points"] if not p.startswith(("/proc", "/sys", "/dev"))} == own
    nodes = {line.split()[0]: line.split()[1:] for line in report["dev"] if " " in line}
    assert nodes["/dev/null"] == ["1:3", "666", "0:0"]
    # Rights over the namespaces that are its own, and none over the rest: nothing is unmounted, nothing is the host's.
    admin = ("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE")
    script = "hostname changed && hostname; ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu; mount -t tmpfs t /mnt && grep -c ' /mnt ' /proc/mounts"
    assert daemon.sh(f"mkdir -p /mnt; {script}", *admin).split() == ["changed", "1400", "1"]
    closed = """
        for d in /proc/kcore /proc/keys /proc/sys /sys/firmware /sys; do umount $d && echo OPEN; done
        for d in /proc/sys /sys/firmware /sys; do mount -o remount,rw,bind $d && echo OPEN; done
        mknod /x c 1 3; echo x > /proc/sys/kernel/core_pattern; echo 1 > /proc/sys/kernel/panic
        mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c && echo OPEN
    """
    said = daemon.sh(closed, *admin, check=False)
    assert "OPEN" not in said
    assert "mknod: /x: Operation not permitted" in said
    ping = daemon.sh(
        "ping -c1 -W5 127.0.0.1 >/dev/null && echo up; nc -l -p 80 -w 1 </dev/null; echo $?", check=False
    )
    assert "up" in ping


def test_files_keep_the_containers_ids(daemon: Remapped, tmp_path: Path) -> None:
    """Image, own layer, volumes, secrets: as with the host's ids. A bind shows whose the host's files are not."""
    script = "touch /r; chown 1000:29 /r; touch /v/f; chown 1001:1001 /v/f; stat -c '%n %u:%g' / /etc/passwd /etc/hosts /bin/sh /r /v /v/f; echo x >> /etc/hosts; touch /etc/passwd"
    daemon.begin("--name", "box1", "-v", "data:/v")
    said = daemon.exec("box1", "sh", "-c", script).splitlines()
    assert said == [f"{n} 0:0" for n in ("/", "/etc/passwd", "/etc/hosts", "/bin/sh")] + [
        "/r 1000:29",
        "/v 0:0",
        "/v/f 1001:1001",
    ]
    upper = Path(daemon.instance.root, "containers", daemon.inspect("box1")["Id"], "u")
    assert ((upper / "r").stat().st_uid, (upper / "r").stat().st_gid) == (1000, 29)
    assert Path(daemon.instance.root, "volumes/data/_data/f").stat().st_uid == 1001
    # The same volume in a container with the host's ids, and back.
    again = "stat -c %u /v/f; touch /v/g; readlink /proc/self/ns/user"
    host = daemon.sh(again, "-v", "data:/v", "--userns", "host").split()
    assert host == ["1001", os.readlink("/proc/self/ns/user")]
    assert daemon.sh("stat -c '%n %u' /v/*", "-v", "data:/v").splitlines() == ["/v/f 1001", "/v/g 0"]
    # Copy-up, diff and archives speak of the container's ids, whether it runs or not.
    (tmp_path / "in").write_text("copied")
    daemon.docker("cp", str(tmp_path / "in"), "box1:/live")
    assert daemon.exec("box1", "stat", "-c", "%u:%g", "/live") == "0:0\n"
    for what in (("cp", "box1:/r", "-"), ("export", "box1")):
        stream = subprocess.run(
            ["docker", *what],
            env=daemon.environment | {"DOCKER_HOST": daemon.environment["PYSTACK_HOST"]},
            capture_output=True,
            check=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
            assert (archive.getmember("r").uid, archive.getmember("r").gid) == (1000, 29)
    daemon.docker("kill", "box1")
    daemon.docker("cp", str(tmp_path / "in"), "box1:/copied")
    daemon.docker("start", "box1")
    assert (
        daemon.exec("box1", "sh", "-c", "cat /copied; stat -c ' %u:%g' /copied /r")
        == "copied 0:0\n 1000:29\n"
    )
    assert "C /etc/hosts" not in daemon.docker("diff", "box1").stdout
    # A bind of the host's: root's files are nobody's in there, and safe.
    tmp_path.chmod(0o755)
    secret, public = tmp_path / "secret", tmp_path / "public"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    public.mkdir()
    public.chmod(0o777)
    said = daemon.sh(
        "cat /b/secret; touch /b/new; touch /b/public/mine; stat -c %u /b/secret",
        "-v",
        f"{tmp_path}:/b",
        check=False,
    )
    assert said.count("Permission denied") == 2
    assert said.splitlines()[-1] == "65534"
    assert (public / "mine").stat().st_uid == BASE
    tmpfs = daemon.sh("stat -c '%u:%g %a' /t /dev/shm", "--tmpfs", "/t:uid=7,gid=8,mode=700").splitlines()
    assert tmpfs == ["7:8 700", "0:0 1777"]


def test_the_hosts_usr_as_an_image(daemon: Remapped) -> None:
    said = daemon.docker(
        "run", "--rm", "host.local/base", "stat", "-c", "%u:%g %n", "/usr/bin/env", "/etc/passwd", "/"
    )
    assert {line.split()[0] for line in said.stdout.splitlines()} == {"0:0"}
    denied = daemon.docker("run", "--rm", "host.local/base", "touch", "/usr/bin/new", check=False)
    assert "Read-only file system" in denied.stderr


def test_who_joins_a_namespace_joins_the_user_namespace(daemon: Remapped) -> None:
    daemon.begin("--name", "donor", "--ipc", "shareable")
    names = "for n in net pid ipc user; do readlink /proc/self/ns/$n; done; touch /dev/shm/x; ls -ln /dev/shm/x | cut -d' ' -f1"
    donor = daemon.exec("donor", "sh", "-c", names).splitlines()
    shared = ("--network", "container:donor", "--pid", "container:donor", "--ipc", "container:donor")
    assert daemon.sh(names, *shared).splitlines()[:4] == donor[:4]
    changed = daemon.sh(
        "ip link set lo mtu 1300; cat /sys/class/net/lo/mtu", *shared[:2], "--cap-add", "NET_ADMIN"
    )
    assert changed == "1300\n"
    published = daemon.begin(
        "--name", "web", "-p", "127.0.0.1::80", command=("httpd", "-f", "-p", "80", "-h", "/etc")
    )
    port = daemon.docker("port", published, "80").stdout.split(":")[-1].strip()
    import urllib.request

    def served() -> str:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5).read().decode()
        except OSError:
            return ""

    assert harness.wait_until(served, what="the published port") == f"{published[:12]}\n"


def test_what_needs_the_hosts_ids_is_refused(daemon: Remapped) -> None:
    for options, message in (
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ):
        assert message in daemon.refused(*options, "box", "true")
        assert daemon.sh("readlink /proc/self/ns/user", *options, "--userns", "host").strip() == os.readlink(
            "/proc/self/ns/user"
        )
    assert daemon.docker("run", "--rm", "-u", "65535", "box", "id", "-u").stdout == "65535\n"
    daemon.refused("-u", "65536", "box", "true")
