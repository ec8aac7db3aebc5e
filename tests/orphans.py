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
    """Reap what came to us because its parent has ended. What tests themselves started is in our session.

    All of it: PID 1 of a pid namespace cannot end before every process that a shim brought into it has been reaped.
    """
    ours = str(os.getsid(0))
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue  # the thread has ended since it was listed
        for pid in children:
            try:
                state, _, _, session = (
                    Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split(maxsplit=4)[:4]
                )
                if state == "Z" and session != ours:
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
