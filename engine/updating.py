"""`update`: new limits and a new restart policy for a container, live when it runs.

Flows in: what shall change. Flows out: warnings; the record, the cgroup and the event `update`. The new limits are
durable, marked as not yet applied, before the kernel is told: an engine that dies in between applies them when it
starts again.
"""

from __future__ import annotations

from dataclasses import replace

from pystack.engine.container import Container, ContainerRecord
from pystack.engine.oom import OomReporter
from pystack.engine.resources import check_limits, check_restart, merged, to_write, undoing
from pystack.engine.services import Services
from pystack.kernel.failpoints import failpoint
from pystack.kernel.host import facts
from pystack.model.container import Resources, RestartPolicy
from pystack.model.errors import Conflict, InvalidInput
from pystack.model.states import ContainerState


async def update(
    services: Services,
    oom: OomReporter,
    container: Container,
    resources: Resources | None,
    restart: RestartPolicy | None,
) -> tuple[str, ...]:
    """Returns warnings. InvalidInput or Conflict in Docker's words; then everything is as it was before."""
    warnings: list[str] = []
    if resources is not None:
        warnings += check_limits(resources, facts(), services.cgroups.features, update=True)
    if restart is not None:
        check_restart(restart)
    async with container.lock:
        before = container.record
        if before.removing or before.state is ContainerState.DEAD:
            raise Conflict(
                f'Cannot update container {container.id}: container is marked for removal and cannot be "update"'
            )
        after = _changed(before, resources, restart)
        live = resources is not None and container.running
        await services.registry.save(container, replace(after, updating=live))
        failpoint("engine.update.recorded")
        if live and resources is not None:
            try:
                warnings += await _apply(services, container, to_write(after.config.resources, resources))
            except Exception:
                await _undo(services, container, before, resources)
                raise
            failpoint("engine.update.limits")
            await services.registry.amend(container, updating=False)
            oom.begin(container)
    services.publish(container, "update")
    return tuple(dict.fromkeys(warnings))


def _changed(
    record: ContainerRecord, resources: Resources | None, restart: RestartPolicy | None
) -> ContainerRecord:
    config, spec = record.config, record.spec
    if resources is not None:
        found = merged(record.id, config.resources, resources)
        config, spec = replace(config, resources=found), replace(spec, resources=found)
    if restart is not None:
        if config.auto_remove and restart.name != "no":
            text = "Restart policy cannot be updated because AutoRemove is enabled for the container"
            raise Conflict(f"Cannot update container {record.id}: {text}")
        config, spec = replace(config, restart=restart), replace(spec, restart=restart)
    return replace(record, config=config, spec=spec)


async def _apply(services: Services, container: Container, limits: Resources) -> list[str]:
    """In a thread: a lower memory limit lets the kernel reclaim first, which takes its time."""
    return await services.disk.run(lambda: services.cgroups.update(container.id, limits))


async def _undo(services: Services, container: Container, before: ContainerRecord, asked: Resources) -> None:
    """The record first; what the kernel had taken already is taken back as far as it lets."""
    await services.registry.save(
        container, replace(container.record, config=before.config, spec=before.spec, updating=False)
    )
    try:
        await _apply(services, container, undoing(before.config.resources, asked))
    except InvalidInput:
        pass  # a value that is as it was, or that this kernel refuses both ways


async def finish(services: Services, container: Container) -> None:
    """After a restart of the engine: apply what was recorded and perhaps not applied. The lock is held."""
    resources = container.config.resources
    try:
        await _apply(services, container, replace(resources, pids_limit=resources.pids_limit or 0))
    finally:
        await services.registry.amend(container, updating=False)
