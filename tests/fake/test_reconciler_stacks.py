"""The stack service on the fake engine: revisions, resuming, turns, one-offs, lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fake.documents import MemoryDocuments
from fake.engine import FakeEngine, Fault, Program
from fake.stacks import after, service, stack

from pystack.kernel import failpoints
from pystack.model.desired import FileReference, StackFileContent
from pystack.model.errors import EngineError, NotFound
from pystack.model.plan import PlanOptions
from pystack.planner.specs import OneOff
from pystack.reconciler.history import KEPT, History
from pystack.reconciler.progress import Progress
from pystack.reconciler.stacks import StackService

pytestmark = pytest.mark.anyio

OPTIONS = PlanOptions()
SECRET = stack(
    service("web", files=(FileReference(kind="secret", source="key", target="/run/secrets/key"),)),
    secrets={"key": StackFileContent(key="key", content=b"\xff\x00secret")},
)


async def collect(events: AsyncIterator[Progress]) -> list[dict[str, Any]]:
    return [event.as_dict() async for event in events]


def make(engine: FakeEngine | None = None, documents: MemoryDocuments | None = None) -> StackService:
    return StackService(engine or FakeEngine(), documents or MemoryDocuments(), clock=lambda: 1000.0)


def history(documents: MemoryDocuments) -> History:
    return History(documents, lambda: 1000.0)


async def test_up_streams_a_plan_steps_and_its_end() -> None:
    events = await collect(make().up(stack(service("web")), OPTIONS))
    assert events[0] == {"type": "plan", "steps": 3, "changes": 3}
    assert events[1] == {
        "type": "progress",
        "id": 1,
        "resource": "Network shop_default",
        "operation": "CreateNetwork",
        "status": "working",
        "text": "",
        "cause": "not there",
    }
    assert [(e["operation"], e["status"]) for e in events[2:-1]] == [
        ("CreateNetwork", "done"),
        ("CreateContainer", "working"),
        ("CreateContainer", "done"),
        ("StartContainer", "working"),
        ("StartContainer", "done"),
    ]
    done = events[-1]
    assert {key: done[key] for key in ("type", "name", "ok", "changed")} == {
        "type": "done",
        "name": "shop",
        "ok": True,
        "changed": 3,
    }


async def test_a_second_up_changes_nothing_and_writes_nothing() -> None:
    documents = MemoryDocuments()
    service_ = make(documents=documents)
    await collect(service_.up(SECRET, OPTIONS))
    writes = documents.writes
    events = await collect(service_.up(SECRET, OPTIONS))
    assert [event["type"] for event in events] == ["plan", "done"]
    assert events[-1]["changed"] == 0
    assert documents.writes == writes


async def test_revisions_hold_the_desired_stack_and_go_with_it() -> None:
    documents = MemoryDocuments()
    service_ = make(documents=documents)
    await collect(service_.up(SECRET, OPTIONS))
    record = history(documents).record("shop")
    assert record is not None
    assert (record.status, record.revision) == ("applied", 1)
    assert history(documents).desired("shop") == SECRET
    for number in range(KEPT + 2):
        changed = replace(SECRET, services={"web": replace(SECRET.services["web"], user=str(number))})
        await collect(service_.up(changed, OPTIONS))
    revisions = sorted(key for key in documents.content if key.startswith("revision/"))
    assert revisions == [f"revision/shop/{number}" for number in range(4, 4 + KEPT)]
    await collect(service_.down("shop", OPTIONS))
    assert documents.content == {}


async def test_scale_is_part_of_what_is_desired() -> None:
    documents = MemoryDocuments()
    engine = FakeEngine()
    await collect(make(engine, documents).up(stack(service("web")), PlanOptions(scale={"web": 3})))
    assert len(engine.containers.views) == 3
    desired = history(documents).desired("shop")
    assert desired is not None
    assert desired.services["web"].replicas == 3


async def test_a_failure_is_told_and_recorded() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    engine.faults["containers.start"] = Fault(EngineError("cannot start it", hint="free some space"))
    events = await collect(make(engine, documents).up(stack(service("web")), OPTIONS))
    assert events[-2] == {
        "type": "error",
        "message": "Container shop-web-1: cannot start it",
        "hint": "free some space",
        "diagnostics": [],
    }
    assert not events[-1]["ok"]
    record = history(documents).record("shop")
    assert record is not None
    assert (record.status, record.error) == ("failed", "cannot start it")


async def test_the_cause_of_a_change_is_told_even_after_a_restart_of_the_daemon() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    before = stack(service("web", environment={"LOG_LEVEL": "info", "DB_PASSWORD": "one", "GONE": "x"}))
    await collect(make(engine, documents).up(before, OPTIONS))
    now = stack(service("web", environment={"LOG_LEVEL": "debug", "DB_PASSWORD": "two"}))
    drawn = await make(engine, documents).plan(now, OPTIONS)
    assert drawn.steps[0].operation.cause == (
        'environment DB_PASSWORD: (hidden) -> (hidden); environment GONE: "x" -> unset; '
        'environment LOG_LEVEL: "info" -> "debug"'
    )


@pytest.mark.parametrize(
    "name", ["reconciler.intent.saved", "reconciler.container.created", "reconciler.result.saved"]
)
async def test_resume_finishes_an_up_that_the_daemon_did_not_survive(name: str) -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    wanted = stack(service("db"), service("web", depends_on=after("db")))
    task = asyncio.create_task(collect(make(engine, documents).up(wanted, OPTIONS)))
    died = asyncio.Event()

    def die(passed: str) -> None:
        if passed == name and not died.is_set():
            died.set()
            raise KilledError(passed)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("history", "execute"):
            patch.setattr(f"pystack.reconciler.{module}.failpoint", die)
        with pytest.raises(BaseException):  # noqa: B017 - a group around it, when it comes out of the executor
            await task
    assert died.is_set()
    async with make(engine, documents).running() as again:
        for _ in range(200):
            await asyncio.sleep(0.001)
            stacks = await again.list()
            if stacks[0]["running"] == 2 and stacks[0]["status"] == "applied":
                break
    assert [(s["status"], s["running"]) for s in stacks] == [("applied", 2)]


class KilledError(BaseException):
    """The daemon dies here."""


async def test_resume_finishes_a_down() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    await collect(make(engine, documents).up(stack(service("web")), OPTIONS))
    await history(documents).begin("shop", None, options=PlanOptions(volumes=True))
    async with make(engine, documents).running():
        for _ in range(200):
            await asyncio.sleep(0.001)
            if not documents.content:
                break
    assert engine.containers.views == {}
    assert engine.networks.views == {}
    assert documents.content == {}


async def test_a_record_of_another_version_holds_nothing_up() -> None:
    documents = MemoryDocuments({"stack/shop": '{"status": "dreaming"}', "revision/shop/1": "{"})
    async with make(documents=documents).running() as service_:
        assert await service_.list() == []
        events = await collect(service_.up(stack(service("web")), OPTIONS))
    assert events[-1]["ok"]


async def test_two_ups_of_one_stack_run_one_after_the_other() -> None:
    engine = FakeEngine()
    service_ = make(engine)
    wanted = stack(service("web", replicas=3))
    first, second = await asyncio.gather(
        collect(service_.up(wanted, OPTIONS)), collect(service_.up(wanted, OPTIONS))
    )
    assert first[-1]["changed"] == 7
    assert second[0] == {"type": "warning", "message": "waiting for the up of stack shop that is under way"}
    assert second[-1]["changed"] == 0
    assert len(engine.containers.views) == 3


async def test_down_interrupts_an_up_that_waits() -> None:
    engine = FakeEngine()
    engine.programs["db"] = Program(healthy_after=3600.0)
    service_ = make(engine)
    wanted = stack(service("db"), service("web", depends_on=after("db:healthy")))
    ups = [asyncio.create_task(collect(service_.up(wanted, OPTIONS))) for _ in range(2)]
    while not any(call.startswith("containers.start") for call in engine.calls):
        await asyncio.sleep(0)
    events = await asyncio.wait_for(collect(service_.down("shop", OPTIONS)), 5)
    interrupted = {"type": "warning", "message": "up of stack shop was under way: interrupted"}
    assert events[:2] == [interrupted, interrupted]
    assert events[-1]["ok"]
    assert engine.containers.views == {}
    for ended in [await up for up in ups]:
        assert ended[-2]["message"] == "up of stack shop was interrupted by down"
        assert not ended[-1]["ok"]


async def test_a_reader_that_leaves_ends_the_work_and_it_is_not_resumed() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    engine.programs["db"] = Program(healthy_after=3600.0)
    service_ = make(engine, documents)
    events = service_.up(stack(service("db")), PlanOptions(wait=True))
    async for event in events:
        if event.body.get("operation") == "WaitFor":
            break
    await events.aclose()  # type: ignore[attr-defined]
    record = history(documents).record("shop")
    assert record is not None
    assert (record.status, record.error) == ("failed", "interrupted")
    assert (await collect(service_.up(stack(service("db")), OPTIONS)))[-1]["ok"]


async def test_a_daemon_that_ends_leaves_an_up_to_be_resumed() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    engine.programs["db"] = Program(healthy_after=3600.0)
    async with make(engine, documents).running() as service_:
        task = asyncio.create_task(collect(service_.up(stack(service("db")), PlanOptions(wait=True))))
        while not any(call.startswith("containers.start") for call in engine.calls):
            await asyncio.sleep(0)
    await task
    record = history(documents).record("shop")
    assert record is not None
    assert record.status == "applying"


async def test_stop_start_restart() -> None:
    engine = FakeEngine()
    engine.programs["job"] = Program(exit_code=0)
    service_ = make(engine)
    wanted = stack(
        service("db"),
        service("job", depends_on=after("db")),
        service("web", depends_on=(*after("db", restart=True), *after("job:done"))),
    )
    await collect(service_.up(wanted, OPTIONS))
    engine.calls.clear()
    assert (await collect(service_.stop("shop", OPTIONS)))[-1]["changed"] == 2
    assert engine.calls == ["containers.stop:shop-web-1", "containers.stop:shop-db-1"]
    assert (await collect(service_.stop("shop", OPTIONS)))[-1]["changed"] == 0
    engine.calls.clear()
    await collect(service_.start("shop", OPTIONS))
    assert engine.calls == ["containers.start:shop-db-1", "containers.start:shop-web-1"]
    engine.calls.clear()
    await collect(service_.restart("shop", OPTIONS, targets=("db",)))
    assert engine.calls == ["containers.restart:shop-db-1", "containers.restart:shop-web-1"]
    engine.calls.clear()
    await collect(service_.start("shop", OPTIONS, targets=("job",)))
    assert engine.calls == ["containers.start:shop-job-1"]
    events = await collect(service_.start("empty", OPTIONS))
    assert events[-2]["message"] == "cannot start stack empty: it has no container"
    assert not events[-1]["ok"]


async def test_run_brings_up_what_the_service_needs_and_creates_a_one_off() -> None:
    engine = FakeEngine()
    service_ = make(engine)
    wanted = stack(
        service("db"),
        service("web", depends_on=after("db"), container_name="fixed", environment={"A": "1", "B": "2"}),
        service("other"),
    )
    chosen = OneOff(slug="0123456789ab", command=("sh",), environment=("A=9", "B", "C=3"), tty=True)
    made = await service_.run(wanted, "web", chosen, OPTIONS)
    view = engine.containers.views[made]
    assert view.name == "shop-web-run-0123456789ab"
    assert view.state == "created"
    assert view.spec.command == ("sh",)
    assert view.spec.env == ("A=9", "B", "C=3")
    assert view.spec.tty
    assert view.spec.endpoints[0].aliases == ()
    assert engine.containers.find("shop-db-1").state == "running"
    assert len(engine.containers.views) == 2
    # a one-off is no replica: up neither counts nor removes it, and down takes it along
    await collect(service_.up(wanted, OPTIONS))
    assert made in engine.containers.views
    assert [row["name"] for row in await service_.ps("shop", all=True)] == [
        "shop-db-1",
        "shop-other-1",
        "fixed",
        "shop-web-run-0123456789ab",
    ]
    await collect(service_.down("shop", OPTIONS))
    assert engine.containers.views == {}


async def test_run_says_what_failed() -> None:
    engine = FakeEngine()
    engine.images.views.clear()
    with pytest.raises(NotFound, match="No such image: busybox:latest"):
        await make(engine).run(stack(service("web")), "web", OneOff(slug="0" * 12), PlanOptions(no_deps=True))
    with pytest.raises(NotFound, match="no such service: nope"):
        await make(engine).run(stack(service("web")), "nope", OneOff(slug="0" * 12), OPTIONS)


async def test_list_knows_records_and_containers() -> None:
    engine, documents = FakeEngine(), MemoryDocuments()
    service_ = make(engine, documents)
    await collect(service_.up(stack(service("web", replicas=2)), OPTIONS))
    await collect(make(engine).up(stack(service("x"), name="alien"), OPTIONS))
    await engine.containers.stop("shop-web-2")
    assert [(s["name"], s["status"], s["containers"], s["running"]) for s in await service_.list()] == [
        ("alien", "unmanaged", 1, 1),
        ("shop", "applied", 2, 1),
    ]


async def test_failpoints_of_the_reconciler_fail_a_step_like_any_error() -> None:
    engine = FakeEngine()
    failpoints.configure("reconciler.network.created=1*error")
    try:
        events = await collect(make(engine).up(stack(service("web")), OPTIONS))
    finally:
        failpoints.configure("")
    assert not events[-1]["ok"]
    assert "failpoint reconciler.network.created" in events[-2]["message"]
    assert (await collect(make(engine).up(stack(service("web")), OPTIONS)))[-1]["ok"]
