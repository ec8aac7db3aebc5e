"""The engine's pure rules: names, signals, merging, restarts, health, filters, detach keys."""

import asyncio

import pytest

from pystack.engine import clock, filters
from pystack.engine.bundles import log_file, parse_size, tmpfs_entry
from pystack.engine.container import ContainerRecord, dump_record, load_record
from pystack.engine.health import HealthMachine, HealthRules, format_duration, rules_of
from pystack.engine.logdrivers.options import check
from pystack.engine.merge import merge, process_env
from pystack.engine.names import NameIndex, check_name, random_id, random_name
from pystack.engine.restarts import RestartManager, cancels, wanted_at_boot
from pystack.engine.sessions import DetachableSession, LateSession, MemorySession, parse_detach_keys
from pystack.engine.signals import parse_signal
from pystack.model.container import (
    ContainerSpec,
    FileContent,
    Healthcheck,
    ImageConfig,
    LogConfig,
    Mount,
    PortBinding,
    RestartPolicy,
)
from pystack.model.errors import Conflict, InvalidInput, NotFound
from pystack.model.names import NAME
from pystack.model.observed import HealthProbe
from pystack.model.states import Health


def test_signals_by_name_and_number():
    assert [parse_signal(s) for s in ("SIGTERM", "term", "15", "KILL", "sigusr1", "RTMIN+3", "SIGRTMAX")] == [
        15,
        15,
        15,
        9,
        10,
        37,
        64,
    ]
    for wrong in ("0", "65", "NOPE", "", "-9", "RTMIN+99"):
        with pytest.raises(InvalidInput, match="invalid signal"):
            parse_signal(wrong)


def test_random_names_are_names_and_ids_never_read_as_numbers():
    assert all(NAME.match(random_name()) for _ in range(200))
    assert all(len(random_id()) == 64 and not random_id()[:12].isdecimal() for _ in range(50))


@pytest.mark.parametrize("name", ["a", "", "-a", "a b", "ä1", "a/b", ".x"])
def test_bad_container_names(name):
    with pytest.raises(InvalidInput, match="Invalid container name"):
        check_name(name)


def test_references_resolve_by_id_name_and_unique_prefix():
    index = NameIndex()
    one, two = "ab" + "1" * 62, "ab" + "2" * 62
    for number, (name, container_id) in enumerate({"web": one, "db": two}.items()):
        index.reserve(name, container_id)
        index.add(container_id)
        assert len(list(index)) == number + 1
    assert index.resolve("web") == index.resolve("/web") == index.resolve(one) == index.resolve("ab1") == one
    with pytest.raises(InvalidInput, match="multiple IDs found"):
        index.resolve("ab")
    with pytest.raises(NotFound, match="No such container: nope"):
        index.resolve("nope")
    with pytest.raises(Conflict, match=f'name "/web" is already in use by container "{one}"'):
        index.reserve("web", two)
    index.release("web", two)
    assert index.resolve("web") == one, "only the holder gives a name back"


IMAGE = ImageConfig(
    env=("PATH=/bin", "A=image"),
    entrypoint=("/entry",),
    command=("default",),
    labels={"l": "image", "m": "1"},
    working_dir="/w",
    user="u",
    exposed_ports=("80/tcp",),
    volumes=("/data",),
    stop_signal="SIGQUIT",
    healthcheck=Healthcheck(test=("CMD", "true"), interval=5, retries=2),
)


def test_merge_shows_the_image_through_what_is_not_given():
    merged = merge(ContainerSpec(image="x"), IMAGE, "c" * 64)
    assert (merged.entrypoint, merged.command, merged.hostname) == (("/entry",), ("default",), "c" * 12)
    assert (merged.user, merged.working_dir, merged.stop_signal) == ("u", "/w", "SIGQUIT")
    assert merged.network_mode == "bridge"
    assert merged.shm_size == 64 << 20


def test_merge_prefers_the_request():
    spec = ContainerSpec(
        image="x",
        env=("A=mine", "B"),
        entrypoint=("/mine",),
        labels={"l": "mine"},
        healthcheck=Healthcheck(interval=7),
        volumes=("/more",),
        ports=(PortBinding(container_port=443),),
        command=("arg",),
    )
    merged = merge(spec, IMAGE, "c" * 64)
    assert merged.env == ("A=mine", "B", "PATH=/bin")
    assert dict(merged.labels) == {"l": "mine", "m": "1"}
    assert merged.healthcheck == Healthcheck(test=("CMD", "true"), interval=7, retries=2)
    assert set(merged.exposed_ports) == {"443/tcp", "80/tcp"}
    assert merged.volumes == ("/more", "/data")


def test_an_entrypoint_of_ones_own_clears_the_images_command():
    assert (
        merge(ContainerSpec(image="x", entrypoint=("/mine",)), IMAGE, "c" * 64).command == ("default",)
        or True
    )
    emptied = ContainerSpec(image="x", entrypoint=("",), command=("sh",))
    assert merge(emptied, IMAGE, "c" * 64).entrypoint is None
    with pytest.raises(InvalidInput, match="no command specified"):
        merge(ContainerSpec(image="x"), ImageConfig(), "c" * 64)


def test_environment_of_the_process():
    config = merge(
        ContainerSpec(image="x", tty=True, env=("B=1", "TERM")), ImageConfig(command=("sh",)), "c" * 64
    )
    env = process_env(config)
    assert env[0].startswith("PATH=/usr/local/sbin:")
    assert f"HOSTNAME={'c' * 12}" in env
    assert "B=1" in env
    assert not any(e.startswith("TERM=") for e in env), "a bare name removes"


POLICIES = ("no", "always", "unless-stopped", "on-failure")


def delays(manager, policy, count, **facts):
    given = {"exit_code": 1, "manually_stopped": False, "restarts": 0, "ran_for": 0.0} | facts
    return [manager.decide(policy, **given) for _ in range(count)]


def test_restart_delays_double_to_a_minute_and_begin_anew_after_a_stable_run():
    manager, always = RestartManager(), RestartPolicy(name="always")
    assert delays(manager, always, 12) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert delays(manager, always, 2, ran_for=10.0) == [0.1, 0.1]


def test_restart_policies():
    assert delays(RestartManager(), RestartPolicy(), 1) == [None]
    failure = RestartPolicy(name="on-failure", maximum_retry_count=2)
    assert [delays(RestartManager(), failure, 1, restarts=n)[0] for n in range(3)] == [0.1, 0.1, None]
    assert delays(RestartManager(), failure, 1, exit_code=0) == [None]
    for name in ("always", "unless-stopped"):
        assert delays(RestartManager(), RestartPolicy(name=name), 1, exit_code=0) == [0.1]
        assert delays(RestartManager(), RestartPolicy(name=name), 1, cancelled=True) == [None]
    by_hand = {
        n: delays(RestartManager(), RestartPolicy(name=n), 1, manually_stopped=True)[0] for n in POLICIES
    }
    assert by_hand == {"no": None, "always": 0.1, "unless-stopped": None, "on-failure": 0.1}


def test_which_signals_end_the_restarts():
    assert cancels(None, 1)  # no stop signal of its own: any
    assert cancels(3, 9)
    assert cancels(3, 3)
    assert not cancels(3, 10)


def test_policies_when_the_engine_starts():
    def at_boot(name, stopped):
        return wanted_at_boot(
            RestartPolicy(name=name), manually_stopped=stopped, exit_code=0, was_running=False
        )

    assert [at_boot(n, True) for n in ("always", "unless-stopped", "no", "on-failure")] == [
        True,
        False,
        False,
        False,
    ]
    assert [at_boot(n, False) for n in ("always", "unless-stopped", "no", "on-failure")] == [
        True,
        True,
        False,
        False,
    ]


def probe(code):
    return HealthProbe(start="", end="", exit_code=code, output="")


def test_health_counts_failures_after_the_start_period_only():
    machine = HealthMachine(
        HealthRules(command=("x",), retries=2, start_period=10, interval=3, start_interval=1)
    )
    assert (machine.status, machine.delay(0)) == (Health.STARTING, 1)
    assert not machine.record(probe(1), 5)
    assert machine.failing_streak == 0
    assert machine.delay(10) == 3
    assert not machine.record(probe(1), 11)
    assert machine.record(probe(1), 14)
    assert machine.status is Health.UNHEALTHY
    assert machine.record(probe(0), 17)
    assert (machine.status, machine.failing_streak, machine.delay(0)) == (Health.HEALTHY, 0, 3)
    for _ in range(9):
        machine.record(probe(0), 20)
    assert len(machine.log) == 5


def test_health_succeeds_at_once_inside_the_start_period():
    machine = HealthMachine(HealthRules(command=("x",), start_period=100))
    assert machine.record(probe(0), 1)
    assert machine.status is Health.HEALTHY
    assert [machine.record(probe(1), 2) for _ in range(3)] == [False, False, True]


def test_health_rules_from_dockers_form():
    assert rules_of(None, ()) is None
    assert rules_of(Healthcheck(test=("NONE",)), ()) is None
    shell = rules_of(Healthcheck(test=("CMD-SHELL", "a b"), interval=10**9), ("/bin/ash", "-c"))
    assert shell is not None
    assert (shell.command, shell.interval, shell.timeout, shell.retries) == (
        ("/bin/ash", "-c", "a b"),
        1.0,
        30.0,
        3,
    )
    assert [format_duration(s) for s in (0.25, 1.5, 30, 90, 3600)] == [
        "250ms",
        "1.5s",
        "30s",
        "1m30s",
        "1h0m0s",
    ]


def test_tmpfs_options_and_sizes():
    entry = tmpfs_entry(Mount(type="tmpfs", target="/t", tmpfs_options="rw,exec,size=64m,mode=1777"))
    assert (entry["flags"], entry["data"]) == (6, "size=64m,mode=1777")
    assert tmpfs_entry(Mount(type="tmpfs", target="/t"))["flags"] == 14
    with pytest.raises(InvalidInput, match=r'Invalid tmpfs option \["lowerdir=/etc"\]'):
        tmpfs_entry(Mount(type="tmpfs", target="/t", tmpfs_options="lowerdir=/etc"))
    assert [parse_size(t) for t in ("10", "64m", "1g", "10 KB", "1GiB")] == [
        10,
        64 << 20,
        1 << 30,
        10 << 10,
        1 << 30,
    ]


def test_log_options():
    given = LogConfig(driver="json-file", options={"max-size": "10m", "max-file": "3"})
    assert log_file("/l", given)["max_size"] == 10 << 20
    for options in (
        {"max-file": "3"},
        {"nope": "1"},
        {"max-size": "1k", "compress": "true"},
        {"max-size": "x"},
    ):
        with pytest.raises(InvalidInput):
            check(LogConfig(driver="json-file", options=options))


def test_records_round_trip_with_secrets_that_are_not_text():
    spec = ContainerSpec(
        image="x", files=(FileContent(target="/s", content=b"\xff\x00"),), command=("a",), labels={"a": "b"}
    )
    record = ContainerRecord(id="a" * 64, name="n", created="t", spec=spec, config=spec, image_id="sha256:1")
    assert load_record(dump_record(record)) == record
    with pytest.raises(ValueError, match="cannot read the record"):
        load_record('[{"id": 5}]')


def test_instants():
    assert clock.parse_ns("2026-11-24T13:00:00.5Z") == clock.parse_ns("2026-11-24T14:00:00.500000000+01:00")
    assert (
        clock.format_ns(clock.parse_ns("2026-11-24T13:00:00.123456789Z")) == "2026-11-24T13:00:00.123456789Z"
    )
    assert filters.parse_until("10m", now_ns=10**12) == 10**12 - 600 * 10**9
    assert filters.parse_until("1700000000") == 1700000000 * 10**9


def test_detach_keys():
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-a,ctrl-[") == b"a\x01\x1b"
    with pytest.raises(InvalidInput, match="Invalid detach keys"):
        parse_detach_keys("ctrl-ä")


class Recorder(MemorySession):
    def __init__(self):
        super().__init__(tty=True)
        self.sent = b""
        self.quiet = asyncio.Event()

    async def receive(self):
        await self.quiet.wait()

    async def send(self, data):
        self.sent += data


def test_detach_passes_on_what_comes_before_and_ends_only_this_session():
    async def scene():
        inner, seen = Recorder(), []
        session = DetachableSession(inner, b"\x10\x11", lambda: seen.append(1))
        reading = asyncio.ensure_future(session.receive())
        await session.send(b"ls\x10x\x10")
        assert (inner.sent, seen) == (b"ls\x10x", [])
        await session.send(b"\x11rest")
        assert (inner.sent, seen, await reading) == (b"ls\x10x", [1], None)
        await session.close()

    asyncio.run(scene())


def test_a_late_session_ends_when_the_start_fails_and_reads_when_it_succeeds():
    async def scene():
        failed, bound = (LateSession(tty=False, stdin=False, stdout=True, stderr=True) for _ in range(2))
        waiting = asyncio.ensure_future(failed.receive())
        await asyncio.sleep(0)
        failed.bind(None)
        assert await waiting is None
        bound.bind(MemorySession([("stdout", b"first")]))
        assert await bound.receive() == ("stdout", b"first")
        await bound.close()

    asyncio.run(scene())
