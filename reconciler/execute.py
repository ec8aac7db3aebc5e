"""Carry out a plan: every step as soon as what it needs has succeeded. No policy: the plan says it all.

In come a plan and the engine, out go progress events and an `Outcome`. A failure skips what needs it, and the rest goes
on. Every engine call happens or does not; cancelled or killed at any step, the next plan starts from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from pystack.engine.interface import Engine
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ContainerSpec
from pystack.model.errors import NotFound, NotModified, PystackError
from pystack.model.plan import (
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    EnsureImage,
    Operation,
    Plan,
    RemoveContainer,
    RemoveNetwork,
    RemoveVolume,
    RenameContainer,
    RestartContainer,
    StartContainer,
    Step,
    StopContainer,
    WaitFor,
)
from pystack.reconciler import progress
from pystack.reconciler.progress import Progress
from pystack.reconciler.waiting import Pulse, wait_for

log = logging.getLogger(__name__)

#: Containers that are created or started at once. Stops and waits are not counted: they only sit and wait.
CONCURRENCY = 32
#: Seconds that an engine call under way gets to end by itself when the run is cancelled.
GRACE = 5.0

T = TypeVar("T")
Report = Callable[[Progress], None]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How it went. `created` maps container names to ids; `failures` holds what failed, best-effort steps apart."""

    changed: int = 0
    created: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[Step, Exception]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures


async def execute(plan: Plan, engine: Engine, report: Report) -> Outcome:
    """Run all of the plan that can be run. Raises only when cancelled."""
    run = _Run(plan, engine, report)
    async with AsyncExitStack() as stack:
        if any(isinstance(step.operation, WaitFor) for step in plan.steps):
            await stack.enter_async_context(run.pulse.beating())
        async with anyio.create_task_group() as group:
            run.begin(group)
    return run.outcome


async def _uninterrupted(call: Coroutine[Any, Any, T]) -> T:
    """Await an engine call; when cancelled, let it end first (for GRACE seconds), so that it has happened or has not."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            _, pending = await asyncio.wait({task}, timeout=GRACE)
            for late in pending:
                late.cancel()
                await asyncio.wait({late})
        if not task.cancelled() and task.exception():
            log.info("a cancelled run's last call failed: %s", task.exception())
        raise


async def _unless(call: Awaitable[object], *already: type[PystackError]) -> None:
    """Await a call whose purpose is reached when it raises one of `already`."""
    try:
        await call
    except already as reason:
        log.debug("already so: %s", reason)


class _Run:
    def __init__(self, plan: Plan, engine: Engine, report: Report) -> None:
        self._engine = engine
        self._report = report
        self._steps = {step.id: step for step in plan.steps}
        self._missing = {step.id: len(step.needs) for step in plan.steps}
        self._dependants: dict[int, list[int]] = {step.id: [] for step in plan.steps}
        for step in plan.steps:
            for need in step.needs:
                self._dependants[need].append(step.id)
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._group: TaskGroup | None = None
        self.pulse = Pulse(engine)
        self.outcome = Outcome()

    def begin(self, group: TaskGroup) -> None:
        self._group = group
        for step in list(self._steps.values()):
            if not step.needs:
                group.start_soon(self._perform, step)

    def _release(self, step: Step) -> None:
        assert self._group is not None
        for key in self._dependants[step.id]:
            self._missing[key] -= 1
            if self._missing[key] == 0:
                self._group.start_soon(self._perform, self._steps[key])

    def _skip_dependants(self, step: Step) -> None:
        waiting = list(self._dependants[step.id])
        while waiting:
            key = waiting.pop()
            if self._missing[key] >= 0:
                self._missing[key] = -1
                text = f"{step.operation.resource} failed"
                self._report(progress.of_step(self._steps[key], "skipped", text=text))
                waiting += self._dependants[key]

    async def _perform(self, step: Step) -> None:
        operation = step.operation
        self._report(progress.of_step(step, "working"))
        began = time.monotonic()
        try:
            text = await self._carry_out(operation)
        except Exception as error:
            self._failed(step, error, time.monotonic() - began)
            return
        self.outcome.changed += operation.changes
        self._report(progress.of_step(step, "done", text=text, seconds=time.monotonic() - began))
        self._release(step)

    def _failed(self, step: Step, error: Exception, seconds: float) -> None:
        if not isinstance(error, PystackError):
            log.error("step %s of %s failed", step.operation.kind, step.operation.resource, exc_info=error)
        message = str(progress.error_body(error)["message"])
        self._report(progress.of_step(step, "error", text=message, seconds=seconds))
        if step.operation.best_effort:
            self._report(progress.warning(f"{step.operation.resource}: {message}"))
            self._release(step)
            return
        self.outcome.failures.append((step, error))
        self._skip_dependants(step)

    async def _carry_out(self, operation: Operation) -> str:
        """One engine call; returns what is to be said of it beyond "done"."""
        match operation:
            case WaitFor():
                refs = [self._ref(ref) for ref in operation.containers]
                return await wait_for(self._engine, self.pulse, operation, refs)
            case CreateContainer() | StartContainer() | RestartContainer() | EnsureImage():
                async with self._limit:
                    await _uninterrupted(self._advance(operation))
            case StopContainer() | RemoveContainer() | RenameContainer():
                await _uninterrupted(self._withdraw(operation))
            case _:
                await _uninterrupted(self._resource(operation))
        return ""

    def _ref(self, ref: str) -> str:
        """The id of a container that this run has made, or the reference itself."""
        return self.outcome.created.get(ref, ref)

    async def _advance(
        self, operation: CreateContainer | StartContainer | RestartContainer | EnsureImage
    ) -> None:
        containers = self._engine.containers
        match operation:
            case CreateContainer():
                made = await containers.create(self._resolved(operation.spec), operation.name)
                self.outcome.created[operation.name] = made.id
                for message in made.warnings:
                    self._report(progress.warning(f"{operation.resource}: {message}"))
                failpoint("reconciler.container.created")
            case StartContainer():
                await _unless(containers.start(self._ref(operation.container)), NotModified)
                failpoint("reconciler.container.started")
            case RestartContainer():
                await containers.restart(self._ref(operation.container), timeout=operation.timeout)
                failpoint("reconciler.container.restarted")
            case EnsureImage():
                await self._engine.images.ensure(operation.reference)

    async def _withdraw(self, operation: StopContainer | RemoveContainer | RenameContainer) -> None:
        containers = self._engine.containers
        ref = self._ref(operation.container)
        match operation:
            case StopContainer():
                await _unless(containers.stop(ref, timeout=operation.timeout), NotModified, NotFound)
                failpoint("reconciler.container.stopped")
            case RemoveContainer():
                removal = containers.remove(ref, force=operation.force, volumes=operation.volumes)
                await _unless(removal, NotFound)
                failpoint("reconciler.container.removed")
            case RenameContainer():
                await containers.rename(ref, operation.name)
                self.outcome.created.pop(operation.container, None)
                self.outcome.created[operation.name] = ref
                failpoint("reconciler.container.renamed")

    async def _resource(self, operation: Operation) -> None:
        match operation:
            case CreateNetwork():
                await self._engine.networks.create(operation.spec)
                failpoint("reconciler.network.created")
            case RemoveNetwork():
                await _unless(self._engine.networks.remove(operation.network), NotFound)
                failpoint("reconciler.network.removed")
            case CreateVolume():
                await self._engine.volumes.create(operation.spec)
                failpoint("reconciler.volume.created")
            case RemoveVolume():
                await _unless(self._engine.volumes.remove(operation.volume), NotFound)
                failpoint("reconciler.volume.removed")
            case _:
                raise AssertionError(f"no such operation: {operation.kind}")

    def _mode(self, mode: str) -> str:
        """`container:<name>` of a container that this run has made, by its id; any other mode as it is."""
        kind, colon, ref = mode.partition(":")
        return f"container:{self._ref(ref)}" if kind == "container" and colon else mode

    def _resolved(self, spec: ContainerSpec) -> ContainerSpec:
        if not any(
            mode.startswith("container:") for mode in (spec.network_mode, spec.ipc_mode, spec.pid_mode)
        ):
            return spec
        return replace(
            spec,
            network_mode=self._mode(spec.network_mode),
            ipc_mode=self._mode(spec.ipc_mode),
            pid_mode=self._mode(spec.pid_mode),
        )
