"""Execs: further processes in running containers. Created, started once, inspected until five minutes after their end.

Flows in: exec requests. Flows out: sessions (or none, detached), exit codes, events. Nothing of it is durable: as in
Docker, an exec is gone with the daemon that began it; the daemon held the other ends of its pipes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pystack.engine import bundles
from pystack.engine.container import Container
from pystack.engine.interface import AttachSession
from pystack.engine.names import random_id
from pystack.engine.ports import ExecPort
from pystack.engine.services import Services
from pystack.engine.sessions import DetachableSession, parse_detach_keys
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ExecSpec
from pystack.model.errors import Conflict, InvalidInput, NotFound, StartError
from pystack.model.observed import ExecView
from pystack.model.states import ContainerState

#: An ended exec can be inspected for this long, seconds.
KEEP = 300.0


@dataclass(slots=True, kw_only=True, eq=False)
class Exec:
    id: str
    container: Container
    spec: ExecSpec
    started: bool = False
    running: bool = False
    pid: int = 0
    exit_code: int | None = None
    process: ExecPort | None = None


class Execs:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._execs: dict[str, Exec] = {}

    def create(self, container: Container, spec: ExecSpec) -> str:
        """64 hex digits. Conflict when the container does not run or is paused."""
        if not spec.command:
            raise InvalidInput("No exec command specified")
        parse_detach_keys(spec.detach_keys)
        self._require(container)
        entry = Exec(id=random_id(), container=container, spec=spec)
        self._execs[entry.id] = entry
        container.exec_ids.add(entry.id)
        self._services.publish(container, f"exec_create: {' '.join(spec.command)}", execID=entry.id)
        return entry.id

    def _require(self, container: Container) -> None:
        if container.record.state is ContainerState.PAUSED:
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
        if container.record.state is ContainerState.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        container.require_running()

    def get(self, exec_id: str) -> Exec:
        entry = self._execs.get(exec_id)
        if entry is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return entry

    async def start(self, exec_id: str, *, detach: bool, tty: bool | None) -> AttachSession | None:
        """Start it, once. StartError with exit code 126 or 127 when its program cannot start."""
        entry = self.get(exec_id)
        container, spec = entry.container, entry.spec
        if entry.started:
            raise Conflict(f"Error: Exec command {exec_id} has already run")
        self._require(container)
        shim = container.require_running()
        entry.started = True
        process = bundles.exec_process(container.config, spec)
        if tty is not None:
            process["tty"] = tty
        stdin = spec.attach_stdin and not detach
        self._services.publish(container, f"exec_start: {' '.join(spec.command)}", execID=entry.id)
        try:
            running = await shim.exec(process, stdin=stdin)
        except StartError as error:
            entry.exit_code = error.exit_code
            self._expire(entry)
            raise StartError(
                f"OCI runtime exec failed: {error.message}", exit_code=error.exit_code, hint=error.hint
            ) from error
        failpoint("engine.exec.started")
        entry.process, entry.running, entry.pid = running, True, running.pid
        running.exited.add_done_callback(lambda done: _note_end(entry, done))
        self._services.background.spawn(self._watch(entry, running), f"exec in {container.name}")
        if detach:
            self._services.background.spawn(_drain(running), f"output of a detached exec in {container.name}")
            return None
        if not process["tty"]:
            return running

        def detached() -> None:
            self._services.publish(container, "exec_detach", execID=entry.id)
            self._services.background.spawn(_drain(running), f"output of an exec in {container.name}")

        return DetachableSession(running, parse_detach_keys(spec.detach_keys), detached)

    async def _watch(self, entry: Exec, running: ExecPort) -> None:
        try:
            entry.exit_code = await asyncio.shield(running.exited)
        finally:
            if entry.exit_code is None:
                entry.exit_code = 137  # the container ended under it
            entry.running = False
            self._expire(entry)
        self._services.publish(entry.container, "exec_die", execID=entry.id, exitCode=str(entry.exit_code))

    def _expire(self, entry: Exec) -> None:
        entry.container.exec_ids.discard(entry.id)
        asyncio.get_running_loop().call_later(KEEP, self._execs.pop, entry.id, None)

    def inspect(self, exec_id: str) -> ExecView:
        entry = self.get(exec_id)
        spec = entry.spec
        return ExecView(
            id=entry.id,
            container_id=entry.container.id,
            running=entry.running,
            exit_code=entry.exit_code,
            pid=entry.pid,
            command=spec.command,
            user=spec.user,
            tty=spec.tty,
            privileged=spec.privileged,
            open_stdin=spec.attach_stdin,
            open_stdout=spec.attach_stdout,
            open_stderr=spec.attach_stderr,
            detach_keys=spec.detach_keys,
        )

    async def resize(self, exec_id: str, *, rows: int, columns: int) -> None:
        entry = self.get(exec_id)
        if entry.process is None or not entry.running:
            raise Conflict(f"exec {exec_id} is not running")
        entry.process.resize(rows=rows, columns=columns)


def _note_end(entry: Exec, done: asyncio.Future[int]) -> None:
    """At once, before anybody who waits for the end goes on: an inspect that follows must tell the exit code."""
    if not done.cancelled():
        entry.exit_code, entry.running = done.result(), False


async def _drain(running: ExecPort) -> None:
    """Read what a process nobody listens to says, so that it never blocks; then let go of it."""
    while await running.receive() is not None:
        pass
    await running.close()
