"""Plans as text: what is done, in which order, and why. Every expected text is what `pystack plan` prints."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
from fake.stacks import after, service, stack
from fake.worlds import IMAGE, SHOP, changed, everything, network, observed, up, view, volume

from pystack.model.container import ContainerSpec, Mount, RestartPolicy
from pystack.model.desired import ServiceNetwork, Stack, StackNetwork, StackVolume
from pystack.model.errors import InvalidInput, NotFound
from pystack.model.observed import EndpointView, ObservedStack
from pystack.model.plan import Plan, PlanOptions
from pystack.model.states import ContainerState, Health
from pystack.planner import labels
from pystack.planner.lifecycle import plan_restart, plan_start, plan_stop
from pystack.planner.plan import plan, plan_run
from pystack.planner.specs import (
    OneOff,
)


def test_from_nothing() -> None:
    assert up(SHOP, ObservedStack(name="shop"), wait=True).render().splitlines() == [
        "[] -> #1 Network shop_default, CreateNetwork, not there",
        "[] -> #2 Volume shop_data, CreateVolume, not there",
        "[] -> #3 Image busybox, EnsureImage, not here",
        "[1,2,3] -> #4 Container shop-db-1, CreateContainer, not there",
        "[4] -> #5 Container shop-db-1, StartContainer, not there",
        "[1,3] -> #6 Container shop-migrate-1, CreateContainer, not there",
        "[5] -> #7 Container shop-db-1, WaitFor, a service depends on it",
        "[6,7] -> #8 Container shop-migrate-1, StartContainer, not there",
        "[1,3] -> #9 Container shop-web-1, CreateContainer, not there",
        "[8] -> #10 Container shop-migrate-1, WaitFor, a service depends on it",
        "[9,10] -> #11 Container shop-web-1, StartContainer, not there",
        "[1,3] -> #12 Container shop-web-2, CreateContainer, not there",
        "[10,12] -> #13 Container shop-web-2, StartContainer, not there",
        "[11] -> #14 Container shop-web-1, WaitFor, up --wait",
        "[13] -> #15 Container shop-web-2, WaitFor, up --wait",
    ]


def test_waiting_and_looking_for_an_image_are_no_changes() -> None:
    assert up(SHOP, ObservedStack(name="shop"), wait=True).changes == 10


def test_a_converged_stack_has_an_empty_plan() -> None:
    done = view(SHOP, SHOP.services["migrate"], state=ContainerState.EXITED, exit_code=0)
    seen = observed(
        SHOP,
        view(SHOP, SHOP.services["db"], health=Health.HEALTHY),
        done,
        view(SHOP, SHOP.services["web"], 1),
        view(SHOP, SHOP.services["web"], 2),
    )
    assert up(SHOP, seen, wait=True) == Plan()


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({"state": ContainerState.EXITED, "exit_code": 0}, False),
        ({"state": ContainerState.EXITED, "exit_code": 1}, True),
        ({"state": ContainerState.EXITED, "exit_code": 0, "manually_stopped": True}, True),
        ({"state": ContainerState.CREATED}, True),
        ({"state": ContainerState.PAUSED}, False),
        ({"state": ContainerState.RESTARTING}, False),
    ],
)
def test_what_counts_as_converged_for_a_service_without_restart(changes: Any, starts: bool) -> None:
    wanted = stack(service("job"))
    seen = observed(wanted, view(wanted, wanted.services["job"], **changes))
    kinds = [step.operation.kind for step in up(wanted, seen).steps]
    assert kinds == (["StartContainer"] if starts else [])


def test_a_service_that_shall_always_run_starts_again_even_after_a_good_end() -> None:
    wanted = stack(service("web", restart=RestartPolicy(name="unless-stopped")))
    seen = observed(wanted, view(wanted, wanted.services["web"], state=ContainerState.EXITED, exit_code=0))
    assert (
        up(wanted, seen).render() == "[] -> #1 Container shop-web-1, StartContainer, not running: exited (0)"
    )


def test_recreate_is_create_stop_remove_rename_start() -> None:
    wanted = stack(service("web", environment={"LOG_LEVEL": "info"}))
    now = changed(wanted, "web", environment={"LOG_LEVEL": "debug"})
    cause = 'environment LOG_LEVEL: "info" -> "debug"'
    drawn = up(now, everything(wanted))
    assert drawn.render().splitlines() == [
        f"[] -> #1 Container shop-web-1, CreateContainer, {cause}",
        f"[1] -> #2 Container shop-web-1, StopContainer, {cause}",
        f"[2] -> #3 Container shop-web-1, RemoveContainer, {cause}",
        f"[3] -> #4 Container shop-web-1, RenameContainer, {cause}",
        f"[4] -> #5 Container shop-web-1, StartContainer, {cause}",
    ]
    old = view(wanted, wanted.services["web"])
    created = drawn.steps[0].operation
    assert created.name == f"{old.id[:12]}_shop-web-1"  # type: ignore[attr-defined]
    assert created.spec.labels[labels.REPLACE] == old.id  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("before", "now", "cause"),
    [
        ({}, {"image": "busybox:2"}, 'image: "busybox" -> "busybox:2"'),
        ({}, {"command": ("top",)}, 'command: ["sleep", "inf"] -> ["top"]'),
        ({"environment": {"A": "b"}}, {}, 'environment A: "b" -> unset'),
        (
            {"environment": {"API_TOKEN": "x"}},
            {"environment": {"API_TOKEN": "y"}},
            "environment API_TOKEN: (hidden) -> (hidden)",
        ),
        (
            {"environment": {"URL": "postgres://u:p@db/x"}},
            {"environment": {"URL": "postgres://u:q@db/x"}},
            "environment URL: (hidden) -> (hidden)",
        ),
        ({}, {"user": "1000", "read_only": True}, 'read_only: unset -> true; user: unset -> "1000"'),
        (
            {"mounts": (Mount(type="bind", source="/a", target="/a"),)},
            {"mounts": (Mount(type="bind", source="/b", target="/a"), Mount(type="tmpfs", target="/t"))},
            "mount /a: source changed; mount /t added",
        ),
        ({}, {"labels": {"a": "b"}}, 'labels a: unset -> "b"'),
    ],
)
def test_causes_name_what_changed(before: Any, now: Any, cause: str) -> None:
    old, new = stack(service("web", **before)), stack(service("web", **now))
    seen = replace(everything(old), images={"busybox": IMAGE, "busybox:2": IMAGE})
    assert up(new, seen).steps[0].operation.cause == cause


def test_a_changed_secret_recreates_and_shows_nothing_of_it() -> None:
    from pystack.model.desired import FileReference, StackFileContent

    def holding(content: bytes) -> Stack:
        reference = FileReference(kind="secret", source="key", target="/run/secrets/key")
        return stack(
            service("web", files=(reference,)), secrets={"key": StackFileContent(key="key", content=content)}
        )

    drawn = up(holding(b"two-hidden"), everything(holding(b"one-hidden")))
    assert drawn.steps[0].operation.cause == "secret /run/secrets/key: content changed"
    assert "hidden" not in drawn.render()


def test_a_new_image_behind_the_same_reference_recreates() -> None:
    wanted = stack(service("web"))
    seen = replace(everything(wanted), images={"busybox": "sha256:" + "2" * 64})
    cause = "image busybox changed 111111111111 -> 222222222222"
    assert up(wanted, seen).steps[0].operation.cause == cause
    assert up(wanted, seen, no_recreate=True).steps == ()


def test_what_needs_no_new_container_recreates_nothing() -> None:
    wanted = stack(service("db"), service("web"))
    now = changed(wanted, "web", depends_on=after("db"), profiles=("x",), pull_policy="missing")
    assert up(now, everything(wanted)).steps == ()


def test_a_hash_of_another_version_recreates_only_what_really_differs() -> None:
    wanted = stack(service("web", environment={"A": "b"}))
    old = view(wanted, wanted.services["web"])

    def foreign(spec: ContainerSpec) -> ContainerSpec:
        merged = replace(spec, env=("PATH=/bin", *spec.env), working_dir="/srv")
        return replace(merged, labels={**merged.labels, labels.CONFIG_HASH: "5f" * 32, "of.the.image": "x"})

    seen = observed(wanted, replace(old, spec=foreign(old.spec)))
    assert up(wanted, seen).steps == ()
    now = changed(wanted, "web", environment={"A": "c"})
    assert up(now, seen).steps[0].operation.cause == 'environment A: "b" -> "c"'


def test_an_unknown_hash_of_this_version_is_a_change() -> None:
    wanted = stack(service("web"))
    old = view(wanted, wanted.services["web"])
    odd = replace(old, spec=replace(old.spec, labels={**old.spec.labels, labels.CONFIG_HASH: "1:abc"}))
    assert up(wanted, observed(wanted, odd)).steps[0].operation.cause == "configuration changed"


def test_drift_of_networks_is_seen() -> None:
    wanted = stack(service("web"))
    loose = view(wanted, wanted.services["web"], endpoints=())
    assert (
        up(wanted, observed(wanted, loose)).steps[0].operation.cause
        == "not connected to network shop_default"
    )
    stale = view(
        wanted, wanted.services["web"], endpoints=(EndpointView(network="shop_default", network_id="old"),)
    )
    assert (
        up(wanted, observed(wanted, stale)).steps[0].operation.cause == "network shop_default was recreated"
    )


def test_scale_up_fills_gaps_and_scale_down_removes_the_highest() -> None:
    wanted = stack(service("web", replicas=3))
    web = wanted.services["web"]
    seen = observed(wanted, view(wanted, web, 2), view(wanted, web, 5))
    assert up(wanted, seen).render().splitlines() == [
        "[] -> #1 Container shop-web-1, CreateContainer, scaled from 2 to 3",
        "[1] -> #2 Container shop-web-1, StartContainer, scaled from 2 to 3",
    ]
    assert up(wanted, seen, scale={"web": 1}).render().splitlines() == [
        "[] -> #1 Container shop-web-5, StopContainer, scaled down to 1",
        "[1] -> #2 Container shop-web-5, RemoveContainer, scaled down to 1",
    ]
    assert up(wanted, seen, scale={"web": 0}).changes == 4


def test_targets_bring_what_they_depend_on_and_nothing_else() -> None:
    wanted = stack(service("db"), service("web", depends_on=after("db")), service("other"))
    resources = [step.operation.resource for step in up(wanted, observed(wanted), "web").steps]
    assert set(resources) == {"Container shop-db-1", "Container shop-web-1"}
    alone = up(wanted, observed(wanted), "web", no_deps=True)
    assert {step.operation.resource for step in alone.steps} == {"Container shop-web-1"}
    with pytest.raises(NotFound, match="no such service: nope"):
        up(wanted, observed(wanted), "nope")


def test_force_means_the_targets_and_always_recreate_deps_the_rest() -> None:
    wanted = stack(service("db"), service("web", depends_on=after("db")))

    def recreated(**options: Any) -> set[str]:
        steps = up(wanted, everything(wanted), "web", **options).steps
        return {s.operation.resource for s in steps if s.operation.kind == "CreateContainer"}

    assert recreated(force_recreate=True) == {"Container shop-web-1"}
    assert recreated(always_recreate_deps=True) == {"Container shop-db-1"}


def test_orphans_are_told_and_removed_only_when_asked() -> None:
    before = stack(service("web"), service("old"), service("off"))
    now = stack(service("web"))
    drawn = up(now, everything(before), known=("off",))
    assert drawn.steps == ()
    assert drawn.warnings == (
        "stack shop has containers of services that its file does not name: shop-old-1; --remove-orphans removes them",
    )
    assert up(now, everything(before), known=("off",), remove_orphans=True).render().splitlines() == [
        "[] -> #1 Container shop-old-1, StopContainer, orphan: the file names no such service",
        "[1] -> #2 Container shop-old-1, RemoveContainer, orphan: the file names no such service",
    ]


def test_an_interrupted_recreate_goes_on_where_it_stopped() -> None:
    wanted = stack(service("web", environment={"A": "1"}))
    now = changed(wanted, "web", environment={"A": "2"})
    old = view(wanted, wanted.services["web"])
    made = view(
        now,
        now.services["web"],
        id="f" * 64,
        name=f"{old.id[:12]}_shop-web-1",
        state=ContainerState.CREATED,
    )
    kinds = [step.operation.kind for step in up(now, observed(now, old, made)).steps]
    assert kinds == ["StopContainer", "RemoveContainer", "RenameContainer", "StartContainer"]
    assert [step.operation.kind for step in up(now, observed(now, made)).steps] == [
        "RenameContainer",
        "StartContainer",
    ]
    # what it made is not what is wanted any more: it goes, and the old one is recreated
    third = changed(wanted, "web", environment={"A": "3"})
    drawn = up(third, observed(third, old, made))
    assert [(s.operation.kind, getattr(s.operation, "container", "")[:4]) for s in drawn.steps] == [
        ("RemoveContainer", "ffff"),
        ("CreateContainer", ""),
        ("StopContainer", old.id[:4]),
        ("RemoveContainer", old.id[:4]),
        ("RenameContainer", old.id[:4]),
        ("StartContainer", "shop"),
    ]
    # back to the old configuration: only what the recreate made goes
    assert [s.operation.kind for s in up(wanted, observed(wanted, old, made)).steps] == ["RemoveContainer"]


def test_external_things_must_be_there_and_are_not_made() -> None:
    wanted = stack(
        service(
            "web",
            networks=(ServiceNetwork(network="front"),),
            mounts=(Mount(type="volume", source="data", target="/d"),),
        ),
        networks={"front": StackNetwork(key="front", name="edge", external=True)},
        volumes={"data": StackVolume(key="data", name="pool", external=True)},
    )
    with pytest.raises(NotFound, match="network edge is external"):
        up(wanted, ObservedStack(name="shop", images={"busybox": IMAGE}))
    there = ObservedStack(
        name="shop",
        images={"busybox": IMAGE},
        networks=(network(wanted, "front", labels={}),),
        volumes=(volume(wanted, "data", labels={}),),
    )
    drawn = up(wanted, there)
    assert [step.operation.kind for step in drawn.steps] == ["CreateContainer", "StartContainer"]
    assert drawn.warnings == ()


def test_a_foreign_network_or_a_differing_volume_is_used_as_it_is_with_a_warning() -> None:
    wanted = stack(
        service("web", mounts=(Mount(type="volume", source="data", target="/d"),)),
        volumes={"data": StackVolume(key="data", name="shop_data", driver_options={"type": "nfs"})},
    )
    seen = observed(wanted, networks=(network(wanted, labels={}),))
    drawn = up(wanted, seen)
    assert [step.operation.kind for step in drawn.steps] == ["CreateContainer", "StartContainer"]
    assert drawn.warnings[0] == "network shop_default exists, but is not of stack shop: used as it is"
    assert drawn.warnings[1].startswith("volume shop_data differs from the file, and is used as it is")


def test_a_diverged_network_that_something_else_uses_is_left_alone() -> None:
    wanted = stack(service("web"), service("gone"))
    now = stack(
        service("web"), networks={"default": StackNetwork(key="default", name="shop_default", internal=True)}
    )
    drawn = up(now, everything(wanted))
    assert drawn.changes == 0
    assert drawn.warnings == (
        "network shop_default differs from the file (internal: false -> true), but shop-gone-1 uses it: left as it is",
    )


def test_cycles_are_named() -> None:
    wanted = stack(
        service("a", depends_on=after("b")),
        service("b", depends_on=after("c")),
        service("c", depends_on=after("a")),
    )
    with pytest.raises(InvalidInput, match="a <- c <- b <- a is a cycle"):
        up(wanted, observed(wanted))


def test_a_required_dependency_that_is_disabled_is_an_error_and_an_optional_one_is_not() -> None:
    with pytest.raises(InvalidInput, match="depends on 'db', which is not defined or not enabled"):
        up(stack(service("web", depends_on=after("db"))), ObservedStack(name="shop"))
    wanted = stack(service("web", depends_on=after("db", required=False)))
    assert up(wanted, observed(wanted)).changes == 2


def test_down() -> None:
    drawn = plan(None, everything(SHOP), PlanOptions(volumes=True))
    assert drawn.render().splitlines() == [
        "[] -> #1 Container shop-web-1, StopContainer, down",
        "[] -> #2 Container shop-web-2, StopContainer, down",
        "[1,2] -> #3 Container shop-migrate-1, StopContainer, down",
        "[3] -> #4 Container shop-db-1, StopContainer, down",
        "[4] -> #5 Container shop-db-1, RemoveContainer, down",
        "[3] -> #6 Container shop-migrate-1, RemoveContainer, down",
        "[1] -> #7 Container shop-web-1, RemoveContainer, down",
        "[2] -> #8 Container shop-web-2, RemoveContainer, down",
        "[5,6,7,8] -> #9 Network shop_default, RemoveNetwork, down",
        "[5,6,7,8] -> #10 Volume shop_data, RemoveVolume, down --volumes",
    ]
    kept = plan(None, everything(SHOP), PlanOptions())
    assert not any(step.operation.kind == "RemoveVolume" for step in kept.steps)
    some = plan(None, everything(SHOP), PlanOptions(), targets=("web",))
    assert [step.operation.kind for step in some.steps] == ["StopContainer"] * 2 + ["RemoveContainer"] * 2


def test_down_leaves_orphans_unless_asked() -> None:
    wanted = stack(service("web"), service("old"))
    drawn = plan(None, everything(wanted), PlanOptions(known=("web",)))
    assert {s.operation.resource for s in drawn.steps} == {"Container shop-web-1", "Network shop_default"}
    assert drawn.steps[-1].operation.best_effort
    assert "shop-old-1" in drawn.warnings[0]
    whole = plan(None, everything(wanted), PlanOptions(known=("web",), remove_orphans=True))
    assert whole.warnings == ()
    assert whole.changes == 5


def test_stop_start_restart() -> None:
    seen = everything(SHOP)
    stopped = plan_stop(seen, PlanOptions(timeout=3))
    assert [s.operation.resource for s in stopped.steps] == [
        "Container shop-web-1",
        "Container shop-web-2",
        "Container shop-migrate-1",
        "Container shop-db-1",
    ]
    assert {s.operation.timeout for s in stopped.steps} == {3}  # type: ignore[attr-defined]
    down = replace(
        seen,
        containers=tuple(
            replace(item, state=ContainerState.EXITED, manually_stopped=True) for item in seen.containers
        ),
    )
    assert plan_stop(down, PlanOptions()).steps == ()
    assert [f"{s.operation.kind} {s.operation.resource}" for s in plan_start(down, PlanOptions()).steps] == [
        "StartContainer Container shop-db-1",
        "WaitFor Container shop-db-1",
        "StartContainer Container shop-migrate-1",
        "WaitFor Container shop-migrate-1",
        "StartContainer Container shop-web-1",
        "StartContainer Container shop-web-2",
    ]
    restarted = plan_restart(seen, PlanOptions(), targets=("web",))
    assert [s.operation.resource for s in restarted.steps if s.operation.kind == "RestartContainer"] == [
        "Container shop-web-1",
        "Container shop-web-2",
    ]


def test_run_creates_what_is_missing_and_the_one_off_last() -> None:
    drawn = plan_run(
        SHOP, ObservedStack(name="shop"), PlanOptions(), service="web", chosen=OneOff(slug="a" * 12)
    )
    last = drawn.steps[-1].operation
    assert last.resource == f"Container shop-web-run-{'a' * 12}"
    assert [s.operation.kind for s in drawn.steps[:3]] == ["CreateNetwork", "CreateVolume", "EnsureImage"]
    spec = last.spec  # type: ignore[attr-defined]
    assert spec.labels[labels.ONEOFF] == "True"
    assert labels.CONFIG_HASH not in spec.labels
    alone = plan_run(
        SHOP, observed(SHOP), PlanOptions(no_deps=True), service="web", chosen=OneOff(slug="a" * 12)
    )
    assert [s.operation.kind for s in alone.steps] == ["CreateContainer"]


def test_an_entrypoint_of_ones_own_drops_the_services_command() -> None:
    wanted = stack(service("web", entrypoint=("/entry",)))
    chosen = OneOff(slug="a" * 12, entrypoint=("sh", "-c"), command=None)
    drawn = plan_run(wanted, observed(wanted), PlanOptions(), service="web", chosen=chosen)
    spec = drawn.steps[-1].operation.spec  # type: ignore[attr-defined]
    assert (spec.entrypoint, spec.command) == (("sh", "-c"), None)


def test_planning_imports_nothing_impure() -> None:
    import subprocess

    code = (
        "import sys; before = set(sys.modules)\n"
        "import pystack.planner.plan, pystack.planner.lifecycle\n"
        "print(sorted({'networkx', 'asyncio', 'anyio', 'socket', 'random', 'uuid', 'pydantic'} & set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="src")
    assert done.stdout == "[]\n"
