"""One look at everything of a stack: its containers, networks and volumes by label, and what it names outside itself.

In comes the engine and the desired stack (or only a name), out goes an `ObservedStack`. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from pystack.engine.interface import Engine
from pystack.model.desired import Stack
from pystack.model.errors import NotFound
from pystack.model.observed import ObservedStack
from pystack.planner import labels
from pystack.planner.specs import joined_networks, stack_network

View = TypeVar("View")


async def _present(ref: str, inspect: Callable[[str], Awaitable[View]]) -> View | None:
    try:
        return await inspect(ref)
    except NotFound:
        return None


async def _by_name(names: Iterable[str], inspect: Callable[[str], Awaitable[View]]) -> list[View]:
    found = [await _present(name, inspect) for name in names]
    return [view for view in found if view is not None]


async def observe(
    engine: Engine, name: str, stack: Stack | None, recorded: Mapping[str, Mapping[str, object]]
) -> ObservedStack:
    """The stack as it is. `recorded` explains hashes of earlier revisions (see ObservedStack)."""
    mine = {"label": [f"{labels.PROJECT}={name}"]}
    containers = await engine.containers.list(all=True, filters=mine)
    networks = await engine.networks.list(mine)
    volumes = await engine.volumes.list(mine)
    images: dict[str, str] = {}
    if stack is not None:
        keys = {item.network for service in stack.services.values() for item in joined_networks(service)}
        wanted = {stack_network(stack, key).name for key in keys} - {view.name for view in networks}
        networks += await _by_name(sorted(wanted), engine.networks.inspect)
        missing = {volume.name for volume in stack.volumes.values()} - {view.name for view in volumes}
        volumes += await _by_name(sorted(missing), engine.volumes.inspect)
        for reference in sorted({service.image for service in stack.services.values()}):
            image = await _present(reference, engine.images.inspect)
            if image is not None:
                images[reference] = image.id
    return ObservedStack(
        name=name,
        containers=tuple(containers),
        networks=tuple(networks),
        volumes=tuple(volumes),
        images=images,
        recorded=recorded,
    )
