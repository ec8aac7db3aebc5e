"""Stacks as a service: observe, plan, execute, and keep what was asked for. The /stacks routes are its only callers.

In come resolved stacks and options, out go streams of progress. What is wanted is recorded before anything is done, so
that `resume` finishes after a crash what was begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import anyio

from pystack.engine.interface import Engine
from pystack.model.desired import Stack
from pystack.model.documents import Documents
from pystack.model.errors import EngineError, PystackError
from pystack.model.observed import ContainerView, ObservedStack
from pystack.model.plan import Plan, PlanOptions
from pystack.planner import labels
from pystack.planner.diff import is_running
from pystack.planner.lifecycle import plan_restart, plan_start, plan_stop
from pystack.planner.plan import plan, plan_run
from pystack.planner.selection import scaled
from pystack.planner.specs import OneOff
from pystack.reconciler import progress
from pystack.reconciler.execute import Outcome, Report, execute
from pystack.reconciler.history import History, Record
from pystack.reconciler.observe import observe
from pystack.reconciler.progress import Progress
from pystack.reconciler.turns import Turns, Work

log = logging.getLogger(__name__)

#: Seconds that recording the end of an interrupted operation may take.
LAST_WORDS = 5.0


class Planner(Protocol):
    def __call__(
        self, observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> Plan: ...


class StackService:
    """All stacks of an engine. `documents` is its `stacks` table; `clock` gives Unix time in seconds."""

    def __init__(self, engine: Engine, documents: Documents, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._history = History(documents, clock)
        self._turns = Turns()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StackService]:
        """Resume what was interrupted, and on leaving stop all work where it is: the next start resumes it."""
        await self.resume()
        try:
            yield self
        finally:
            await self._turns.close()

    # -- what may be asked of a stack

    def up(
        self, stack: Stack, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> AsyncIterator[Progress]:
        """Bring the stack, or some services and what they depend on, to what is desired."""
        return self._turns.stream(stack.name, "up", lambda report: self._up(stack, options, targets, report))

    def down(
        self, name: str, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> AsyncIterator[Progress]:
        """Remove the stack's containers and networks, with `options.volumes` its volumes too."""
        return self._turns.stream(name, "down", lambda report: self._down(name, options, targets, report))

    def stop(
        self, name: str, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> AsyncIterator[Progress]:
        return self._lifecycle(name, "stop", plan_stop, options, targets)

    def start(
        self, name: str, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> AsyncIterator[Progress]:
        return self._lifecycle(name, "start", plan_start, options, targets)

    def restart(
        self, name: str, options: PlanOptions, *, targets: tuple[str, ...] = ()
    ) -> AsyncIterator[Progress]:
        return self._lifecycle(name, "restart", plan_restart, options, targets)

    async def plan(self, stack: Stack, options: PlanOptions, *, targets: tuple[str, ...] = ()) -> Plan:
        """What `up` would do now. Changes nothing."""
        return plan(stack, await self._observe(stack.name, stack), options, targets=targets)

    async def run(self, stack: Stack, service: str, chosen: OneOff, options: PlanOptions) -> str:
        """Create a one-off container of a service, what it depends on started before; returns its id.

        Raises the first error of what failed.
        """
        made: list[str] = []
        problems: list[PystackError] = []

        async def work(report: Report) -> None:
            try:
                observed = await self._observe(stack.name, stack)
                drawn = plan_run(stack, observed, options, service=service, chosen=chosen)
                outcome = await execute(drawn, self._engine, report)
            except PystackError as error:
                problems.append(error)
                return
            if outcome.failures:
                problems.append(_first_error(outcome))
                return
            made.append(outcome.created[chosen.container_name(stack, stack.services[service])])

        async for event in self._turns.stream(stack.name, "run", work):
            log.debug("run of %s: %s", service, event)
        if made:
            return made[0]
        raise problems[0] if problems else EngineError(f"cannot run {service}: it was interrupted")

    async def ps(self, name: str, *, all: bool = False) -> list[dict[str, object]]:
        """The stack's containers (running ones, or all) by service and number, one-offs last."""
        mine = {"label": [f"{labels.PROJECT}={name}"]}
        views = await self._engine.containers.list(all=all, filters=mine)
        views.sort(key=lambda v: (labels.is_oneoff(v), labels.service_of(v), labels.number_of(v), v.name))
        return [_row(view) for view in views]

    async def list(self) -> list[dict[str, object]]:
        """Every stack that has a container or a record: its status, and how many of its containers run."""
        views = await self._engine.containers.list(all=True, filters={"label": [labels.PROJECT]})
        records = {record.name: record for record in self._history.records()}
        names = {view.spec.labels[labels.PROJECT] for view in views} | records.keys()
        return [
            _summary(name, [v for v in views if v.spec.labels[labels.PROJECT] == name], records.get(name))
            for name in sorted(names)
        ]

    # -- after a start

    async def resume(self) -> None:
        """Begin again, in the background, every `up` and `down` that was interrupted."""
        for record in self._history.records():
            if record.status in ("applying", "removing"):
                log.info("stack %s: %s was interrupted: resumed", record.name, record.status)
                self._turns.begin(record.name, "resume", self._resumption(record), _logged(record.name))

    def _resumption(self, record: Record) -> Work:
        async def work(report: Report) -> None:
            stack = self._history.desired(record.name)
            if record.status == "removing":
                await self._down(record.name, record.options, record.targets, report)
            elif stack is None:
                await self._history.forget(record.name)
            else:
                await self._up(stack, record.options, record.targets, report)

        return work

    # -- the work itself

    async def _observe(self, name: str, stack: Stack | None) -> ObservedStack:
        return await observe(self._engine, name, stack, self._history.explained(name))

    async def _up(self, stack: Stack, options: PlanOptions, targets: tuple[str, ...], report: Report) -> None:
        began = time.monotonic()
        stack = scaled(stack, sorted(options.scale.items()))
        options = replace(options, scale={})
        drawn = plan(stack, await self._observe(stack.name, stack), options, targets=targets)
        if not drawn.steps and self._history.is_applied(stack.name, stack):
            _begin_report(drawn, report)
            report(progress.done(stack.name, ok=True, changed=0, seconds=time.monotonic() - began))
            return
        record = await self._history.begin(stack.name, stack, options=options, targets=targets)
        try:
            outcome = await self._carry_out(drawn, report)
        except asyncio.CancelledError:
            await self._interrupted(record)
            raise
        error = str(progress.error_body(outcome.failures[0][1])["message"]) if outcome.failures else ""
        await self._history.finish(record, error=error)
        _end_report(stack.name, outcome, began, report)

    async def _down(self, name: str, options: PlanOptions, targets: tuple[str, ...], report: Report) -> None:
        began = time.monotonic()
        drawn = plan(None, await self._observe(name, None), options, targets=targets)
        if not targets and drawn.steps:
            await self._history.begin(name, None, options=options)
        outcome = await self._carry_out(drawn, report)
        if not targets and outcome.ok:
            await self._history.forget(name)
        _end_report(name, outcome, began, report)

    def _lifecycle(
        self, name: str, verb: str, planner: Planner, options: PlanOptions, targets: tuple[str, ...]
    ) -> AsyncIterator[Progress]:
        async def work(report: Report) -> None:
            began = time.monotonic()
            drawn = planner(await self._observe(name, None), options, targets=targets)
            _end_report(name, await self._carry_out(drawn, report), began, report)

        return self._turns.stream(name, verb, work)

    async def _carry_out(self, drawn: Plan, report: Report) -> Outcome:
        _begin_report(drawn, report)
        return await execute(drawn, self._engine, report)

    async def _interrupted(self, record: Record) -> None:
        """The caller has left or something else came first: this `up` is not resumed by itself.

        When the daemon ends, its record stays "applying" instead, and the next start resumes it.
        """
        if self._turns.closing:
            return
        with anyio.CancelScope(shield=True), anyio.move_on_after(LAST_WORDS):
            await self._history.finish(record, error="interrupted")


def _begin_report(drawn: Plan, report: Report) -> None:
    report(progress.planned(drawn))
    for message in drawn.warnings:
        report(progress.warning(message))


def _end_report(name: str, outcome: Outcome, began: float, report: Report) -> None:
    for step, error in outcome.failures:
        report(progress.failed(error, where=step.operation.resource))
    seconds = time.monotonic() - began
    report(progress.done(name, ok=outcome.ok, changed=outcome.changed, seconds=seconds))


def _first_error(outcome: Outcome) -> PystackError:
    step, error = outcome.failures[0]
    if isinstance(error, PystackError):
        return error
    return EngineError(f"{step.operation.resource}: {progress.error_body(error)['message']}")


def _logged(name: str) -> Report:
    def report(event: Progress) -> None:
        if event.type in ("error", "warning"):
            log.warning("stack %s: %s", name, event.body["message"])
        elif event.type == "done":
            log.info("stack %s: resumed, %s changes", name, event.body["changed"])

    return report


def _row(view: ContainerView) -> dict[str, object]:
    return {
        "id": view.id,
        "name": view.name,
        "service": labels.service_of(view),
        "number": labels.number_of(view),
        "oneoff": labels.is_oneoff(view),
        "image": view.image,
        "state": str(view.state),
        "health": str(view.health),
        "exit_code": view.exit_code,
        "created": view.created,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "restart_count": view.restart_count,
        "ports": [
            {
                "host_ip": port.host_ip,
                "host_port": port.host_port,
                "container_port": port.container_port,
                "protocol": port.protocol,
            }
            for port in view.ports
        ],
    }


def _summary(name: str, views: list[ContainerView], record: Record | None) -> dict[str, object]:
    first = views[0].spec.labels if views else {}
    return {
        "name": name,
        "status": record.status if record else "unmanaged",
        "error": record.error if record else "",
        "revision": record.revision if record else 0,
        "services": sorted({labels.service_of(view) for view in views if not labels.is_oneoff(view)}),
        "containers": len(views),
        "running": sum(is_running(view) for view in views),
        "working_dir": first.get(labels.WORKING_DIR, ""),
        "config_files": first.get(labels.CONFIG_FILES, ""),
    }
