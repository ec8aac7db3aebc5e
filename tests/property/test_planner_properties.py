"""What holds of every plan, for stacks and worlds that nobody thought of."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest
from fake.engine import Program
from fake.stacks import World, after, service, stack
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pystack.model.container import Mount, RestartPolicy
from pystack.model.desired import Service, ServiceNetwork, Stack, StackNetwork
from pystack.model.plan import Plan, PlanOptions, StartContainer, StopContainer
from pystack.planner.lifecycle import plan_stop
from pystack.planner.specs import dependencies

pytestmark = pytest.mark.timeout(300)
SETTINGS = settings(
    max_examples=int(os.environ.get("PYSTACK_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

NAMES = ("a", "b", "c", "d", "e")
#: What containers of each service do: e is a one-shot, d tells of its health.
PROGRAMS = {"e": Program(exit_code=0), "d": Program(healthy_after=0.0)}


@st.composite
def services(draw: st.DrawFn, name: str) -> Service:
    """A service that may depend on earlier ones, with the conditions that those can meet."""
    earlier = NAMES[: NAMES.index(name)]
    chosen = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
    wanted = []
    for other in chosen:
        condition = {"d": ":healthy", "e": ":done"}.get(other, "") if draw(st.booleans()) else ""
        wanted += after(other + condition, restart=draw(st.booleans()))
    shares = draw(st.sampled_from(("", *(f"service:{other}" for other in earlier)))) if name != "a" else ""
    return service(
        name,
        replicas=draw(st.integers(1, 3)),
        environment=draw(st.dictionaries(st.sampled_from("XY"), st.sampled_from("12"), max_size=2)),
        depends_on=tuple(wanted),
        network_mode=shares,
        networks=()
        if shares
        else tuple(
            ServiceNetwork(network=key)
            for key in draw(st.lists(st.sampled_from(("front", "back")), unique=True, max_size=2))
        ),
        mounts=(Mount(type="volume", source="data", target="/data"),) * draw(st.integers(0, 1)),
        restart=RestartPolicy(name="no" if name == "e" else draw(st.sampled_from(("no", "always")))),
    )


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    made = stack(*(draw(services(name)) for name in names))
    networks = {key: replace(network, internal=draw(st.booleans())) for key, network in made.networks.items()}
    networks["default"] = StackNetwork(key="default", name="shop_default", internal=draw(st.booleans()))
    return replace(made, networks=networks)


#: What may befall a container behind the planner's back.
ACCIDENTS = st.lists(
    st.tuples(st.sampled_from(("stop", "die", "remove", "pause")), st.integers(0, 20)), max_size=4
)


async def _befall(world: World, accidents: list[tuple[str, int]]) -> None:
    for what, which in accidents:
        views = sorted(world.engine.containers.views.values(), key=lambda item: item.name)
        if not views:
            return
        view = views[which % len(views)]
        if what == "remove":
            await world.engine.containers.remove(view.id, force=True)
        elif view.state == "running":
            if what == "stop":
                await world.engine.containers.stop(view.id)
            elif what == "die":
                await world.engine.containers.finish(view.id, 1)
            else:
                await world.engine.containers.pause(view.id)


def _world() -> World:
    world = World()
    world.engine.programs = dict(PROGRAMS)
    return world


def _unpaused(accidents: list[tuple[str, int]], wanted: Stack) -> bool:
    """A paused container is never healthy: nothing that waits for it can go on, which is as it should be."""
    waits = any(d.condition == "service_healthy" for s in wanted.services.values() for d in s.depends_on)
    return not (waits and any(what == "pause" for what, _ in accidents))


@SETTINGS
@given(first=stacks(), second=stacks(), accidents=ACCIDENTS)
def test_applying_a_plan_converges_from_any_state(first: Stack, second: Stack, accidents: Any) -> None:
    assume(_unpaused(accidents, first) and _unpaused(accidents, second))

    async def scenario() -> None:
        world = _world()
        await world.up(first)
        assert (await world.plan(first)).render() == ""
        await _befall(world, accidents)
        await world.up(second, remove_orphans=True, known=())
        again = await world.plan(second, remove_orphans=True, known=(), wait=True)
        assert again.changes == 0, again.render()
        expected = {
            f"shop-{item.name}-{number + 1}"
            for item in second.services.values()
            for number in range(item.replicas)
        }
        assert len(world.states()) == len(expected)
        by_service = {name.rpartition("-")[0] for name in world.states()}
        assert by_service == {name.rpartition("-")[0] for name in expected}

    asyncio.run(scenario())


@SETTINGS
@given(wanted=stacks(), accidents=ACCIDENTS)
def test_same_input_same_text(wanted: Stack, accidents: Any) -> None:
    async def scenario() -> tuple[str, str, str]:
        world = _world()
        await world.up(wanted)
        await _befall(world, accidents)
        one = (await world.plan(wanted, force_recreate=True)).render()
        turned = replace(wanted, services=dict(reversed(wanted.services.items())))
        return (
            one,
            (await world.plan(wanted, force_recreate=True)).render(),
            (await world.plan(turned, force_recreate=True)).render(),
        )

    one, two, turned = asyncio.run(scenario())
    assert one == two
    assert one == turned


def _ancestors(drawn: Plan, number: int) -> set[int]:
    steps = {step.id: step for step in drawn.steps}
    found: set[int] = set()
    waiting = list(steps[number].needs)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += steps[key].needs
    return found


def _service(resource: str) -> str:
    return resource.removeprefix("Container shop-").rpartition("-")[0]


@SETTINGS
@given(first=stacks(), second=stacks())
def test_starts_come_after_what_they_depend_on_and_steps_after_their_needs(
    first: Stack, second: Stack
) -> None:
    async def scenario() -> Plan:
        world = _world()
        await world.up(first)
        return await world.plan(second)

    drawn = asyncio.run(scenario())
    for step in drawn.steps:
        assert all(need < step.id for need in step.needs)
    starts = {step.id: step for step in drawn.steps if isinstance(step.operation, StartContainer)}
    for number, step in starts.items():
        before = _ancestors(drawn, number)
        for item in dependencies(second.services[_service(step.operation.resource)]):
            for other, start in starts.items():
                if _service(start.operation.resource) == item.service:
                    assert other in before


@SETTINGS
@given(wanted=stacks(), accidents=ACCIDENTS)
def test_stop_and_down_start_nothing_and_stop_dependants_first(wanted: Stack, accidents: Any) -> None:
    async def scenario() -> list[Plan]:
        world = _world()
        await world.up(wanted)
        await _befall(world, accidents)
        return [plan_stop(await world.observe(None), PlanOptions()), await world.plan(None)]

    for drawn in asyncio.run(scenario()):
        kinds = {step.operation.kind for step in drawn.steps}
        assert kinds <= {"StopContainer", "RemoveContainer", "RemoveNetwork"}
        stops = {step.id: step for step in drawn.steps if isinstance(step.operation, StopContainer)}
        for number, step in stops.items():
            mine = _service(step.operation.resource)
            before = _ancestors(drawn, number)
            for other, stop in stops.items():
                needs = dependencies(wanted.services[_service(stop.operation.resource)])
                if any(item.service == mine for item in needs):
                    assert other in before


@SETTINGS
@given(wanted=stacks())
def test_down_leaves_nothing_of_the_stack_and_everything_of_others(wanted: Stack) -> None:
    async def scenario() -> None:
        world = _world()
        other = World("other", world.engine)
        await other.up(stack(service("a"), name="other"))
        before = dict(world.engine.containers.views)
        await world.up(wanted)
        await world.apply(None, volumes=True)
        assert world.engine.containers.views == before
        assert [view.name for view in world.engine.networks.views.values()] == ["other_default"]
        assert world.engine.volumes.views == {}
        assert (await world.plan(None, volumes=True)).render() == ""

    asyncio.run(scenario())
