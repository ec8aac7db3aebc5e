"""The executor on the fake engine: order, failures, cancellation, convergence after any interruption."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from fake.engine import FakeEngine, Fault, Program
from fake.stacks import World, after, service, stack

from pystack.model.container import Mount, RestartPolicy
from pystack.model.desired import Stack, StackNetwork
from pystack.model.errors import EngineError
from pystack.model.states import ContainerState

pytestmark = pytest.mark.anyio

SHOP = stack(
    service("db", mounts=(Mount(type="volume", source="data", target="/data"),)),
    service("migrate", depends_on=after("db:healthy")),
    service("web", replicas=2, depends_on=(*after("migrate:done"), *after("db"))),
)


def world() -> World:
    made = World()
    made.engine.programs = {
        "db": Program(healthy_after=0.01),
        "migrate": Program(exit_code=0),
    }
    return made


async def test_up_starts_in_dependency_order_and_a_second_up_does_nothing() -> None:
    shop = world()
    outcome = await shop.up(SHOP)
    assert outcome.changed == 10
    assert shop.calls("start") == [
        "start:shop-db-1",
        "start:shop-migrate-1",
        "start:shop-web-1",
        "start:shop-web-2",
    ]
    assert shop.states() == {
        "shop-db-1": "running",
        "shop-migrate-1": "exited",
        "shop-web-1": "running",
        "shop-web-2": "running",
    }
    assert (await shop.plan(SHOP)).render() == ""
    assert (await shop.plan(SHOP, wait=True)).render() == ""


async def test_a_failed_step_skips_what_needs_it_and_the_rest_goes_on() -> None:
    shop = world()
    shop.engine.faults["containers.start:shop-migrate-1"] = Fault(EngineError("cannot start: no space"))
    other = replace(SHOP, services={**SHOP.services, "alone": service("alone")})
    outcome = await shop.apply(other)
    assert [str(error) for _, error in outcome.failures] == ["cannot start: no space"]
    assert shop.states()["shop-alone-1"] == "running"
    assert shop.states()["shop-web-1"] == "created"
    told = {(e.body["resource"], e.body["status"]) for e in shop.events if e.type == "progress"}
    assert ("Container shop-migrate-1", "error") in told
    assert ("Container shop-web-2", "skipped") in told
    assert (await shop.apply(other)).ok
    assert (await shop.plan(other)).render() == ""


async def test_waiting_fails_at_once_when_the_condition_cannot_be_met() -> None:
    shop = world()
    shop.engine.programs["db"] = Program(healthy_after=0.01, unhealthy=True)
    outcome = await shop.apply(SHOP)
    assert [str(error) for _, error in outcome.failures] == [
        "container shop-db-1 is unhealthy\n  | log of shop-db-1"
    ]
    shop = world()
    shop.engine.programs["migrate"] = Program(exit_code=3, after=0.01)
    outcome = await shop.apply(SHOP)
    assert [str(error) for _, error in outcome.failures] == [
        "container shop-migrate-1 exited (3)\n  | log of shop-migrate-1"
    ]
    assert outcome.failures[0][1].hint == "pystack logs migrate"
    shop = world()
    shop.engine.programs["db"] = Program()
    outcome = await shop.apply(SHOP)
    assert "has no healthcheck" in str(outcome.failures[0][1])


async def test_wait_timeout_is_an_error_that_names_the_service() -> None:
    shop = World()
    shop.engine.programs["db"] = Program(healthy_after=60.0)
    outcome = await shop.apply(stack(service("db")), wait=True, wait_timeout=0.02)
    assert [str(error) for _, error in outcome.failures] == ["service db was not ready within 0.02 s"]


async def test_wait_accepts_a_one_shot_that_ended_well() -> None:
    shop = World()
    shop.engine.programs["job"] = Program(exit_code=0, after=0.01)
    assert (await shop.apply(stack(service("job"), service("web")), wait=True)).ok


async def test_an_optional_dependency_that_fails_only_warns() -> None:
    shop = World()
    shop.engine.programs["cache"] = Program(healthy_after=0.0, unhealthy=True)
    wanted = stack(service("cache"), service("web", depends_on=after("cache:healthy", required=False)))
    assert (await shop.apply(wanted)).ok
    assert shop.states()["shop-web-1"] == "running"
    assert [e.body["message"] for e in shop.events if e.type == "warning"] == [
        "Container shop-cache-1: container shop-cache-1 is unhealthy\n  | log of shop-cache-1"
    ]


async def test_a_changed_service_is_recreated_alone_and_keeps_its_anonymous_volumes() -> None:
    shop = world()
    wanted = replace(
        SHOP,
        services={
            **SHOP.services,
            "web": replace(SHOP.services["web"], mounts=(Mount(type="volume", target="/cache"),)),
        },
    )
    await shop.up(wanted)
    before = shop.ids()
    volume = shop.engine.containers.find("shop-web-1").mounts[0].name
    changed = replace(
        wanted, services={**wanted.services, "web": replace(wanted.services["web"], environment={"A": "b"})}
    )
    await shop.up(changed)
    after_ = shop.ids()
    assert {name for name in before if before[name] != after_[name]} == {"shop-web-1", "shop-web-2"}
    assert set(after_) == set(before)
    assert shop.engine.containers.find("shop-web-1").mounts[0].name == volume
    assert (await shop.plan(changed)).render() == ""
    await shop.up(changed, force_recreate=True, renew_anon_volumes=True)
    assert shop.engine.containers.find("shop-web-1").mounts[0].name != volume
    assert volume not in shop.engine.volumes.views


async def test_shared_namespace_follows_the_container_it_shares() -> None:
    shop = World()
    wanted = stack(service("vpn"), service("app", network_mode="service:vpn"))
    await shop.up(wanted)
    vpn = shop.ids()["shop-vpn-1"]
    assert shop.engine.containers.find("shop-app-1").spec.network_mode == f"container:{vpn}"
    changed = replace(wanted, services={**wanted.services, "vpn": service("vpn", environment={"A": "b"})})
    shop.engine.calls.clear()
    await shop.up(changed)
    vpn = shop.ids()["shop-vpn-1"]
    assert shop.engine.containers.find("shop-app-1").spec.network_mode == f"container:{vpn}"
    stops = shop.calls("stop")
    assert stops == ["stop:shop-app-1", "stop:shop-vpn-1"]
    assert (await shop.plan(changed)).render() == ""


async def test_dependants_with_restart_go_down_before_and_up_after() -> None:
    shop = World()
    wanted = stack(
        service("db"),
        service("web", depends_on=after("db", restart=True)),
        service("other", depends_on=after("db")),
    )
    await shop.up(wanted)
    before = shop.ids()
    shop.engine.calls.clear()
    changed = replace(wanted, services={**wanted.services, "db": service("db", user="1000")})
    await shop.up(changed)
    assert shop.calls("stop", "start") == [
        "stop:shop-web-1",
        "stop:shop-db-1",
        "start:shop-db-1",
        "start:shop-web-1",
    ]
    assert shop.ids()["shop-web-1"] == before["shop-web-1"]
    assert shop.ids()["shop-other-1"] == before["shop-other-1"]


async def test_a_diverged_network_is_made_anew_around_its_containers() -> None:
    shop = World()
    wanted = stack(service("db"), service("web", depends_on=after("db")))
    await shop.up(wanted)
    old = await shop.engine.networks.inspect("shop_default")
    changed = replace(
        wanted, networks={"default": StackNetwork(key="default", name="shop_default", internal=True)}
    )
    drawn = await shop.plan(changed)
    assert "Network shop_default, RemoveNetwork, internal: false -> true" in drawn.render()
    assert "Container shop-db-1, CreateContainer, network shop_default is recreated" in drawn.render()
    await shop.up(changed)
    new = await shop.engine.networks.inspect("shop_default")
    assert new.internal
    assert new.id != old.id
    assert set(new.container_names.values()) == {"shop-db-1", "shop-web-1"}
    assert (await shop.plan(changed)).render() == ""


async def test_down_stops_dependants_first_and_keeps_volumes_unless_told() -> None:
    shop = world()
    await shop.up(SHOP)
    shop.engine.calls.clear()
    await shop.apply(None, known=None)
    assert shop.calls("stop") == ["stop:shop-web-1", "stop:shop-web-2", "stop:shop-db-1"]
    assert shop.states() == {}
    assert list(shop.engine.volumes.views) == ["shop_data"]
    assert shop.engine.networks.views == {}
    await shop.up(SHOP)
    await shop.apply(None, known=None, volumes=True)
    assert shop.engine.volumes.views == {}
    assert (await shop.plan(None, known=None)).render() == ""


async def test_foreign_objects_are_never_touched() -> None:
    engine = FakeEngine()
    other, mine = World("other", engine), World("shop", engine)
    await other.up(stack(service("web"), name="other"))
    await mine.up(stack(service("web")))
    before = engine.containers.find("other-web-1")
    await mine.apply(None, known=None, volumes=True)
    assert mine.states() == {"other-web-1": "running"}
    assert engine.containers.find("other-web-1") == before
    assert [view.name for view in engine.networks.views.values()] == ["other_default"]


class Killed(BaseException):
    """The daemon dies here."""


async def _killed_at(shop: World, number: int, wanted: Stack | None) -> bool:
    """Apply until the `number`-th engine call from now, and die there; False if the work ends before."""
    left = [number]

    def count(call: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed(call)

    shop.engine.before_call = count
    try:
        await shop.apply(wanted, known=None)
    except BaseExceptionGroup as group:
        if group.split(Killed)[1] is not None:
            raise
        return True
    finally:
        shop.engine.before_call = None
    return False


CHANGED = replace(
    SHOP,
    services={
        **SHOP.services,
        "db": replace(SHOP.services["db"], environment={"A": "b"}),
        "web": replace(SHOP.services["web"], environment={"A": "b"}, replicas=1),
    },
)


@pytest.mark.parametrize(
    ("first", "last"), [(None, SHOP), (SHOP, CHANGED), (SHOP, None)], ids=["up", "change", "down"]
)
async def test_killed_at_every_call_the_next_run_converges(first: Stack | None, last: Stack | None) -> None:
    for number in range(1, 100):
        shop = world()
        if first is not None:
            await shop.up(first)
        if not await _killed_at(shop, number, last):
            break
        outcome = await shop.apply(last, known=None)
        assert outcome.ok, (number, outcome.failures)
        assert (await shop.plan(last, known=None)).render() == "", number
        assert sorted(shop.states()) == sorted(
            f"shop-{item.name}-{replica + 1}"
            for item in (last.services.values() if last else ())
            for replica in range(item.replicas)
        )
    assert number > 8


async def test_cancelled_in_the_middle_a_call_under_way_ends_first() -> None:
    shop = World()
    task = asyncio.create_task(shop.apply(stack(service("web"))))
    while not any(call.startswith("containers.create") for call in shop.engine.calls):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shop.states() == {"shop-web-1": "created"}
    await shop.up(stack(service("web")))
    assert shop.states() == {"shop-web-1": "running"}


async def test_what_was_stopped_by_hand_starts_again_and_paused_stays() -> None:
    shop = World()
    wanted = stack(service("a"), service("b"), service("c", restart=RestartPolicy(name="always")))
    await shop.up(wanted)
    await shop.engine.containers.stop("shop-a-1")
    await shop.engine.containers.pause("shop-b-1")
    await shop.engine.containers.finish("shop-c-1", 0)
    assert (await shop.plan(wanted)).render() == (
        "[] -> #1 Container shop-a-1, StartContainer, not running: exited (0)\n"
        "[] -> #2 Container shop-c-1, StartContainer, not running: exited (0)"
    )
    await shop.up(wanted)
    assert shop.engine.containers.find("shop-b-1").state is ContainerState.PAUSED


async def test_fifty_services_cost_little() -> None:
    many = stack(*(service(f"s{n}", depends_on=after(f"s{n - 1}") if n else ()) for n in range(50)))
    shop = World()
    await shop.plan(many)  # imports
    began = time.perf_counter()
    await shop.up(many)
    took = time.perf_counter() - began
    print(f"50 services planned and executed on the fake in {took * 1e3:.1f} ms")
    assert took < 0.5
