"""Die once at every failpoint. The command that met it may fail; the same command again works, and nothing is lost or left.

Each failpoint has work that comes by it; a few failpoints share one round of it, to save time. All processes of the
engine (daemon, launcher, shims, first processes) count their passes together, so that at each failpoint exactly one of them
dies, once: if it is the daemon, the next command starts another, which finishes or undoes what was half done (and may die
at the next failpoint while it does); if it is not, the same daemon must cope. One at a time: FAULTS_CHUNK=1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import oracle
import pytest
from harness import ROOT, Engine, wait_until, write_stack
from images import busybox_archive

from pystack.cli.client import EngineUnreachable
from pystack.kernel.failpoints import passes
from pystack.kernel.nftables import Nft
from pystack.kernel.rtnetlink import Socket, delete_link

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

STACK = """
name: fp
services:
  a:
    image: host.local/base
    command: ["sleep", "1000"]
    environment: {{VERSION: "{version}"}}
    volumes: ["data:/data"]
    ports: ["127.0.0.1::80"]
    mem_limit: 64m
    configs: [{{source: c, target: /etc/c}}]
  b:
    image: host.local/base
    command: ["sleep", "1000"]
    depends_on: [a]
    init: true
volumes: {{data: {{}}}}
configs: {{c: {{content: hello}}}}
"""

Command = tuple[str, ...]
UP = ("pystack", "up", "-d", "-f", "{place}/one.yml")
DOWN = ("pystack", "down", "-v", "-f", "{place}/two.yml")
#: What is run, in this order. `docker` is the real client.
WORK: dict[str, tuple[Command, ...]] = {
    "stack": (
        UP,
        ("pystack", "-f", "{place}/one.yml", "exec", "-T", "b", "true"),
        ("pystack", "up", "-d", "-f", "{place}/two.yml"),
        ("pystack", "restart", "-f", "{place}/two.yml", "-t", "1", "b"),
        DOWN,
    ),
    "up": (UP, DOWN),
    "image": (
        ("docker", "load", "-qi", "{place}/busybox.tar"),
        ("docker", "create", "--name", "one", "--mount", "type=image,src=busybox,dst=/i", "host.local/base", "true"),
        ("docker", "rm", "one"),
        ("docker", "create", "--name", "one", "busybox", "true"),
        ("docker", "cp", "{place}/one.yml", "one:/in"),
        ("docker", "commit", "one", "made"),
        ("docker", "rm", "one"),
        ("docker", "rmi", "made"),
        ("docker", "image", "prune", "-f"),  # of a commit whose daemon died before it could say so
        ("docker", "tag", "busybox", "busybox:other"),
        ("docker", "rmi", "busybox"),
        ("docker", "rmi", "busybox:other"),
    ),
    "container": (
        ("docker", "run", "--rm", "--log-driver=syslog", "--log-opt=syslog-address=udp://127.0.0.1:9", "host.local/base",
         "echo", "x"),
        ("docker", "run", "-d", "--name", "one", "-v", "/anon", "--net", "none", "host.local/base", "sleep", "99"),
        ("docker", "update", "--memory", "64m", "--memory-swap", "64m", "one"),
        *(("docker", "pause", "one"), ("docker", "unpause", "one")) * 2,
        ("docker", "exec", "-d", "one", "true"),
        ("docker", "rename", "one", "two"),
        ("docker", "kill", "two"),
        ("docker", "start", "two"),
        ("docker", "rm", "-fv", "two"),
        ("docker", "run", "-d", "--name", "host", "--pid", "host", "--net", "none", "host.local/base", "sleep", "99"),
        ("docker", "rm", "-f", "host"),
    ),
    "network": (
        ("docker", "network", "create", "extra"),
        ("docker", "run", "-d", "--name", "one", "host.local/base", "sleep", "99"),
        ("docker", "network", "connect", "extra", "one"),
        ("docker", "network", "disconnect", "extra", "one"),
        ("docker", "rm", "-f", "one"),
        ("docker", "network", "rm", "extra"),
    ),
    "volume": (
        ("docker", "volume", "create", "vol"),
        ("docker", "create", "--name", "one", "-v", "vol:/etc", "-v", "{place}/new:/bind", "host.local/base", "true"),
        ("docker", "rm", "one"),
        ("docker", "volume", "rm", "vol"),
    ),
    "retire": (
        ("docker", "run", "-d", "--name", "one", "host.local/base", "sleep", "99"),
        ("docker", "rm", "-f", "one"),
        ("retired",),
    ),
    "mend": (UP, ("unbridge",), ("mended",), ("untable",), ("mended",), DOWN),
    "takeover": (UP, ("kill",), ("unbridge",), ("pystack", "ps", "-p", "fp"), DOWN),
}  # fmt: skip
WORK["processes"] = WORK["stack"]
#: Which work comes by a failpoint: the first prefix that fits. Those that only a new root meets start with one.
PLACES = {
    "image.hostbase.": "fresh",
    "image.store.synced": "image",
    "image.": "image",
    "snapshot.base.": "fresh",
    "engine.logs.": "container",
    "engine.update.": "container",
    "engine.pause.": "container",
    "engine.unpause.": "container",
    "engine.remove.volume": "container",
    "engine.create.image_mount": "image",
    "engine.commit.": "image",
    "cgroup.limits.updated": "container",
    "cgroup.container.frozen": "container",
    "cgroup.container.thawed": "container",
    "cgroup.container.killed": "container",
    "network.endpoint.reattached": "takeover",
    "network.endpoint.removed": "network",
    "network.mended": "mend",
    "network.retirement.": "retire",
    "network.table.mended": "mend",
    "network.recovered": "takeover",
    "volume.copyup.": "volume",
    "volume.bind.": "volume",
    "rootpath.tree.copied": "volume",
    "api.": "up",
    "launcher.": "processes",
    "shim.": "processes",
    "child.": "processes",
}
#: Failpoints that no work comes by, and why. Everything else must be reached, or the test fails.
ELSEWHERE = {
    "shim.userns.made": "only with userns-remap; tests/clients/test_userns.py",
    "cgroup.realtime.lent": "only with --cpu-rt-runtime; tests/kernel/test_cgroups_v1.py",
    "cgroup.devices.attached": "only where the host has cgroup v2; tests/vm boots one",
    "rootpath.file.written": "Root.write_file: nothing in the engine calls it yet; tests/kernel/test_rootpath_trees.py",
    "rootpath.file.renamed": "Root.write_file: nothing in the engine calls it yet; tests/kernel/test_rootpath_trees.py",
}
#: Failpoints that lie on the way or not, as the host is: they may be missed.
AS_THE_HOST_IS = {
    "network.forwarding.enabled": "only where nobody has turned forwarding on yet",
    "network.table.removed": "not while forwarding was turned on by this engine and others have bridges",
}
#: A second try finds that the first one's work is done.
DONE = re.compile(
    r"already exists|is already in use|already paused|is not paused|No such|not found|is not connected"
)


def names() -> list[str]:
    found: set[str] = {
        "engine.exit.network",
        "engine.exit.cgroup",
    }  # their names are made when they are passed
    for room in ("engine", "image", "kernel", "network", "reconciler", "volume", "api"):
        for path in (ROOT / room).rglob("*.py"):
            found |= set(re.findall(r'^ +failpoint\("([a-z0-9_.-]+)"\)', path.read_text(), re.MULTILINE))
    return sorted(found)


#: How many failpoints share a round of work.
CHUNK = int(os.environ.get("FAULTS_CHUNK", "5"))


def rounds() -> list[tuple[str, tuple[str, ...]]]:
    """(work, failpoints), the names far apart, so that those of one round seldom lie side by side."""
    by_work: dict[str, list[str]] = {}
    for name in names():
        if name not in ELSEWHERE:
            by_work.setdefault(work_of(name), []).append(name)
    found = []
    for work, mine in sorted(by_work.items()):
        count = -(-len(mine) // CHUNK)
        found += [(work, tuple(mine[number::count])) for number in range(count)]
    return found


def work_of(name: str) -> str:
    return next((work for prefix, work in PLACES.items() if name.startswith(prefix)), "stack")


@dataclass
class Bench:
    """An engine that is stopped between tests, and kept while all goes well: making host.local/base takes a second."""

    engine: Engine
    place: Path
    before: oracle.Snapshot = field(default_factory=oracle.Snapshot)

    @classmethod
    def make(cls, archive: Path) -> Bench:
        place = Path(tempfile.mkdtemp(prefix="pystack-fp-", dir="/var/tmp"))
        for name in ("root", "run"):
            (place / name).mkdir()
        for number, name in (("1", "one"), ("2", "two")):
            write_stack(place / f"{name}.yml", STACK.format(version=number))
        (place / "busybox.tar").symlink_to(archive)
        made = cls(Engine(place / "root", place / "run"), place)
        made.before = oracle.snapshot(made.engine.instance)
        return made

    def close(self) -> None:
        try:
            self.engine.remove_everything()
        finally:
            self.engine.stop()
            if not oracle.snapshot(self.engine.instance).things["mount"]:
                shutil.rmtree(self.place, ignore_errors=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_archive(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture(scope="module")
def benches(archive: Path, summary: list[str]) -> Iterator[list[Bench]]:
    kept: list[Bench] = []
    yield kept
    for bench in kept:
        bench.close()
    summary.append(f"of {len(names())} failpoints, elsewhere: {', '.join(ELSEWHERE)}")


@pytest.fixture
def bench(benches: list[Bench], archive: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The engine of the tests before, unless one of them failed or this one needs its first start."""
    fresh = request.node.callspec.params["work"] == "fresh"
    bench = benches.pop() if benches and not fresh else Bench.make(archive)
    if not fresh and not list((bench.place / "root").iterdir()):
        bench.engine.run("up", "-d", "-f", f"{bench.place}/one.yml")
        bench.engine.run("down", "-v", "-f", f"{bench.place}/one.yml")
        bench.engine.stop()
    failures = request.session.testsfailed
    yield bench
    if request.session.testsfailed == failures and not fresh:
        benches.append(bench)
    else:
        bench.close()


def perform(bench: Bench, command: Command, env: dict[str, str]) -> str:
    """Run one command; "" when it succeeded, else what it said."""
    engine = bench.engine
    program, *arguments = [word.format(place=bench.place) for word in command]
    if program == "kill":
        engine.kill(engine.pid())
        return ""
    if program == "unbridge":
        with Socket() as netlink:
            ours = [
                link.name
                for link in netlink.links()
                if link.name.startswith(f"{engine.instance.link_prefix}b")
            ]
            netlink.batch([delete_link(name) for name in ours])
        return ""
    if program == "untable":
        nft = Nft()
        nft.run(f"add table inet {engine.instance.nft_table}\ndelete table inet {engine.instance.nft_table}")
        nft.close()
        return ""
    if program == "retired":  # the default bridge goes after two looks, five seconds each
        wait_until(lambda: not bridges(engine, env), within=20, what="retired")
        return ""
    if program == "mended":
        wait_until(
            lambda: bridges(engine, env) and engine.instance.nft_table in " ".join(oracle.nft_tables()),
            what="mended",
        )
        return ""
    if program == "pystack":
        done = engine.run(*arguments, check=False, env=env)
    else:
        try:
            engine.start(**env)
        except EngineUnreachable as error:
            return str(error)
        done = engine.docker(*arguments, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return "" if done.returncode == 0 else done.stderr or done.stdout or "failed"


def bridges(engine: Engine, env: dict[str, str]) -> list[str]:
    """Names of the engine's bridges; it is started again if it has died."""
    engine.run("ps", "-p", "none", check=False, env=env)
    return [
        name for name in os.listdir("/sys/class/net") if name.startswith(f"{engine.instance.link_prefix}b")
    ]


@pytest.mark.parametrize(
    ("work", "points"), [pytest.param(*r, id=f"{r[0]}-{n}") for n, r in enumerate(rounds())]
)
def test_killed_at(bench: Bench, work: str, points: tuple[str, ...], summary: list[str]) -> None:
    refused: list[str] = []
    waiting = points
    while waiting:
        passed = die_once(bench, work, waiting, refused)
        # What runs beside the step that dies may be done and yet not come by its own failpoint: that one is on its own then.
        left = tuple(point for point in waiting if not passed[point])
        if left == waiting:
            assert set(left) <= AS_THE_HOST_IS.keys(), f"the work never came by {left}: extend it, or say why"
            break
        waiting = left
    # A death costs one answer; one more if a command still reached the socket of a daemon that was dying.
    assert len(refused) <= len(points) + 1, refused
    summary.append(f"{work}: {', '.join(points)}: {len(refused)} commands were refused and worked again")


def die_once(bench: Bench, work: str, points: tuple[str, ...], refused: list[str]) -> dict[str, int]:
    """Run the work with these failpoints; how often it came by each. Then nothing may be left of it."""
    engine, counts = bench.engine, bench.place / "passes"
    counts.unlink(missing_ok=True)
    # A SIGKILL that PID 1 of a pid namespace sends itself is dropped by the kernel: it fails instead.
    plan = [f"{point}=1*{'error' if point.startswith('child.') else 'kill'}" for point in points]
    env = {"PYSTACK_FAILPOINTS": ",".join([*plan, f"passes={counts}"])}
    daemon = engine.start(**env) if work == "processes" else 0
    for command in WORK["up" if work == "fresh" else work]:
        said, left = perform(bench, command, env), len(points) + 1
        first = said
        while said and left:
            if "not running" in said:  # its shim died, and it with it
                perform(bench, UP, env)
            refused.append(f"{' '.join(command[:3])}: {said.strip().splitlines()[-1]}")
            said, left = perform(bench, command, env), left - 1
            if command[0] == "docker" and DONE.search(said):
                said = ""
        assert not said, f"{first}\n--- and at last:\n{said}\n{engine.log()}"
    assert not daemon or engine.pid() == daemon, "the daemon has gone with another process"
    engine.stop()
    oracle.wait_for_nothing_leaked(engine.instance, bench.before)
    assert not documents(engine), "records are left"
    shutil.rmtree(bench.place / "new", ignore_errors=True)
    met = passes(str(counts)) if counts.exists() else [0] * len(points)
    return dict(zip(points, met, strict=False))


def documents(engine: Engine) -> list[str]:
    """Keys of what the state store still knows, but for images and the networks that every engine has."""
    with closing(sqlite3.connect(f"{engine.instance.root}/state.db")) as connection:
        rows = connection.execute("SELECT tbl, key, value FROM documents WHERE tbl != 'images'").fetchall()
    return [f"{tbl} {key}" for tbl, key, value in rows if not json.loads(value).get("predefined")]
