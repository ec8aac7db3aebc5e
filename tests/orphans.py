"""Orphans of a test's engine become children of the test and are reaped at once, as under a real init."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def reap() -> None:
    """Reap daemons, launchers and shims whose parent has ended: they lead a session; what tests started is in ours."""
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            try:
                state, _, _, session = (
                    Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split(maxsplit=4)[:4]
                )
                if state == "Z" and session == pid:
                    os.waitpid(int(pid), os.WNOHANG)
            except (OSError, ValueError):
                continue


@contextmanager
def adopt_orphans() -> Iterator[None]:
    """This process is the parent of orphans below it, and reaps them."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            reap()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
