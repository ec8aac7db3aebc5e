"""A client under a pseudo-terminal: what is typed goes in, what it shows comes out."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time

import harness


class Terminal:
    """`docker …` under a pseudo-terminal."""

    def __init__(self, daemon: harness.Engine, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (33, 101))
        environment = daemon.environment | {
            "DOCKER_HOST": daemon.environment["PYSTACK_HOST"],
            "TERM": "xterm",
        }
        self.process = subprocess.Popen(
            ["docker", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def send(self, text: bytes) -> None:
        os.write(self.master, text)

    def expect(self, text: bytes, within: float = 15) -> bytes:
        deadline = time.monotonic() + within
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come; seen {self.seen!r}"
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if not ready:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            assert data or text in self.seen, f"ended without {text!r}; seen {self.seen!r}"
            self.seen += data
        before, self.seen = self.seen.split(text, 1)
        return before

    def wait(self, within: float = 15) -> int:
        try:
            return self.process.wait(within)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)
