"""exit.json: how a container's run ended, made durable by its shim before anyone learns of the exit. Stdlib only."""

from __future__ import annotations

import os
import time

from pystack.engine.runtime import wire
from pystack.engine.runtime.logfile import timestamp
from pystack.kernel.failpoints import failpoint

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from pystack.engine.runtime.bundle import ExitRecord

NAME = "exit.json"


def make(
    *, container_id: str, run: int, pid: int, status: int, error: str = "", oom_killed: bool = False
) -> ExitRecord:
    """The record for a wait status, or, with `error`, for a start that failed with exit code `status`."""
    signal = 0
    if not error:
        code = os.waitstatus_to_exitcode(status)
        signal = -code if code < 0 else 0
        status = 128 + signal if signal else code
    return {
        "id": container_id,
        "run": run,
        "pid": pid,
        "exit_code": status,
        "signal": signal,
        "oom_killed": oom_killed,
        "finished_at": timestamp(time.time_ns()),
        "error": error,
    }


def save(directory: str, record: ExitRecord) -> None:
    """Write it whole or not at all: temporary file, fsync, rename."""
    temporary = f"{directory}/.{NAME}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, wire.encode(record).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    failpoint("shim.exit.written")
    os.rename(temporary, f"{directory}/{NAME}")
    failpoint("shim.exit.recorded")


def load(directory: str) -> ExitRecord | None:
    """The record of the container's last run that ended, None if there is none."""
    try:
        with open(f"{directory}/{NAME}", "rb") as file:
            record: ExitRecord = wire.decode(file.read(), [])  # type: ignore[assignment]
    except FileNotFoundError:
        return None
    return record
