"""An engine with a hostile parent, and images for every trick: what the isolation tests look at from inside.

The daemon inherits descriptors of the host's root, secrets in its environment, blocked and ignored signals, supplementary
groups and an OOM score. Nothing of that may arrive in a container, and nothing may touch the canary directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import harness
import images
import isolation
import oracle
import pytest

SECRET = "leaked-5f2c1d"

#: Descriptors 3 to 20 of the host's root, ignored signals: what a careless service manager hands down.
_START = """
trap '' ALRM USR1 PIPE; umask 0; for n in {3..20}; do eval "exec $n</"; done; exec "$@"
"""


class Daemon(harness.Engine):
    """An engine with a hostile parent and a canary directory that nothing may read or change."""

    #: A command that executes the daemon.
    wrapper: tuple[str, ...] = ()

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
                [
                    *self.wrapper,
                    "bash",
                    "-c",
                    _START,
                    "bash",
                    sys.executable,
                    "-P",
                    "-m",
                    "pystack",
                    "daemon",
                ],
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


_D = TypeVar("_D", bound=Daemon)


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


@pytest.fixture(scope="module", name="daemon")
def hostile_daemon() -> Iterator[Daemon]:
    with running(Daemon) as made:
        yield made


@contextmanager
def running(kind: type[_D]) -> Iterator[_D]:
    """A daemon with the images, and nothing of it left afterwards."""
    base = Path(tempfile.mkdtemp(prefix="pystack-isolation-", dir="/var/tmp"))
    base.chmod(0o755)
    made = kind(base)
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
