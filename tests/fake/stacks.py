"""Short ways to write stacks, and a world that a plan can be applied to, for planner and reconciler tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fake.engine import FakeEngine

from pystack.model.desired import Condition, Dependency, Service, Stack, StackNetwork, StackVolume
from pystack.model.observed import ObservedStack
from pystack.model.plan import Plan, PlanOptions
from pystack.planner.hashing import digest, service_document
from pystack.planner.plan import plan
from pystack.reconciler.execute import Outcome, execute
from pystack.reconciler.observe import observe
from pystack.reconciler.progress import Progress

CONDITIONS: Mapping[str, Condition] = {
    "started": "service_started",
    "healthy": "service_healthy",
    "done": "service_completed_successfully",
}


def after(*names: str, restart: bool = False, required: bool = True) -> tuple[Dependency, ...]:
    """`after("db:healthy", "cache")`."""
    found = []
    for name in names:
        service, _, condition = name.partition(":")
        wanted = CONDITIONS[condition or "started"]
        found.append(Dependency(service=service, condition=wanted, restart=restart, required=required))
    return tuple(found)


def service(name: str, **changes: Any) -> Service:
    return Service(**{"name": name, "image": "busybox", "command": ("sleep", "inf"), **changes})


def stack(*services: Service, name: str = "shop", **changes: Any) -> Stack:
    volumes = {
        mount.source: StackVolume(key=mount.source, name=f"{name}_{mount.source}")
        for item in services
        for mount in item.mounts
        if mount.type == "volume" and mount.source
    }
    networks = {
        joined.network: StackNetwork(key=joined.network, name=f"{name}_{joined.network}")
        for item in services
        for joined in item.networks
    }
    parts = {"networks": networks, "volumes": volumes, **changes}
    return Stack(
        name=name,
        working_dir="/work/shop",
        config_files=("/work/shop/stack.yml",),
        services={item.name: item for item in services},
        **parts,
    )


class World:
    """A fake engine with one stack, whose planner and executor are the real ones."""

    def __init__(self, name: str = "shop", engine: FakeEngine | None = None) -> None:
        self.name = name
        self.engine = engine or FakeEngine()
        self.recorded: dict[str, Mapping[str, object]] = {}
        self.events: list[Progress] = []

    async def observe(self, desired: Stack | None) -> ObservedStack:
        return await observe(self.engine, self.name, desired, self.recorded)

    async def plan(self, desired: Stack | None, *targets: str, **options: Any) -> Plan:
        chosen = PlanOptions(**options)
        return plan(desired, await self.observe(desired), chosen, targets=targets)

    async def apply(self, desired: Stack | None, *targets: str, **options: Any) -> Outcome:
        drawn = await self.plan(desired, *targets, **options)
        for item in desired.services.values() if desired else ():
            document = service_document(desired, item)
            self.recorded[digest(document)] = document
        return await execute(drawn, self.engine, self.events.append)

    async def up(self, desired: Stack, *targets: str, **options: Any) -> Outcome:
        outcome = await self.apply(desired, *targets, **options)
        assert outcome.ok, outcome.failures
        return outcome

    def states(self) -> dict[str, str]:
        return {view.name: str(view.state) for view in self.engine.containers.views.values()}

    def ids(self) -> dict[str, str]:
        return {view.name: view.id for view in self.engine.containers.views.values()}

    def calls(self, *kinds: str) -> list[str]:
        """The engine calls of these kinds ("start") so far, in order, as "start:shop-web-1"."""
        found = [call.partition(".")[2] for call in self.engine.calls]
        return [call for call in found if not kinds or call.partition(":")[0] in kinds]
