"""The life of a container: start, stop, kill, pause, restart, and what follows when its process ends.

Flows in: verbs of the API, the shim's exit. Flows out: records (before and after each side effect), events, restarts.
The container's lock is held while its state changes and never while a process is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from pystack.engine import clock
from pystack.engine.container import Container, ContainerRecord
from pystack.engine.forwarding import Forwarding
from pystack.engine.interface import WaitResult
from pystack.engine.oom import OomReporter
from pystack.engine.ports import ShimPort
from pystack.engine.probing import Prober
from pystack.engine.restarts import cancels
from pystack.engine.runtime.bundle import ExitRecord
from pystack.engine.services import Services
from pystack.engine.signals import parse_signal
from pystack.engine.starting import Starter, discard_shim_dir
from pystack.kernel import process
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import Conflict, EngineError, InvalidInput, NotModified, PystackError, StartError
from pystack.model.states import ContainerState

log = logging.getLogger(__name__)

SIGTERM, SIGKILL = 15, 9
DEFAULT_TIMEOUT = 10
#: How long output may come after PID 1 has gone (grandchildren outside its pid namespace hold the pipes), seconds.
DRAIN = 10.0
#: How long a killed process may take to go before the whole cgroup is killed, seconds.
KILL_WAIT = 10.0


class Lifecycle:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._starter = Starter(services)
        self._prober = Prober(services)
        self.oom = OomReporter(services)
        self.forwarding = Forwarding(services)
        self.on_auto_remove = _no_removal

    # -- start --------------------------------------------------------------------------------------------------------

    async def start(self, container: Container) -> None:
        """NotModified when it runs already, Conflict in a wrong state, StartError when the program cannot start."""
        async with container.lock:
            await self._start(container)

    async def _start(self, container: Container) -> None:
        state = container.record.state
        if container.record.removing:
            raise Conflict("container is marked for removal and cannot be started")
        if state is ContainerState.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if state is ContainerState.RUNNING:
            raise NotModified(f"container {container.name} is already running")
        if state is ContainerState.DEAD:
            raise Conflict("container is marked for removal and cannot be started")
        container.cancel_backoff()
        container.restarts.reset()
        container.record = replace(
            container.record, restart_count=0, manually_stopped=False, restart_cancelled=False
        )
        try:
            await self._check_log(container)
            await self._launch(container)
        except BaseException:
            if container.config.auto_remove and container.record.state is not ContainerState.RUNNING:
                self.on_auto_remove(container)
            raise

    async def _check_log(self, container: Container) -> None:
        """A start by hand fails when the log server is not there; a restart by the policy goes on without it."""
        try:
            await self.forwarding.check(container)
        except EngineError as error:
            await self._start_failed(container, error)
            raise

    async def _launch(self, container: Container) -> None:
        """One run, with the intent recorded before and the outcome after. The lock is held."""
        await container.written("start")
        services, record = self._services, container.record
        container.leftovers = True
        began = replace(record, starting=True, run=record.run + 1, error="", oom_killed=False)
        await services.registry.save(container, began)
        failpoint("engine.start.intent")
        try:
            shim, sandbox = await self._starter.start(container)
        except BaseException as error:
            await asyncio.shield(self._start_failed(container, error))
            if isinstance(error, (PystackError, asyncio.CancelledError)):
                raise
            raise EngineError(f"cannot start container {container.name}: {error}") from error
        container.shim = shim
        container.started_monotonic = asyncio.get_running_loop().time()
        container.endpoints, container.published = (sandbox.endpoints, sandbox.ports) if sandbox else ((), ())
        running = replace(
            container.moved(ContainerState.RUNNING),
            starting=False,
            pid=shim.pid,
            exit_code=0,
            started_at=clock.now(),
            sandbox=sandbox.to_json() if sandbox else "",
        )
        try:
            await services.registry.save(container, running)
        finally:
            # Also when the disk is full: the process runs, so it must be watched.
            services.background.spawn(self._watch(container, shim), f"watch {container.name}")
        failpoint("engine.start.running")
        await self._starter.bind_sessions(container, shim)  # who attached while it was being started
        services.publish(container, "start")
        self._prober.begin(container, fresh=True)
        self.oom.begin(container)
        self.forwarding.begin(container)

    async def _start_failed(self, container: Container, error: BaseException) -> None:
        """Record why; end those who attached. A container that never ran stays `created`, as in Docker."""
        code = error.exit_code if isinstance(error, StartError) else 128
        record = replace(
            container.record,
            starting=False,
            exit_code=code,
            error=str(error) or type(error).__name__,
            sandbox="",
        )
        if record.state is ContainerState.RESTARTING:
            record = replace(record, state=ContainerState.EXITED, finished_at=clock.now())
        for session in container.awaiting_start:
            session.bind(None)
        container.awaiting_start.clear()
        await self._services.registry.save(container, record)
        container.notify_exit()

    # -- the end of a run ---------------------------------------------------------------------------------------------

    def adopt(self, container: Container, shim: ShimPort) -> None:
        """Take a running container over after a restart of the engine."""
        container.shim = shim
        self._services.background.spawn(self._watch(container, shim), f"watch {container.name}")
        if container.record.state is ContainerState.RUNNING:
            self._prober.begin(container)
        self.oom.begin(container)

    async def _watch(self, container: Container, shim: ShimPort) -> None:
        ended = await asyncio.shield(shim.exited)
        if not shim.closed.done():
            await asyncio.wait({shim.closed}, timeout=DRAIN)
        async with container.lock:
            if container.shim is shim:
                await self.settle(container, ended)

    async def settle(self, container: Container, ended: ExitRecord) -> None:
        """Record the exit, tell everybody, release what it held and decide on a restart. The lock is held."""
        services, before = self._services, container.record
        shim, container.shim = container.shim, None
        self._prober.end(container)
        self.oom.end(container)
        began = container.started_monotonic
        ran_for = asyncio.get_running_loop().time() - began if began else 0.0
        delay = None
        if not services.closing and not before.removing and not container.restarting_by_hand:
            delay = container.restarts.decide(
                container.config.restart,
                exit_code=ended["exit_code"],
                manually_stopped=before.manually_stopped,
                cancelled=before.restart_cancelled,
                restarts=before.restart_count,
                ran_for=ran_for,
            )
        target = ContainerState.EXITED if delay is None else ContainerState.RESTARTING
        record = replace(
            container.moved(target),
            starting=False,
            restart_count=before.restart_count + (delay is not None),
            pid=0,
            exit_code=ended["exit_code"],
            finished_at=ended["finished_at"],
            error=ended["error"],
            oom_killed=ended["oom_killed"] or before.oom_killed,
            sandbox="",
        )
        await self._record_exit(container, record)
        if ended["oom_killed"] and not container.oom_kills:
            services.publish(container, "oom")
        services.publish(container, "die", exitCode=str(ended["exit_code"]), execDuration=str(int(ran_for)))
        await self._release(container, shim)
        if delay is not None:
            self.plan_restart(container, delay)
        container.notify_exit()
        if delay is None and container.config.auto_remove and not container.restarting_by_hand:
            self.on_auto_remove(container)

    async def _record_exit(self, container: Container, record: ContainerRecord) -> None:
        services = self._services
        try:
            await services.registry.save(container, record)
        except EngineError as error:
            # Memory is right and exit.json is durable: the next start of the engine reads it. Cleaning up must go on.
            log.warning("cannot record the exit of container %s: %s", container.name, error)
        failpoint("engine.exit.recorded")

    async def _release(self, container: Container, shim: ShimPort | None) -> None:
        """Give back ports, addresses, names, the cgroup and the shim's directory. Each step even if another fails."""
        services, failed = self._services, False
        container.endpoints, container.published = (), ()
        if container.config.pid_mode:
            # Not in a pid namespace of its own: the kernel has not taken the rest of the container with PID 1.
            services.cgroups.kill(container.id)
        if shim is not None:
            shim.close()
        steps = (
            ("network", services.networks.release(container.id)),
            ("cgroup", services.cgroups.remove(container.id)),
        )
        for what, step in steps:
            try:
                await step
            except (PystackError, OSError) as error:
                failed = True
                log.warning("cannot release the %s of container %s: %s", what, container.name, error)
            failpoint(f"engine.exit.{what}")
        try:
            discard_shim_dir(container)
        except (PystackError, OSError) as error:
            failed = True
            log.warning("%s", error)
        container.leftovers = failed

    async def release_leftovers(self, container: Container) -> None:
        """What a run that nobody watched may have left (recovery, removal). Idempotent; the lock is held."""
        self._services.cgroups.kill(container.id)
        await self._release(container, None)

    def plan_restart(self, container: Container, delay: float) -> None:
        """Start a container that waits in `restarting` after `delay` seconds."""
        container.backoff = self._services.background.spawn(
            self._restart_later(container, delay), f"restart {container.name}"
        )

    async def _restart_later(self, container: Container, delay: float) -> None:
        await asyncio.sleep(delay)
        async with container.lock:
            if (
                container.record.state is not ContainerState.RESTARTING
                or container.backoff is not asyncio.current_task()
            ):
                return
            container.backoff = None
            try:
                await self._launch(container)
            except PystackError as error:
                log.warning("cannot restart container %s: %s", container.name, error)
                await self._after_failed_restart(container, error)

    async def _after_failed_restart(self, container: Container, error: PystackError) -> None:
        """A program that cannot start never will; an engine or network fault may pass, so the back-off goes on."""
        record = container.record
        delay = None
        if not isinstance(error, StartError) and not record.removing and not self._services.closing:
            delay = container.restarts.decide(
                container.config.restart,
                exit_code=record.exit_code,
                manually_stopped=record.manually_stopped,
                cancelled=record.restart_cancelled,
                restarts=record.restart_count,
                ran_for=0.0,
            )
        if delay is not None:
            waiting = replace(
                container.moved(ContainerState.RESTARTING), restart_count=record.restart_count + 1
            )
            await self._services.registry.save(container, waiting)
            self.plan_restart(container, delay)
        elif container.config.auto_remove:
            self.on_auto_remove(container)

    # -- stop, kill, restart ------------------------------------------------------------------------------------------

    async def stop(self, container: Container, *, timeout: int | None, signal: str) -> None:  # noqa: ASYNC109 - seconds of Docker's API
        """NotModified when it does not run. `timeout` seconds before SIGKILL, None the container's own, -1 for ever."""
        number = parse_signal(signal or container.config.stop_signal or "TERM")
        async with container.lock:
            if container.record.state is ContainerState.RESTARTING:
                await self._cancel_restart(container)
                return
            if not container.running:
                raise NotModified(f"container {container.name} is already stopped")
            shim = container.require_running()
            await self._mark_stopped(container)
            await self._thaw(container)
            exited = self._next_exit(container)
        if timeout is None:
            timeout = container.config.stop_timeout
        await self._terminate(
            container, shim, exited, number, DEFAULT_TIMEOUT if timeout is None else timeout
        )
        self._services.publish(container, "stop")

    async def _cancel_restart(self, container: Container) -> None:
        """A container between two runs: leave it exited. The lock is held."""
        container.cancel_backoff()
        record = replace(
            container.moved(ContainerState.EXITED), manually_stopped=True, restart_cancelled=True
        )
        await self._services.registry.save(container, record)
        container.notify_exit()
        self._services.publish(container, "stop")

    async def _mark_stopped(self, container: Container, *, cancel: bool = True) -> None:
        """Durable before the signal: a daemon that dies in between must not start the container again."""
        record = container.record
        if not record.manually_stopped or (cancel and not record.restart_cancelled):
            await self._services.registry.amend(
                container, manually_stopped=True, restart_cancelled=cancel or record.restart_cancelled
            )
        failpoint("engine.stop.marked")

    def _next_exit(self, container: Container) -> asyncio.Future[WaitResult]:
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        container.exit_waiters.add(future)
        return future

    async def _terminate(
        self,
        container: Container,
        shim: ShimPort,
        exited: asyncio.Future[WaitResult],
        number: int,
        timeout: int,  # noqa: ASYNC109 - seconds of Docker's API
    ) -> None:
        """Stop signal, grace period, SIGKILL, and as the last resort the whole cgroup."""
        # The kernel drops a default-action signal to a namespace's init: waiting for it would be in vain (DESIGN §8).
        own_namespace = not container.config.pid_mode
        if number != SIGKILL and (not own_namespace or process.can_react_to(shim.pid, number)):
            self._services.publish(container, "kill", signal=str(number))
            await _signal(shim, number)
            if await _within(exited, None if timeout < 0 else timeout):
                return
        self._services.publish(container, "kill", signal=str(SIGKILL))
        await self._sigkill(container, shim)
        if await _within(exited, KILL_WAIT):
            return
        self._services.cgroups.kill(container.id)
        if not await _within(exited, KILL_WAIT):
            raise EngineError(
                f"cannot stop container {container.name}: its processes do not end",
                hint="a process in uninterruptible sleep (state D) waits for a device or a network file system",
            )

    async def _sigkill(self, container: Container, shim: ShimPort) -> None:
        if container.config.pid_mode:
            self._services.cgroups.kill(container.id)
        else:
            await _signal(shim, SIGKILL)

    async def kill(self, container: Container, *, signal: str) -> None:
        """Send a signal to PID 1; for SIGKILL return once it has ended. Conflict when it does not run."""
        try:
            number = parse_signal(signal or "KILL")
        except InvalidInput as error:
            raise InvalidInput(
                f"cannot kill container: {container.name}: {error}", hint=error.hint
            ) from error
        own = parse_signal(container.config.stop_signal) if container.config.stop_signal else None
        stopping = cancels(own, number)
        async with container.lock:
            if container.record.state is ContainerState.RESTARTING and stopping:
                await self._cancel_restart(container)
                return
            if not container.running:
                raise Conflict(
                    f"cannot kill container: {container.name}: container {container.id} is not running"
                )
            shim = container.require_running()
            await self._mark_stopped(container, cancel=stopping)
            if stopping and container.record.state is ContainerState.PAUSED:
                await self._resume(container)
            exited = self._next_exit(container)
            self._services.publish(container, "kill", signal=str(number))
            if number != SIGKILL:
                container.exit_waiters.discard(exited)
                await _signal(shim, number)
                return
            await self._sigkill(container, shim)
        if not await _within(exited, KILL_WAIT):
            self._services.cgroups.kill(container.id)
            if not await _within(exited, KILL_WAIT):
                raise EngineError(f"cannot kill container {container.name}: its processes do not end")

    async def restart(self, container: Container, *, timeout: int | None, signal: str) -> None:  # noqa: ASYNC109 - seconds of Docker's API
        """Stop if it runs, then start; restart policies and --rm do not act in between."""
        container.restarting_by_hand = True
        try:
            try:
                await self.stop(container, timeout=timeout, signal=signal)
            except NotModified:
                pass  # it did not run: a restart starts it
            await self.start(container)
        finally:
            container.restarting_by_hand = False
        self._services.publish(container, "restart")

    # -- pause --------------------------------------------------------------------------------------------------------

    async def pause(self, container: Container) -> None:
        async with container.lock:
            if container.record.state is ContainerState.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            if container.record.state is ContainerState.RESTARTING:
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            container.require_running()
            await self._services.registry.save(container, container.moved(ContainerState.PAUSED))
            failpoint("engine.pause.recorded")
            await self._services.cgroups.freeze(container.id)
            self._prober.end(container, keep=True)
            self._services.publish(container, "pause")

    @asynccontextmanager
    async def frozen(self, container: Container) -> AsyncIterator[None]:
        """The processes of a running container stand still within; it keeps its state. The lock is held.

        An engine that dies meanwhile finds a running container that is frozen, and thaws it (recovery).
        """
        await self._services.cgroups.freeze(container.id)
        try:
            self._prober.end(container, keep=True)
            self._services.publish(container, "pause")
            yield
        finally:
            await self._services.cgroups.thaw(container.id)
            self._prober.begin(container)
            self._services.publish(container, "unpause")

    async def unpause(self, container: Container) -> None:
        async with container.lock:
            if container.record.state is not ContainerState.PAUSED:
                raise Conflict(f"Container {container.id} is not paused")
            await self._resume(container)

    async def _resume(self, container: Container) -> None:
        """From paused to running. The lock is held."""
        await self._thaw(container)
        await self._services.registry.save(container, container.record)
        self._prober.begin(container)
        self._services.publish(container, "unpause")

    async def _thaw(self, container: Container) -> None:
        """A frozen process takes no signal, not even SIGKILL on cgroup v1. The caller saves the record or ends the run."""
        if container.record.state is ContainerState.PAUSED:
            await self._services.cgroups.thaw(container.id)
            container.record = container.moved(ContainerState.RUNNING)
            failpoint("engine.unpause.thawed")

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, container: Container, condition: str) -> asyncio.Future[WaitResult]:
        """A future of the condition: not-running (at once if it does not run), next-exit, removed."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        live = (
            container.running
            or container.record.state is ContainerState.RESTARTING
            or container.record.starting
        )
        if condition == "removed":
            container.removal_waiters.add(future)
        elif condition == "next-exit" or live:
            container.exit_waiters.add(future)
        else:
            future.set_result(WaitResult(exit_code=container.record.exit_code, error=container.record.error))
        return future


def _no_removal(container: Container) -> None:
    raise AssertionError(f"nobody removes container {container.name}")


async def _signal(shim: ShimPort, number: int) -> None:
    """Signal PID 1. One that has just ended needs none: its exit is on the way to whoever waits."""
    try:
        await shim.signal(number)
    except Conflict:
        pass


async def _within(exited: asyncio.Future[WaitResult], seconds: float | None) -> bool:
    """Whether the exit was dealt with in time."""
    done, _ = await asyncio.wait({exited}, timeout=seconds)
    return bool(done)
