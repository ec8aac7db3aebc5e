"""`docker commit`: a container's record and what it has written in, an image of it out.

The container's lock is held meanwhile, and with `pause` its processes stand still, so that the layer is of one moment.
moby `daemon/commit.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from pystack.engine import clock
from pystack.engine.container import Container
from pystack.engine.interface import CommitRequest
from pystack.engine.lifecycle import Lifecycle
from pystack.engine.services import Services
from pystack.image import changes
from pystack.image.newimage import About
from pystack.image.references import Reference, normalise, parse
from pystack.kernel.failpoints import failpoint
from pystack.model.container import ContainerSpec, Healthcheck
from pystack.model.errors import Conflict, InvalidInput
from pystack.model.states import ContainerState


async def commit(
    services: Services, lifecycle: Lifecycle, container: Container, request: CommitRequest
) -> str:
    """The id of the new image. InvalidInput for a bad change or name, Conflict for a container that is going away."""
    reference = _reference(request)
    asked = dict(request.config) if request.config is not None else None
    own = config_of(container.config, container.record.shell)
    config = merge(changes.apply(own if asked is None else asked, request.changes), own)
    async with container.lock, AsyncExitStack() as stack:
        if container.record.state is ContainerState.DEAD:
            raise Conflict(f"You cannot commit container {container.id} which is Dead")
        if container.record.removing:
            raise Conflict(f"You cannot commit container {container.id} which is being removed")
        await container.written("commit")
        if request.pause and container.record.state is ContainerState.RUNNING:
            await stack.enter_async_context(lifecycle.frozen(container))
        about = About(
            config=config,
            created=clock.now(),
            created_by=" ".join(container.config.command or ()),
            author=request.author,
            comment=request.comment,
        )
        image_id = await services.images.commit(
            container.record.image_id, container.record.upper_dir, about, reference
        )
        failpoint("engine.commit.done")
        services.publish(
            container,
            "commit",
            comment=request.comment,
            imageID=image_id,
            imageRef=reference.familiar if reference else "",
        )
    return image_id


def _reference(request: CommitRequest) -> Reference | None:
    if not request.repository:
        return None
    name = parse(request.repository)
    if name.digest:
        raise InvalidInput(f"cannot commit to {request.repository}: a digest is not a name for what is new")
    if request.tag:
        if name.tag:
            raise InvalidInput(f"unexpected repository name: {request.repository}")
        return normalise(f"{request.repository}:{request.tag}")
    return normalise(request.repository)


def config_of(config: ContainerSpec, shell: tuple[str, ...]) -> dict[str, Any]:
    """The config object of an image of this container, as Docker writes it."""
    return {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": list(config.env),
        "Cmd": None if config.command is None else list(config.command),
        "Healthcheck": None if config.healthcheck is None else _healthcheck(config.healthcheck),
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.working_dir,
        "Entrypoint": None if config.entrypoint is None else list(config.entrypoint),
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(shell),
    }


def _healthcheck(health: Healthcheck) -> dict[str, Any]:
    found = {
        "Test": list(health.test),
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
        "Retries": health.retries,
    }
    return {key: value for key, value in found.items() if value}


def merge(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, with what it leaves open from the container's (moby's rules: a command goes with its entrypoint)."""
    merged = dict(config)
    for key in ("User", "WorkingDir", "StopSignal", "Shell"):
        merged[key] = config.get(key) or base.get(key)
    for key in ("ExposedPorts", "Volumes", "Labels"):
        merged[key] = {**(base.get(key) or {}), **(config.get(key) or {})}
    env = list(config.get("Env") or ())
    names = {entry.partition("=")[0] for entry in env}
    merged["Env"] = env + [e for e in base.get("Env") or () if e.partition("=")[0] not in names]
    if not config.get("Entrypoint"):
        merged["Cmd"] = config.get("Cmd") or base.get("Cmd")
        if config.get("Entrypoint") is None:
            merged["Entrypoint"] = base.get("Entrypoint")
    health, below = config.get("Healthcheck"), base.get("Healthcheck")
    if below is not None:
        merged["Healthcheck"] = {**below, **{k: v for k, v in (health or {}).items() if v}}
    return merged
