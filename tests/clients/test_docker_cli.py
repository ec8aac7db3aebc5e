"""The docker command line 28, as users type it, against a real engine on the real kernel."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import harness
import pytest
from terminal import Terminal

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]


def test_version_and_info(daemon: harness.Engine) -> None:
    shown = json.loads(daemon.docker("version", "--format", "{{json .}}").stdout)
    assert shown["Server"]["ApiVersion"] == "1.50"
    assert shown["Server"]["Os"] == "linux"
    info = daemon.docker("info").stdout
    assert "Server Version:" in info
    assert "Storage Driver: overlay2" in info


def test_load_and_images(daemon: harness.Engine) -> None:
    lines = daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert {"busybox:latest", "host.local/base:latest"} <= set(lines)
    shown = json.loads(daemon.docker("image", "inspect", "busybox").stdout)[0]
    assert shown["Config"]["Cmd"] == ["sh"]
    daemon.docker("tag", "busybox", "mine:1")
    assert "Untagged: mine:1" in daemon.docker("rmi", "mine:1").stdout
    assert "busybox" in daemon.docker("images", "busybox").stdout
    assert daemon.docker("history", "-q", "busybox").stdout.strip()


def test_run_in_the_foreground(daemon: harness.Engine) -> None:
    done = daemon.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert daemon.docker("ps", "-aq").stdout == ""


def test_run_reads_standard_input(daemon: harness.Engine) -> None:
    text = "".join(f"line {n}\n" for n in range(20_000))
    done = daemon.docker("run", "--rm", "-i", "busybox", "cat", input=text)
    assert done.stdout == text


def test_environment_volumes_and_names(daemon: harness.Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    (tmp_path / "file").chmod(0o644)
    tmp_path.chmod(0o755)
    script = "echo $A; cat /bind/file; touch /bind/y 2>/dev/null || echo read-only; hostname; id -u; ls -d /scratch"
    done = daemon.docker(
        *("run", "--rm", "--name", "worker", "-h", "box", "-u", "12", "-e", "A=b c"),
        *("-v", f"{tmp_path}:/bind:ro", "--tmpfs", "/scratch", "busybox", "sh", "-c", script),
    )
    assert done.stdout.splitlines() == ["b c", "from the host", "read-only", "box", "12", "/scratch"]
    daemon.docker("run", "--rm", "-v", "data:/vol", "busybox", "sh", "-c", "echo kept > /vol/x")
    assert daemon.docker("run", "--rm", "-v", "data:/vol", "busybox", "cat", "/vol/x").stdout == "kept\n"
    assert "data" in daemon.docker("volume", "ls", "-q").stdout.split()
    daemon.docker("volume", "rm", "data")


def test_errors_of_run(daemon: harness.Engine) -> None:
    missing = daemon.docker("run", "--rm", "busybox", "nosuch", check=False)
    assert missing.returncode == 127
    assert "executable file not found" in missing.stderr
    denied = daemon.docker("run", "--rm", "busybox", "/etc/passwd", check=False)
    assert denied.returncode == 126
    unknown = daemon.docker("run", "--rm", "nosuch:1", check=False)
    assert unknown.returncode == 125
    assert "does not talk to registries" in unknown.stderr
    mount = daemon.docker(
        "run", "--rm", "--mount", "type=bind,source=/nosuch/dir,target=/x", "busybox", "true", check=False
    )
    assert mount.returncode == 125
    assert "bind source path does not exist: /nosuch/dir" in mount.stderr


def test_detached_life(daemon: harness.Engine) -> None:
    identifier = daemon.docker("run", "-d", "--name", "life", "busybox", "sleep", "1000").stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", identifier)
    line = daemon.docker(
        "ps", "--no-trunc", "--format", "{{.ID}}|{{.Names}}|{{.Status}}|{{.Command}}"
    ).stdout.strip()
    assert re.fullmatch(rf'{identifier}\|life\|Up (Less than a second|\d+ seconds?)\|"sleep 1000"', line)
    taken = daemon.docker("run", "-d", "--name", "life", "busybox", check=False)
    assert "is already in use by container" in taken.stderr
    daemon.docker("pause", "life")
    assert "(Paused)" in daemon.docker("ps", "--format", "{{.Status}}").stdout
    daemon.docker("unpause", "life")
    daemon.docker("rename", "life", "death")
    assert "sleep" in daemon.docker("top", "death").stdout
    began = time.monotonic()
    daemon.docker("stop", "death")
    assert time.monotonic() - began < 3, "sleep as PID 1 cannot react to SIGTERM: no reason to wait"
    assert "Exited (137)" in daemon.docker("ps", "-a", "--format", "{{.Status}}").stdout
    daemon.docker("start", "death")
    daemon.docker("restart", "-t", "1", "death")
    daemon.docker("kill", "-s", "KILL", "death")
    assert daemon.docker("wait", "death").stdout.strip() == "137"
    refused = daemon.docker("kill", "death", check=False)
    assert "is not running" in refused.stderr
    daemon.docker("rm", "death")
    assert "No such container" in daemon.docker("inspect", "--type=container", "death", check=False).stderr


def test_running_containers_are_removed_by_force_only(daemon: harness.Engine) -> None:
    daemon.docker("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
    refused = daemon.docker("rm", "stays", check=False)
    assert refused.returncode == 1
    assert "container is running" in refused.stderr
    daemon.docker("rm", "-f", "stays")
    assert daemon.docker("ps", "-aq").stdout == ""


def test_inspect(daemon: harness.Engine) -> None:
    daemon.docker(
        "run", "-d", "--name", "looked-at", "-p", "127.0.0.1::80", "-v", "/anon", "busybox", "sleep", "1000"
    )
    shown = json.loads(daemon.docker("inspect", "looked-at").stdout)[0]
    assert shown["Name"] == "/looked-at"
    assert shown["State"]["Status"] == "running"
    assert shown["State"]["Pid"] > 1
    assert shown["HostConfig"]["NetworkMode"] == "bridge"
    assert (
        shown["NetworkSettings"]["IPAddress"]
        == shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        != ""
    )
    [port] = shown["NetworkSettings"]["Ports"]["80/tcp"]
    assert (port["HostIp"], int(port["HostPort"]) > 0) == ("127.0.0.1", True)
    assert [m["Destination"] for m in shown["Mounts"]] == ["/anon"]
    assert daemon.docker("port", "looked-at", "80").stdout.strip() == f"127.0.0.1:{port['HostPort']}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_published_ports(daemon: harness.Engine) -> None:
    port = free_port()
    serve = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    daemon.docker("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "busybox", "sh", "-c", serve)

    def answer() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b""
                while piece := sock.recv(65536):
                    data += piece
                return data
        except OSError:
            return b""

    body = harness.wait_until(answer, what="an answer of the published port")
    assert body.endswith(b"hello\n")


def test_logs(daemon: harness.Engine) -> None:
    daemon.docker("run", "--name", "talks", "busybox", "sh", "-c", "echo a; echo b >&2; sleep 0.1; echo c")
    done = daemon.docker("logs", "talks")
    assert (sorted(done.stdout.split()), done.stderr) == (["a", "c"], "b\n")
    assert daemon.docker("logs", "-n", "1", "talks").stdout == "c\n"
    assert re.match(r"2\d{3}-\d\d-\d\dT[\d:]{8}\.\d{9}Z a\n", daemon.docker("logs", "-t", "talks").stdout)


def test_logs_are_followed_to_the_end(daemon: harness.Engine) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    daemon.docker("run", "-d", "--name", "slow", "busybox", "sh", "-c", script)
    began = time.monotonic()
    assert daemon.docker("logs", "-f", "slow").stdout == "1\n2\n3\n"
    assert time.monotonic() - began < 5


def test_exec(daemon: harness.Engine) -> None:
    daemon.docker("run", "-d", "--name", "host", "-e", "FROM=run", "busybox", "sleep", "1000")
    done = daemon.docker(
        "exec", "-e", "B=2", "-w", "/tmp", "host", "sh", "-c", "echo $FROM $B $PWD; exit 5", check=False
    )
    assert (done.stdout, done.returncode) == ("run 2 /tmp\n", 5)
    assert daemon.docker("exec", "-i", "host", "cat", input="piped").stdout == "piped"
    missing = daemon.docker("exec", "host", "nosuch", check=False)
    assert missing.returncode == 127
    daemon.docker("exec", "-d", "host", "touch", "/made")
    harness.wait_until(
        lambda: daemon.docker("exec", "host", "ls", "/made", check=False).returncode == 0, what="/made"
    )
    daemon.docker("stop", "-t", "0", "host")
    refused = daemon.docker("exec", "host", "true", check=False)
    assert "is not running" in refused.stderr


def test_run_with_a_terminal(daemon: harness.Engine) -> None:
    terminal = Terminal(daemon, "run", "-it", "--rm", "--name", "shell", "busybox", "sh")
    terminal.expect(b"/ # ")
    if harness.client_version() >= 24:  # it asks for the size before the start; an older one, some time after
        terminal.send(b"stty size; tty\r")
    else:
        terminal.send(b'until [ "$(stty size)" = "33 101" ]; do sleep 0.1; done; stty size; tty\r')
    terminal.expect(b"\n33 101")
    terminal.expect(b"/dev/pts/0")
    terminal.send(b"exit 4\r")
    assert terminal.wait() == 4
    assert daemon.docker("ps", "-aq").stdout == ""


def test_exec_with_a_terminal(daemon: harness.Engine) -> None:
    daemon.docker("run", "-d", "--name", "host", "busybox", "sleep", "1000")
    terminal = Terminal(daemon, "exec", "-it", "host", "sh")
    terminal.expect(b"/ # ")
    wait = (
        b""
        if harness.client_version() >= 24
        else b'until [ "$(stty size)" = "33 101" ]; do sleep 0.1; done; '
    )
    terminal.send(wait + b"test -t 0 && echo it is; stty size\r")
    terminal.expect(b"it is\r\n")
    terminal.expect(b"33 101")
    terminal.expect(b"/ # ")
    terminal.send(b"\x04")
    assert terminal.wait() == 0


def test_detach_and_attach(daemon: harness.Engine) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "shell", "busybox", "sh")
    terminal.expect(b"/ # ")
    terminal.send(b"\x10\x11")
    assert terminal.wait() == 0
    assert daemon.docker("ps", "--format", "{{.Names}}").stdout == "shell\n"
    again = Terminal(daemon, "attach", "shell")
    again.send(b"echo $((6*7))\r")
    again.expect(b"42\r\n")
    again.send(b"exit\r")
    assert again.wait() == 0


def test_events(daemon: harness.Engine) -> None:
    since = f"{time.time():.9f}"
    daemon.docker("run", "--rm", "--name", "short", "busybox", "true")
    harness.wait_until(lambda: daemon.docker("ps", "-aq").stdout == "", what="removal")
    until = f"{time.time():.9f}"
    done = daemon.docker("events", "--since", since, "--until", until, "--format", "{{.Type}} {{.Action}}")
    seen = done.stdout.splitlines()
    containers = [line.split()[1] for line in seen if line.startswith("container ")]
    assert containers == ["create", "attach", "start", "die", "destroy"]
    assert "network connect" in seen
    assert "network disconnect" in seen


def test_networks(daemon: harness.Engine) -> None:
    names = set(daemon.docker("network", "ls", "--format", "{{.Name}}").stdout.split())
    assert {"bridge", "host", "none"} <= names
    daemon.docker("network", "create", "--label", "a=b", "front")
    try:
        duplicate = daemon.docker("network", "create", "front", check=False)
        assert "already exists" in duplicate.stderr
        daemon.docker(
            "run",
            "-d",
            "--name",
            "one",
            "--network",
            "front",
            "--network-alias",
            "uno",
            "busybox",
            "sleep",
            "1000",
        )
        found = daemon.docker(
            "run", "--rm", "--network", "front", "busybox", "ping", "-c", "1", "-W", "2", "uno"
        )
        assert "1 packets received" in found.stdout
        shown = json.loads(daemon.docker("network", "inspect", "front").stdout)[0]
        assert [c["Name"] for c in shown["Containers"].values()] == ["one"]
        busy = daemon.docker("network", "rm", "front", check=False)
        assert "has active endpoints" in busy.stderr
        daemon.docker("rm", "-f", "one")
    finally:
        daemon.docker("rm", "-f", "one", check=False)
        daemon.docker("network", "rm", "front")
    assert "front" not in daemon.docker("network", "ls", "--format", "{{.Name}}").stdout.split()


def test_volumes(daemon: harness.Engine) -> None:
    assert daemon.docker("volume", "create", "--label", "x=y", "vol").stdout == "vol\n"
    shown = json.loads(daemon.docker("volume", "inspect", "vol").stdout)[0]
    assert (shown["Driver"], shown["Labels"]) == ("local", {"x": "y"})
    daemon.docker("run", "-d", "--name", "user", "-v", "vol:/v", "busybox", "sleep", "1000")
    busy = daemon.docker("volume", "rm", "vol", check=False)
    assert "volume is in use" in busy.stderr
    daemon.docker("rm", "-f", "user")
    daemon.docker("volume", "rm", "vol")
    assert daemon.docker("volume", "ls", "-q").stdout == ""


def test_stats(daemon: harness.Engine) -> None:
    daemon.docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    line = daemon.docker("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}").stdout.strip()
    assert line == "busy 1"


def test_what_is_not_there_yet_says_so(daemon: harness.Engine, tmp_path: Path) -> None:
    for arguments in (
        ("pull", "alpine"),
        ("save", "-o", str(tmp_path / "image.tar"), "host.local/base"),
        ("search", "x"),
        ("swarm", "init"),
    ):
        done = daemon.docker(*arguments, check=False)
        assert done.returncode != 0
        assert "Error" in done.stderr
        assert "Traceback" not in done.stderr
