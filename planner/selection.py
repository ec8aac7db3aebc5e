"""Which services of a stack are meant, and with how many replicas. In comes the file's stack, out goes the part to plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pystack.model.desired import Service, Stack
from pystack.model.errors import InvalidInput, NotFound
from pystack.planner.specs import dependencies


def select(stack: Stack, targets: Iterable[str], *, no_deps: bool) -> dict[str, Service]:
    """The services that targets mean: themselves and, unless `no_deps`, what they depend on; all without targets."""
    chosen: dict[str, Service] = {}
    waiting = list(targets) or list(stack.services)
    for name in waiting:
        if name not in stack.services:
            raise NotFound(
                f"no such service: {name}",
                hint=f"stack {stack.name} has: {', '.join(sorted(stack.services))}",
            )
    while waiting:
        name = waiting.pop()
        if name in chosen:
            continue
        service = chosen[name] = stack.services[name]
        for item in () if no_deps else dependencies(service):
            if item.service in stack.services:
                waiting.append(item.service)
            elif item.required:
                raise InvalidInput(
                    f"service {name!r} depends on {item.service!r}, which is not defined or not enabled"
                )
    return chosen


def scaled(stack: Stack, scale: Iterable[tuple[str, int]]) -> Stack:
    """The stack with other numbers of replicas. Raises NotFound for a service that it does not have."""
    services = dict(stack.services)
    for name, replicas in scale:
        if name not in services:
            raise NotFound(f"cannot scale {name}: no such service")
        if services[name].container_name and replicas > 1:
            raise InvalidInput(
                f"cannot scale {name} to {replicas}: its container_name {services[name].container_name!r} is one name",
                hint="take container_name out of the file",
            )
        services[name] = replace(services[name], replicas=replicas)
    return replace(stack, services=services)
