"""Health probes of running containers: who starts and stops monitors, and how one probe is run.

Flows in: containers that start, pause and end. Flows out: `container.health` and `health_status` events. A probe is an
exec under the container's own confinement, as its own user and in its working directory.
"""

from __future__ import annotations

import asyncio
import json
import logging

from pystack.engine import bundles
from pystack.engine.container import Container, HealthState
from pystack.engine.health import (
    OUTPUT_BYTES,
    START_LIMIT,
    TIMED_OUT,
    HealthMachine,
    HealthMonitor,
    HealthRules,
    ProbeResult,
    format_duration,
    rules_of,
)
from pystack.engine.ports import ExecPort
from pystack.engine.services import Services
from pystack.model.container import ExecSpec
from pystack.model.errors import EngineError, StartError
from pystack.model.observed import HealthProbe
from pystack.model.states import Health

log = logging.getLogger(__name__)


class Prober:
    def __init__(self, services: Services) -> None:
        self._services = services

    def begin(self, container: Container, *, fresh: bool = False) -> None:
        """Start the monitor of a container that has a healthcheck.

        `fresh` after a start: status `starting`. Otherwise (thawed, re-adopted) it goes on from what is recorded.
        """
        rules = rules_of(container.config.healthcheck, container.record.shell)
        if rules is None:
            container.health = HealthState(status=Health.NONE)
            return

        async def probe(rules: HealthRules) -> ProbeResult:
            return await run_probe(container, rules)

        def report(machine: HealthMachine, changed: bool) -> None:
            self._report(container, machine, changed)

        started = container.started_monotonic or asyncio.get_running_loop().time()
        monitor = HealthMonitor(rules, started, probe, report, container.name)
        machine, known = monitor.machine, container.health
        machine.log = known.log
        if not fresh:
            known = known if known.log else _recall(container)
            machine.status = (
                container.record.health if container.record.health is not Health.NONE else Health.STARTING
            )
            machine.failing_streak, machine.log = known.failing_streak, known.log
        container.monitor = monitor
        self._report(container, machine, fresh)
        monitor.start()

    def end(self, container: Container, *, keep: bool = False) -> None:
        """Stop probing. Paused containers `keep` their status; an ended one is unhealthy, as in Docker."""
        if container.monitor is not None:
            container.monitor.stop()
            container.monitor = None
        if not keep and container.health.status is not Health.NONE:
            container.health = HealthState(status=Health.UNHEALTHY, log=container.health.log)

    def _report(self, container: Container, machine: HealthMachine, changed: bool) -> None:
        found = HealthState(status=machine.status, failing_streak=machine.failing_streak, log=machine.log)
        if not changed or found.status is Health.STARTING:
            container.health = found
        _remember(container, found)
        if changed:
            work = self._announce(container, machine, found)
            self._services.background.spawn(work, f"record health of {container.name}")

    async def _announce(self, container: Container, machine: HealthMachine, found: HealthState) -> None:
        """A change is durable before anybody is told: a daemon that dies must not take back what it has said."""
        if container.monitor is None or container.monitor.machine is not machine:
            return  # it has ended, and may be gone
        try:
            await self._services.registry.amend(container, health=found.status)
        except EngineError as error:
            log.warning("cannot record the health of container %s: %s", container.name, error)
        if container.monitor is not None and container.monitor.machine is machine:
            container.health = found
            self._services.publish(container, f"health_status: {found.status}")


def _remember(container: Container, found: HealthState) -> None:
    """Results for the next engine, beside the shim's files: they live as long as the run. Not durable, and need not be."""
    probes = [[p.start, p.end, p.exit_code, p.output] for p in found.log]
    try:
        with open(f"{container.run_directory}/health.json", "w", encoding="utf-8") as file:
            json.dump({"streak": found.failing_streak, "log": probes}, file)
    except OSError as error:
        log.debug("cannot keep the health of container %s: %s", container.name, error)


def _recall(container: Container) -> HealthState:
    """What `_remember` kept; nothing when that cannot be read."""
    try:
        with open(f"{container.run_directory}/health.json", encoding="utf-8") as file:
            kept = json.load(file)
        probes = tuple(
            HealthProbe(start=start, end=end, exit_code=code, output=output)
            for start, end, code, output in kept["log"]
        )
        return HealthState(failing_streak=kept["streak"], log=probes)
    except (OSError, ValueError, KeyError, TypeError):
        return HealthState()


async def run_probe(container: Container, rules: HealthRules) -> ProbeResult:
    """One probe, killed when it takes longer than its timeout. At most 4,096 bytes of output are kept."""
    shim = container.require_running()
    process = bundles.exec_process(container.config, ExecSpec(command=rules.command))
    try:
        async with asyncio.timeout(START_LIMIT):
            running = await shim.exec(process, stdin=False)
    except StartError as error:
        return ProbeResult(exit_code=error.exit_code, output=str(error).encode())
    except TimeoutError:
        return ProbeResult(exit_code=TIMED_OUT, output=b"cannot start the probe within 30s")
    output = bytearray()
    try:
        async with asyncio.timeout(rules.timeout):
            await _collect(running, output)
            code = await asyncio.shield(running.exited)
        return ProbeResult(exit_code=code, output=_shown(output))
    except TimeoutError:
        text = f"Health check exceeded timeout ({format_duration(rules.timeout)})"
        return ProbeResult(
            exit_code=TIMED_OUT, output=text.encode() + (b": " + _shown(output) if output else b"")
        )
    finally:
        if not running.exited.done():
            running.signal(9)
        await running.close()


async def _collect(running: ExecPort, output: bytearray) -> None:
    """Read to the end, so that the probe never blocks on a full pipe. One byte more than is shown tells that it is cut."""
    while True:
        item = await running.receive()
        if item is None:
            return
        if len(output) <= OUTPUT_BYTES:
            output += item[1][: OUTPUT_BYTES + 1 - len(output)]


def _shown(output: bytearray) -> bytes:
    """The first 4,096 bytes, with an ellipsis where there were more, as Docker."""
    return bytes(output[:OUTPUT_BYTES]) + (b"..." if len(output) > OUTPUT_BYTES else b"")
