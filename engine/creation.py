"""Creating and removing containers: the record first, then what it announces; removal in a fixed order.

Flows in: create requests. Flows out: records in state `created` with directory, snapshot and volumes; or nothing at
all. Removal: mark `removing` (durable) → process gone → network, cgroup → snapshot → volumes → directory → record.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from dataclasses import replace

from pystack.engine import clock, materialise, remap
from pystack.engine.container import Container, ContainerRecord, MountRecord
from pystack.engine.defaults import with_defaults
from pystack.engine.interface import Created
from pystack.engine.lifecycle import Lifecycle
from pystack.engine.merge import merge
from pystack.engine.names import check_name, random_id
from pystack.engine.services import Services
from pystack.engine.starting import discard_shim_dir, write_file
from pystack.engine.validation import check
from pystack.kernel.failpoints import failpoint
from pystack.kernel.host import facts
from pystack.kernel.rootpath import remove_tree
from pystack.model.container import ContainerSpec
from pystack.model.errors import Conflict, EngineError, InvalidInput, NotFound, PystackError
from pystack.model.states import ContainerState

log = logging.getLogger(__name__)


class Creation:
    def __init__(self, services: Services, lifecycle: Lifecycle) -> None:
        self._services, self._lifecycle = services, lifecycle

    # -- create -------------------------------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec, name: str = "") -> Created:
        """A container in state `created`. InvalidInput, NotFound (image, network, container) or Conflict (name)."""
        services = self._services
        names = services.registry.names
        container_id = random_id()
        if name:
            name = check_name(name)
            names.reserve(name, container_id)
        async with AsyncExitStack() as undo:
            if name:
                undo.callback(names.release, name, container_id)
            image = await services.images.ensure(spec.image)
            config = self._resolved(merge(with_defaults(spec, services.settings), image.config, container_id))
            if not config.cgroupns_mode:
                v2 = services.cgroups.hierarchy.mode == "v2"
                config = replace(config, cgroupns_mode="private" if v2 else "host")
            remap.check(services.remap, config)
            warnings = check(config, facts(), services.cgroups.features)
            if not name:
                name = names.reserve_random(container_id)
                undo.callback(names.release, name, container_id)
            record = ContainerRecord(
                id=container_id,
                name=name,
                created=clock.now(),
                spec=spec,
                config=config,
                image_id=image.id,
                shell=image.config.shell,
                mounts=materialise.plan(services, config),
                removing=True,  # until all is made: recovery removes a half-made container
                remove_volumes=True,
            )
            container = Container(record=record, instance=services.instance)
            services.registry.making.add(container)
            undo.callback(services.registry.making.discard, container)
            await services.registry.save(container, record)
            failpoint("engine.create.intent")
            undo.push_async_callback(self._undo_create, container)
            await self._furnish(container)
            failpoint("engine.create.furnished")
            await services.registry.save(
                container, replace(container.record, removing=False, remove_volumes=False)
            )
            undo.pop_all()
        services.registry.making.discard(container)
        services.registry.adopt(container)
        failpoint("engine.create.done")
        services.publish(container, "create")
        return Created(id=container_id, warnings=tuple(warnings))

    def _resolved(self, config: ContainerSpec) -> ContainerSpec:
        """References to other containers as ids, so that a rename later changes nothing."""

        def resolve(mode: str) -> str:
            kind, _, ref = mode.partition(":")
            if kind != "container" or not ref:
                return mode
            try:
                return f"container:{self._services.registry.get(ref).id}"
            except NotFound as error:  # clients read "not found" as: pull the image
                raise InvalidInput(str(error)) from error

        if not any(
            mode.startswith("container:") for mode in (config.network_mode, config.pid_mode, config.ipc_mode)
        ):
            return config
        return replace(
            config,
            network_mode=resolve(config.network_mode),
            pid_mode=resolve(config.pid_mode),
            ipc_mode=resolve(config.ipc_mode),
        )

    async def _furnish(self, container: Container) -> None:
        """Directory, snapshot, files and volumes."""
        upper = self._make_files(container)
        mounts = await materialise.make(self._services, container)
        container.record = replace(container.record, mounts=mounts, upper_dir=upper)

    def _make_files(self, container: Container) -> str:
        """Returns the upper directory. Here, not in a thread: three directories cost less than the way there and back."""
        os.mkdir(container.directory, 0o700)
        failpoint("engine.create.directory")
        snapshot = self._services.images.snapshots.prepare(container.id, container.record.image_id)
        failpoint("engine.create.snapshot")
        self._write_files(container)
        return snapshot.upper

    def _write_files(self, container: Container) -> None:
        """Secrets and configs, below the container's 0700 directory, with the owner and mode that were asked for."""
        files = container.config.files
        if files:
            os.makedirs(f"{container.directory}/files", mode=0o700, exist_ok=True)
        for number, file in enumerate(files):
            path = f"{container.directory}/files/{number}"
            write_file(path, file.content, mode=file.mode, uid=file.uid, gid=file.gid)

    async def _undo_create(self, container: Container) -> None:
        self._services.registry.making.discard(container)  # or its anonymous volumes would count as in use
        await self._delete(container, volumes=True)

    # -- remove -------------------------------------------------------------------------------------------------------

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Conflict when it runs, or is being removed already. With `force` neither: it is gone when this returns.

        The intent is durable before the process is killed: an engine that dies in between goes on with the removal when
        it starts again. From then on nothing starts the container any more.
        """
        if container.removers and not force:
            raise Conflict(f"removal of container {container.name} is already in progress")
        async with container.lock:
            if self._is_gone(container, force=force):
                return
            live = container.running or container.record.state is ContainerState.RESTARTING
            if not (live and force):
                _refuse_live(container)
            await self._intend(container, volumes=volumes, live=live)
            container.removers += 1
        try:
            if live:
                await self._kill(container)
            async with container.lock:
                if self._is_gone(container, force=force):
                    return
                await self._remove(container)
        finally:
            container.removers -= 1
        container.notify_removed()
        self._services.publish(container, "destroy")

    def _is_gone(self, container: Container, *, force: bool) -> bool:
        """Whether somebody else (--rm, another client) was faster: with `force` that is what was wanted, else NotFound."""
        if self._services.registry.find(container.id) is not None:
            return False
        if force:
            return True
        raise NotFound(f"No such container: {container.name}")

    async def _intend(self, container: Container, *, volumes: bool, live: bool) -> None:
        """The lock is held."""
        container.cancel_backoff()
        record = container.record
        await self._services.registry.amend(
            container,
            removing=True,
            remove_volumes=volumes or (record.removing and record.remove_volumes),
            state=record.state if live else ContainerState.REMOVING,
        )
        failpoint("engine.remove.intent")

    async def _kill(self, container: Container) -> None:
        """End its process, or the restart that is due. If that cannot be done the container stays, as it was."""
        try:
            await self._lifecycle.kill(container, signal="KILL")
        except Conflict:
            pass  # it ended in between
        except asyncio.CancelledError:
            # The caller has gone, but a removal that has begun does not stop half-way; when the engine ends, the next one
            # goes on with it.
            if not self._services.closing:
                self.remove_later(container, volumes=container.record.remove_volumes)
            raise
        except Exception:
            await self._services.registry.amend(container, removing=False, remove_volumes=False)
            raise

    async def _remove(self, container: Container) -> None:
        """The lock is held, the intent is recorded, and it does not run."""
        await container.written("remove")
        if container.record.state is not ContainerState.REMOVING:
            await self._services.registry.amend(container, state=ContainerState.REMOVING)
        if container.leftovers:
            await self._lifecycle.release_leftovers(container)
        await self._delete(container, volumes=container.record.remove_volumes)

    async def finish_removal(self, container: Container) -> None:
        """Recovery: go on with a removal, or undo a half-made create. The lock is held."""
        await self._lifecycle.release_leftovers(container)
        await self._delete(container, volumes=container.record.remove_volumes)

    async def _delete(self, container: Container, *, volumes: bool) -> None:
        """Everything on disk, then the record: whatever fails before leaves a record that says what is left to do."""
        services = self._services
        discard_shim_dir(container)
        await self._lifecycle.forwarding.end(container)
        try:
            await services.disk.run(lambda: self._remove_files(container))
        except (OSError, PystackError) as error:
            raise EngineError(f"cannot remove container {container.name}: {error}") from error
        if volumes:
            await self._remove_volumes(container.record.mounts)
        await services.registry.forget(container)
        failpoint("engine.remove.record")

    def _remove_files(self, container: Container) -> None:
        """In a thread."""
        self._services.images.snapshots.remove(container.id)
        failpoint("engine.remove.snapshot")
        remove_tree(container.directory)
        failpoint("engine.remove.directory")

    async def _remove_volumes(self, mounts: tuple[MountRecord, ...]) -> None:
        """Anonymous volumes of the container that nobody else uses."""
        for mount in mounts:
            if not mount.anonymous:
                continue
            try:
                await self._services.volumes.remove(mount.view.name)
            except (Conflict, NotFound):
                continue  # another container has it by --volumes-from, or it is gone
            failpoint("engine.remove.volume")

    def auto_remove(self, container: Container) -> None:
        """--rm: remove a container that has ended, in the background."""
        self.remove_later(container, volumes=True)

    def remove_later(self, container: Container, *, volumes: bool) -> None:
        """Remove by force, in the background."""

        async def work() -> None:
            try:
                await self.remove(container, force=True, volumes=volumes)
            except (Conflict, NotFound):
                pass  # somebody else removes it: all that was wanted

        self._services.background.spawn(work(), f"remove {container.name}")


def _refuse_live(container: Container) -> None:
    """Conflict, in Docker's words, unless the container has ended."""
    state = container.record.state
    if state is ContainerState.PAUSED:
        raise Conflict(
            f'cannot remove container "/{container.name}": container is paused and must be unpaused first'
        )
    if container.running or state is ContainerState.RESTARTING:
        text = "container is restarting" if state is ContainerState.RESTARTING else "container is running"
        advice = "stop the container before removing or force remove"
        raise Conflict(f'cannot remove container "/{container.name}": {text}: {advice}')
