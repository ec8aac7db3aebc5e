"""Containers as the engine's callers see them: every verb of `interface.Containers`, each handed to the part that does it.

Flows in: references and requests. Flows out: views, streams, results. References become containers here.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from pystack.engine import clock, logs, stats, updating
from pystack.engine.container import Container
from pystack.engine.creation import Creation
from pystack.engine.execs import Execs
from pystack.engine.files import written_size
from pystack.engine.filters import container_matches, one_until, parse_until
from pystack.engine.interface import AttachSession, Created, Filters, LogEntry, LogOptions, Stats, WaitResult
from pystack.engine.lifecycle import Lifecycle
from pystack.engine.logdrivers.options import readable
from pystack.engine.names import check_name
from pystack.engine.services import Services
from pystack.engine.sessions import DetachableSession, LateSession, ReplaySession, parse_detach_keys
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ContainerSpec, ExecSpec, Resources, RestartPolicy
from pystack.model.errors import Conflict, EngineError, InvalidInput, NotFound, Unsupported
from pystack.model.observed import ContainerView, ExecView
from pystack.model.states import ContainerState
from pystack.model.turns import OneAtATime


class Containers:
    def __init__(self, services: Services, lifecycle: Lifecycle, creation: Creation, execs: Execs) -> None:
        self._services, self._lifecycle, self._creation, self._execs = services, lifecycle, creation, execs
        self._pruning = OneAtATime()

    def _get(self, ref: str) -> Container:
        return self._services.registry.get(ref)

    # -- lifecycle ----------------------------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec, name: str = "") -> Created:
        return await self._creation.create(spec, name)

    async def start(self, ref: str) -> None:
        await self._lifecycle.start(self._get(ref))

    async def stop(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:  # noqa: ASYNC109 - seconds of Docker's API
        await self._lifecycle.stop(self._get(ref), timeout=timeout, signal=signal)

    async def kill(self, ref: str, *, signal: str = "KILL") -> None:
        await self._lifecycle.kill(self._get(ref), signal=signal)

    async def restart(self, ref: str, *, timeout: int | None = None, signal: str = "") -> None:  # noqa: ASYNC109 - seconds of Docker's API
        await self._lifecycle.restart(self._get(ref), timeout=timeout, signal=signal)

    async def pause(self, ref: str) -> None:
        await self._lifecycle.pause(self._get(ref))

    async def unpause(self, ref: str) -> None:
        await self._lifecycle.unpause(self._get(ref))

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        await self._creation.remove(self._get(ref), force=force, volumes=volumes)

    async def rename(self, ref: str, name: str) -> None:
        container = self._get(ref)
        try:
            name = check_name(name)
        except InvalidInput as error:
            raise InvalidInput(f"Error when allocating new name: {error}") from error
        names, services = self._services.registry.names, self._services
        async with container.lock:
            old = container.name
            if container.record.removing:
                raise Conflict(f"container {old} is marked for removal and cannot be renamed")
            if name == old:
                raise InvalidInput("Renaming a container with the same name as its current name")
            names.reserve(name, container.id)
            try:
                await services.registry.save(container, replace(container.record, name=name))
            except EngineError:
                names.release(name, container.id)
                container.record = replace(container.record, name=old)
                raise
            names.release(old, container.id)
            failpoint("engine.rename.done")
        services.publish(container, "rename", oldName=f"/{old}")

    async def update(
        self, ref: str, *, resources: Resources | None, restart: RestartPolicy | None
    ) -> tuple[str, ...]:
        """Change limits (live when it runs) and the restart policy; returns warnings. See `engine.updating`."""
        return await updating.update(self._services, self._lifecycle.oom, self._get(ref), resources, restart)

    async def wait(
        self, ref: str, condition: str = "not-running", *, ready: Callable[[], None] | None = None
    ) -> WaitResult:
        if condition not in {"", "not-running", "next-exit", "removed"}:
            raise InvalidInput(f'invalid condition: "{condition}"')
        container = self._get(ref)
        future = self._lifecycle.wait(container, condition or "not-running")
        if ready is not None:
            ready()
        try:
            return await future
        finally:
            container.exit_waiters.discard(future)
            container.removal_waiters.discard(future)

    async def prune(self, filters: Filters | None = None) -> tuple[builtins.list[str], int]:
        """Remove containers that have ended: (ids, bytes of what they had written)."""
        filters = dict(filters or {})
        before = [parse_until(v) for v in one_until(filters)]
        filters.pop("until", None)
        removed, reclaimed = [], 0
        with self._pruning:
            for container in self._services.registry:
                view = container.view()
                young = any(clock.parse_ns(view.created) > limit for limit in before)
                ended = view.state in {ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD}
                if young or not ended or container.record.starting or not container_matches(view, filters):
                    continue
                size = await self._services.disk.run(partial(written_size, container.record.upper_dir))
                try:
                    await self._creation.remove(container, force=False, volumes=False)
                except (Conflict, NotFound):
                    continue  # started or removed by somebody else meanwhile
                removed.append(container.id)
                reclaimed += size
            self._services.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    # -- looking ------------------------------------------------------------------------------------------------------

    async def inspect(self, ref: str) -> ContainerView:
        return self._get(ref).view()

    async def list(
        self, *, all: bool = False, filters: Filters | None = None, limit: int = 0
    ) -> builtins.list[ContainerView]:
        """Newest first. Without `all` only running ones, unless a filter on the state or a limit asks for others."""
        filters = filters or {}
        views = sorted((c.view() for c in self._services.registry), key=lambda v: v.created, reverse=True)
        for key, keep_older in (("before", True), ("since", False)):
            for ref in filters.get(key, ()):
                pivot = self._get(ref).record.created
                views = [v for v in views if (v.created < pivot if keep_older else v.created > pivot)]
        everything = all or limit > 0 or any(k in filters for k in ("status", "exited"))
        live = {ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING}
        found = [v for v in views if (everything or v.state in live) and container_matches(v, filters)]
        return found[:limit] if limit > 0 else found

    async def stats(self, ref: str, *, max_age: float = 0.0) -> Stats:
        """One sample; one that was taken for somebody else in the last `max_age` seconds will do."""
        return stats.shared(self._services, self._get(ref), max_age)

    async def top(
        self, ref: str, ps_args: str = "-ef"
    ) -> tuple[builtins.list[str], builtins.list[builtins.list[str]]]:
        container = self._get(ref)
        found = stats.top(self._services, container, ps_args)
        self._services.publish(container, "top")
        return found

    # -- streams ------------------------------------------------------------------------------------------------------

    async def logs(self, ref: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        container = self._get(ref)
        if not readable(container.config.log):
            raise Unsupported(
                "configured logging driver does not support reading",
                hint="it is none, or has the option cache-disabled",
            )
        entries = logs.read(
            container.log_path, options, ended=lambda: not container.running, watcher=self._services.watcher
        )
        async for entry in entries:
            yield entry

    async def attach(
        self, ref: str, *, stdin: bool, stdout: bool, stderr: bool, logs: bool = False, detach_keys: str = ""
    ) -> AttachSession:
        """Attach now, or, to a container that does not run, before its first byte."""
        container, services = self._get(ref), self._services
        keys = parse_detach_keys(detach_keys)
        if container.record.state is ContainerState.PAUSED:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if container.record.state is ContainerState.RESTARTING:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        session = await self._live_session(container, stdin and container.config.open_stdin, stdout, stderr)
        services.publish(container, "attach")
        if logs:
            wanted = [name for name, on in (("stdout", stdout), ("stderr", stderr)) if on]
            past = self.logs(container.id, LogOptions(until=clock.now_ns()))
            session = ReplaySession(session, past, wanted)
        if container.config.tty and stdin:
            session = DetachableSession(session, keys, lambda: self._detached(container))
        return session

    async def _live_session(
        self, container: Container, stdin: bool, stdout: bool, stderr: bool
    ) -> AttachSession:
        if container.running:
            return await container.require_running().attach(stdin=stdin, stdout=stdout, stderr=stderr)
        session = LateSession(tty=container.config.tty, stdin=stdin, stdout=stdout, stderr=stderr)
        container.awaiting_start = [s for s in container.awaiting_start if s.open]
        container.awaiting_start.append(session)
        return session

    def _detached(self, container: Container) -> None:
        self._services.publish(container, "detach")

    async def resize(self, ref: str, *, rows: int, columns: int) -> None:
        container = self._get(ref)
        await container.require_running().resize(rows=rows, columns=columns)
        self._services.publish(container, "resize", height=str(rows), width=str(columns))

    # -- exec ---------------------------------------------------------------------------------------------------------

    async def exec_create(self, ref: str, spec: ExecSpec) -> str:
        return self._execs.create(self._get(ref), spec)

    async def exec_start(
        self, exec_id: str, *, detach: bool = False, tty: bool | None = None
    ) -> AttachSession | None:
        return await self._execs.start(exec_id, detach=detach, tty=tty)

    async def exec_inspect(self, exec_id: str) -> ExecView:
        return self._execs.inspect(exec_id)

    async def exec_resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        await self._execs.resize(exec_id, rows=rows, columns=columns)
