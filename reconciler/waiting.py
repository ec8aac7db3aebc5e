"""Waiting for containers: until they run, are healthy or have ended well. Engine events wake it; nothing polls.

In come a `WaitFor` and the engine; out comes what to say when it is met. It fails as soon as the condition cannot be met
any more: the program has ended, its status is wrong, the healthcheck has given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from pystack.engine.interface import Engine, LogOptions
from pystack.model.errors import EngineError, PystackError
from pystack.model.observed import ContainerView
from pystack.model.plan import WaitFor
from pystack.model.states import ContainerState, Health

log = logging.getLogger(__name__)

#: Seconds after which a wait looks again although no event came: a subscriber that lags may lose some.
RESYNC = 5.0


class Pulse:
    """Wakes all waits at each container event."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._event = asyncio.Event()

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[Pulse]:
        """Subscribed while inside. The subscription stands before the body runs, so no event after that is missed."""
        task = asyncio.get_running_loop().create_task(self._listen())
        try:
            await asyncio.sleep(0)  # the task runs up to its first event
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _listen(self) -> None:
        try:
            async for _ in self._engine.events.subscribe(filters={"type": ["container"]}):
                self._event.set()
                self._event = asyncio.Event()
        except Exception:
            log.exception("cannot follow the engine's events: waits look every %g s instead", RESYNC)

    async def wait(self, event: asyncio.Event) -> None:
        with anyio.move_on_after(RESYNC):
            await event.wait()

    @property
    def event(self) -> asyncio.Event:
        """The next event. Take it before looking at containers, so that none slips between looking and waiting."""
        return self._event


def verdict(view: ContainerView, operation: WaitFor) -> str:
    """What to say when the container meets the condition, "" while it may yet. Raises EngineError when it cannot."""
    hint = f"pystack logs {operation.service}"
    ended = view.state in (ContainerState.EXITED, ContainerState.DEAD, ContainerState.REMOVING)
    condition = operation.condition
    if condition == "service_completed_successfully":
        if ended and view.exit_code != 0:
            raise EngineError(f"container {view.name} exited ({view.exit_code})", hint=hint)
        return "Exited" if ended else ""
    if ended:
        one_shot = view.exit_code == 0 and view.spec.restart.name in ("no", "on-failure")
        if condition == "running_or_healthy" and one_shot:
            return "Exited"
        raise EngineError(f"container {view.name} exited ({view.exit_code}) before it was ready", hint=hint)
    if view.health is Health.UNHEALTHY:
        raise EngineError(f"container {view.name} is unhealthy{_last_probe(view)}", hint=hint)
    running = view.state is ContainerState.RUNNING
    if condition == "service_healthy" and running and view.health is Health.NONE:
        raise EngineError(
            f"container {view.name} has no healthcheck, so it cannot become healthy",
            hint=f"give service {operation.service} a healthcheck, or wait for service_started",
        )
    if running and view.health is Health.HEALTHY:
        return "Healthy"
    return "Running" if running and view.health is Health.NONE else ""


def _last_probe(view: ContainerView) -> str:
    output = view.health_log[-1].output.strip() if view.health_log else ""
    return f": {output.splitlines()[-1][:200]}" if output else ""


async def last_lines(engine: Engine, view: ContainerView, count: int = 5) -> str:
    """The end of a container's log, to stand below what is said of its failure; "" when it wrote nothing."""
    try:
        entries = [entry async for entry in engine.containers.logs(view.id, LogOptions(tail=count))]
    except PystackError:
        return ""  # removed meanwhile, or its log cannot be read: the failure itself is what matters
    return "".join(f"\n  | {entry.line.decode(errors='replace').rstrip()[:200]}" for entry in entries)


async def wait_for(engine: Engine, pulse: Pulse, operation: WaitFor, refs: list[str]) -> str:
    """Return when every container meets the condition, with a word for it. Raises EngineError when one cannot, or in time."""
    said = ""
    with anyio.move_on_after(operation.timeout) as scope:
        while refs:
            event = pulse.event
            for ref in list(refs):
                view = await engine.containers.inspect(ref)
                try:
                    said = verdict(view, operation)
                except EngineError as error:
                    raise EngineError(
                        error.message + await last_lines(engine, view), hint=error.hint
                    ) from None
                if not said:
                    break
                refs.remove(ref)
            else:
                return said
            await pulse.wait(event)
    if scope.cancelled_caught:
        raise EngineError(
            f"service {operation.service} was not ready within {operation.timeout:g} s",
            hint=f"pystack logs {operation.service}",
        )
    return said
