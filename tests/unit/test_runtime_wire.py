"""Messages and fds over SEQPACKET sockets; what the launcher may import; what a process can react to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pystack
from pystack.engine.runtime import init, record, wire
from pystack.kernel import mounts, syscalls
from pystack.kernel.cgroup_entry import oom_kills
from pystack.kernel.process import can_react_to, is_alive, sealed_copy, socket_address, start_time

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield left, right
    left.close()
    right.close()


def test_a_message_and_its_fds(pair: Pair) -> None:
    read, write = os.pipe()
    wire.send(pair[0], {"a": ["é", None, 1]}, [write])
    message, fds = wire.receive(pair[1])
    assert message == {"a": ["é", None, 1]}
    assert len(fds) == 1
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(read, 9) == b"x"
    wire.close_all([read, write, *fds])


def test_a_long_message_travels_in_a_memfd(pair: Pair) -> None:
    read, write = os.pipe()
    big = {"big": "x" * 1_000_000}
    wire.send(pair[0], big, [read])
    body, fds = wire.receive_packet(pair[1])
    assert len(body) < 100
    assert len(fds) == 2
    assert wire.decode(body, fds) == big
    assert len(fds) == 1
    wire.close_all([read, write, *fds])


def test_the_end_and_garbage(pair: Pair) -> None:
    pair[0].send(b"no json")
    with pytest.raises(ValueError, match="not JSON"):
        wire.receive(pair[1])
    pair[0].send(b"[]")
    with pytest.raises(ValueError, match="not an object"):
        wire.receive(pair[1])
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])


def test_the_launcher_imports_a_short_list() -> None:
    """STYLE rule 12: what is forked into containers stays small and of the standard library."""
    source = Path(pystack.__file__).parent.parent
    code = (
        f"import sys; sys.path.append({str(source)!r}); import pystack.engine.runtime.launcher;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, text=True
    ).stdout
    allowed = {
        "__future__", "__main__", "abc", "array", "base64", "binascii", "builtins", "codecs", "collections", "contextlib",
        "copyreg", "ctypes", "encodings", "enum", "errno", "fcntl", "functools", "gc", "genericpath", "io", "itertools",
        "json", "keyword", "marshal", "math", "operator", "os", "posix", "posixpath", "pystack", "re", "reprlib", "resource",
        "select", "selectors", "signal", "socket", "stat", "struct", "sys", "termios", "time", "types", "zipimport", "zlib",
        "sitecustomize", "usercustomize",
    }  # fmt: skip
    assert {name for name in output.split() if not name.startswith("_")} <= allowed


def test_exit_records(tmp_path: Path) -> None:
    assert record.load(str(tmp_path)) is None
    made = record.make(container_id="c", run=3, pid=9, status=7 << 8)
    assert (made["exit_code"], made["signal"], made["error"]) == (7, 0, "")
    record.save(str(tmp_path), made)
    assert record.load(str(tmp_path)) == made
    assert os.listdir(tmp_path) == ["exit.json"]
    killed = record.make(container_id="c", run=3, pid=9, status=9, oom_killed=True)
    assert (killed["exit_code"], killed["signal"], killed["oom_killed"]) == (137, 9, True)
    failed = record.make(container_id="c", run=3, pid=9, status=127, error="nope")
    assert (failed["exit_code"], failed["signal"], failed["error"]) == (127, 0, "nope")


def test_oom_kills_are_read_from_either_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert oom_kills([str(tmp_path / "none"), str(tmp_path / "v1")]) == 2
    assert oom_kills([str(tmp_path / "v2")]) == 1
    assert oom_kills([]) == 0


def test_what_a_process_can_react_to() -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: None); signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        pidfd = os.pidfd_open(process.pid)
        assert can_react_to(process.pid, signal.SIGTERM)
        assert can_react_to(process.pid, signal.SIGUSR1)
        assert not can_react_to(process.pid, signal.SIGHUP)
        assert not can_react_to(process.pid, signal.SIGUSR2)
        assert is_alive(pidfd)
        assert start_time(process.pid) >= start_time(os.getpid())
        process.kill()
        process.wait()
        assert not is_alive(pidfd)
        assert not can_react_to(process.pid, signal.SIGTERM)
        os.close(pidfd)


def test_a_process_in_sigwait_can_react() -> None:
    code = "import signal; signal.pthread_sigmask(0, [15]); print(flush=True); signal.sigwait([15])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        for _ in range(100):
            if (
                Path(f"/proc/{process.pid}/syscall")
                .read_text()
                .startswith(str(syscalls.NUMBERS["rt_sigtimedwait"]))
            ):
                break
            time.sleep(0.01)
        assert "SigBlk:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text()
        assert can_react_to(process.pid, signal.SIGTERM)
        process.terminate()
        assert process.wait() == 0


@pytest.mark.skipif(not (shutil.which("as") and shutil.which("objcopy")), reason="needs binutils")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the source is for x86_64")
def test_the_init_is_what_its_source_says(tmp_path: Path) -> None:
    source = Path(init.__file__).parent / "init_x86_64.S"
    subprocess.run(["as", source, "-o", tmp_path / "o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "o", tmp_path / "bin"], check=True)
    assert (tmp_path / "bin").read_bytes() == init.CODE["x86_64"]


def test_a_sealed_copy_cannot_be_changed(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"#!content" * 1000)
    fd = sealed_copy(str(tmp_path / "program"))
    assert os.pread(fd, 9, 0) == b"#!content"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


def test_long_socket_paths(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as sock:
        with socket_address(str(deep / "s")) as address:
            sock.bind(address)
        assert (deep / "s").is_socket()


def test_targets_are_made_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/abs").symlink_to("/run/data")
    (tmp_path / "root/up").symlink_to("../../outside")
    (tmp_path / "root/loop").symlink_to("loop")
    root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    os.close(mounts.make_in_root(root, b"/a/b/c", directory=True))
    os.close(mounts.make_in_root(root, b"/abs/file", directory=False))
    os.close(mounts.make_in_root(root, b"/up/x", directory=True))
    assert (tmp_path / "root/a/b/c").is_dir()
    assert (tmp_path / "root/run/data/file").is_file()
    assert (tmp_path / "root/outside/x").is_dir()
    assert os.listdir(tmp_path / "outside") == []
    with pytest.raises(OSError, match="symbolic links"):
        mounts.make_in_root(root, b"/loop/x", directory=True)
    os.close(root)


def test_mount_flags_as_attributes() -> None:
    assert mounts.attributes(syscalls.MS_RDONLY | syscalls.MS_NOSUID) == 3
    assert mounts.attributes(0) == 0


def test_the_launcher_refuses_garbage_without_json() -> None:
    """There the C scanner finds no exception class to raise: it must come out as ValueError all the same."""
    source = Path(pystack.__file__).parent.parent
    code = (
        f"import sys; sys.path.append({str(source)!r}); from pystack.engine.runtime import launcher, wire;"
        "sys.path.clear(); sys.meta_path.clear(); assert 'json' not in sys.modules\n"
        'for body in (b\'{"a"\', b"x", b\'{"a":}\', b"[1]", b\'{"a":1}x\', b"\\xff", b""):\n'
        "    try:\n        print(wire.decode(body, []))\n"
        "    except ValueError:\n        print('refused')\n"
        'print(wire.decode(wire.encode({"é": [1, 2.5, None, "\\x01"]}).encode(), []))'
    )
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", code], capture_output=True, check=True, text=True
    ).stdout
    assert output.splitlines() == ["refused"] * 7 + [str({"é": [1, 2.5, None, "\x01"]})]
