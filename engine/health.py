"""Health checks: moby's rules as a pure state machine, and the driver that runs the probes.

Flows in: a healthcheck, probe results. Flows out: status, log and `health_status` changes. Times in seconds on
CLOCK_MONOTONIC; the rules are `daemon/health.go`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pystack.engine import clock
from pystack.model.container import SECOND, Healthcheck
from pystack.model.errors import PystackError
from pystack.model.observed import HealthProbe
from pystack.model.states import Health

log = logging.getLogger(__name__)

LOG_ENTRIES = 5
OUTPUT_BYTES = 4096
TIMED_OUT = -1
#: A probe may take this long to start; its own timeout counts from then on.
START_LIMIT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    command: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    start_interval: float = 5.0
    retries: int = 3


def rules_of(check: Healthcheck | None, shell: tuple[str, ...]) -> HealthRules | None:
    """The rules with Docker's defaults; None when there is no check or it is ["NONE"]."""
    if check is None or not check.test or check.test[0] == "NONE":
        return None
    kind, *words = check.test
    command = (*(shell or ("/bin/sh", "-c")), *words) if kind == "CMD-SHELL" else tuple(words)
    if not command:
        return None
    return HealthRules(
        command=command,
        interval=check.interval / SECOND or 30.0,
        timeout=check.timeout / SECOND or 30.0,
        start_period=check.start_period / SECOND,
        start_interval=check.start_interval / SECOND or 5.0,
        retries=check.retries or 3,
    )


class HealthMachine:
    """Status of one container's health. Pure: the time since the container started is an argument."""

    def __init__(self, rules: HealthRules) -> None:
        self.rules = rules
        self.status = Health.STARTING
        self.failing_streak = 0
        self.log: tuple[HealthProbe, ...] = ()

    def delay(self, since_start: float) -> float:
        """Time until the next probe: the start interval while starting and inside the start period."""
        starting = self.status is Health.STARTING and since_start < self.rules.start_period
        return self.rules.start_interval if starting else self.rules.interval

    def record(self, probe: HealthProbe, began: float) -> bool:
        """Take in a result of a probe that began `began` seconds after the start. Whether the status changed."""
        before = self.status
        self.log = (*self.log, probe)[-LOG_ENTRIES:]
        if probe.exit_code == 0:
            self.failing_streak = 0
            self.status = Health.HEALTHY
        elif before is not Health.STARTING or began >= self.rules.start_period:
            self.failing_streak += 1
            if self.failing_streak >= self.rules.retries:
                self.status = Health.UNHEALTHY
        return self.status is not before


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    exit_code: int
    output: bytes


Probe = Callable[[HealthRules], Awaitable[ProbeResult]]
Report = Callable[[HealthMachine, bool], None]


class HealthMonitor:
    """Runs the probes of one running container until stopped. One task; `report` is told after every probe."""

    def __init__(self, rules: HealthRules, started: float, probe: Probe, report: Report, name: str) -> None:
        self.machine = HealthMachine(rules)
        self._started, self._probe, self._report, self._name = started, probe, report, name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"health {self._name}")

    def stop(self) -> None:
        """End it; a probe that runs is killed by its own clean-up."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        machine = self.machine
        while True:
            await asyncio.sleep(machine.delay(loop.time() - self._started))
            began, start = loop.time() - self._started, clock.now()
            try:
                result = await self._probe(machine.rules)
            except (PystackError, OSError) as error:
                result = ProbeResult(exit_code=TIMED_OUT, output=str(error).encode())
            probe = HealthProbe(
                start=start,
                end=clock.now(),
                exit_code=result.exit_code,
                output=result.output.decode(errors="replace"),
            )
            changed = machine.record(probe, began)
            self._report(machine, changed)


def format_duration(seconds: float) -> str:
    """As Go prints a time.Duration of at least a millisecond: 1.5s, 30s, 1m0s, 250ms."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
