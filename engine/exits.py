"""How a run ended, as an engine learns that was not there: from the shim's exit.json, or not at all."""

from __future__ import annotations

import json

from pystack.engine import clock
from pystack.engine.container import Container
from pystack.engine.runtime.bundle import ExitRecord


def read_exit_record(container: Container) -> ExitRecord | None:
    """What the shim of the record's run wrote when PID 1 ended; None when that run has no such file."""
    try:
        with open(f"{container.directory}/exit.json", "rb") as file:
            record: ExitRecord = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return record if record.get("run") == container.record.run and record.get("id") == container.id else None


def lost_record(container: Container, reason: str) -> ExitRecord:
    """The end of a run that nobody saw: exit code 255, like Docker after a crash of the host."""
    return ExitRecord(
        id=container.id,
        run=container.record.run,
        pid=container.record.pid,
        exit_code=255,
        signal=0,
        oom_killed=False,
        finished_at=clock.now(),
        error=reason,
    )
