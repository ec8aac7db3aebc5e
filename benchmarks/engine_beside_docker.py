"""The engine beside dockerd: single containers, hundreds of them, statistics and logs; in one run, same client, same image.

    python benchmarks/engine_beside_docker.py [--runs N] [--output FILE] [--only PART]...

Writes the second half of docs/benchmarks.md. Times are of whole client processes unless the row says otherwise; CPU is that
of the daemons and of what supervises the containers, never of the containers or of the clients.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import images  # noqa: E402 - shared with the tests, which are not a package
import peer  # noqa: E402
from beside_docker import ENGINES  # noqa: E402
from harness import Engine, run_parent  # noqa: E402

from pystack.cli import client as http  # noqa: E402 - a plain HTTP client over a unix socket, for both

_TICKS = os.sysconf("SC_CLK_TCK")
http.API = "/v1.41"  # that of Debian's Docker, too
_LINES = 1000  # that a talker writes ten times a second
_TALK = f"seq 1 {_LINES} > /lines; while :; do cat /lines; usleep 100000; done"


@dataclass
class Row:
    """One line of the table. `limit` is of the ratio to Docker, or, when `absolute`, of our own figure."""

    title: str
    unit: str
    limit: float
    absolute: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def render(self) -> str:
        mine = statistics.median(self.ours)
        other = statistics.median(self.theirs) if self.theirs else None
        ratio = mine / other if other else None
        value = mine if self.absolute else ratio
        kept = "" if value is None else "kept" if value <= self.limit else "**missed**"
        limit = f"{self.limit:g} {self.unit}" if self.absolute else f"{self.limit:g} x"
        shown = "not run" if other is None else f"{other:.3g} {self.unit}"
        return (
            f"| {self.title} | {len(self.ours)} | {mine:.3g} {self.unit} | {shown} "
            f"| {'' if ratio is None else f'{ratio:.3f}'} | {limit} | {kept} |"
        )


@dataclass
class Side:
    """One of the two engines: its client's environment, its socket, and its processes."""

    name: str
    environment: dict[str, str]
    pids: Callable[[], list[int]]

    def docker(self, *arguments: str) -> float:
        """Seconds that `docker ARGUMENTS` took; the benchmark ends when it fails."""
        began = time.perf_counter()
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: docker {' '.join(arguments)}: {done.stderr[-2000:]}")
        return time.perf_counter() - began

    def client(self) -> http.Client:
        return http.Client(self.environment["DOCKER_HOST"])

    def cpu(self) -> float:
        """Seconds of CPU of the daemons and supervisors so far."""
        total = 0
        for pid in set(self.pids()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS


def pss(pid: int) -> float:
    """MB."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def matching(word: str, file: str) -> list[int]:
    """Processes whose /proc file has a word in it."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if word in Path(f"/proc/{entry}/{file}").read_text():
                found.append(int(entry))
        except OSError:
            continue
    return found


Pair = tuple[Side, Side]


def single(sides: Pair, runs: int) -> list[Row]:
    """run, exec, and many runs at once."""
    run = Row("docker run --rm busybox true", "ms", 0.3)
    execute = Row("docker exec … true", "ms", 0.6)
    many = Row("20 docker run --rm at once", "ms", 0.2)
    for side in sides:
        side.docker("run", "-d", "--name", "target", "busybox", "sleep", "10000")
        side.docker("run", "--rm", "busybox", "true")
    for _ in range(runs * 2):
        for side, times in zip(sides, (run.ours, run.theirs), strict=True):
            times.append(side.docker("run", "--rm", "busybox", "true") * 1000)
        for side, times in zip(sides, (execute.ours, execute.theirs), strict=True):
            times.append(side.docker("exec", "target", "true") * 1000)
    for _ in range(max(2, runs // 2)):
        for side, times in zip(sides, (many.ours, many.theirs), strict=True):
            began = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                list(pool.map(lambda _, side=side: side.docker("run", "--rm", "busybox", "true"), range(20)))
            times.append((time.perf_counter() - began) * 1000)
    for side in sides:
        side.docker("rm", "-f", "target")
    return [run, execute, many]


def stopping(sides: Pair, runs: int) -> Row:
    """`sleep` as PID 1 has no handler for SIGTERM: the kernel drops the signal."""
    row = Row("docker stop of a process that cannot react", "s", 0.1, absolute=True)
    for number, (side, times) in enumerate(zip(sides, (row.ours, row.theirs), strict=True)):
        for _ in range(1 if number else runs):
            side.docker("run", "-d", "--name", "deaf", "busybox", "sleep", "10000")
            times.append(side.docker("stop", "deaf"))
            side.docker("rm", "deaf")
    return row


def returning(sides: Pair, runs: int) -> Row:
    """From SIGKILL to PID 1, from outside, until its successor runs; over the API, asked every 2 ms."""
    row = Row("killed `restart: always` container back", "ms", 0.5)
    for side, times in zip(sides, (row.ours, row.theirs), strict=True):
        client = side.client()
        for _ in range(runs):
            side.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "10000")
            pid = client.get("/containers/again/json")["State"]["Pid"]
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            began = time.perf_counter()
            while True:
                state = client.get("/containers/again/json")["State"]
                if state["Running"] and state["Pid"] not in {0, pid}:
                    break
                time.sleep(0.002)
            times.append((time.perf_counter() - began) * 1000)
            side.docker("rm", "-f", "again")
    return row


def start_many(side: Side, count: int, workers: int = 8) -> float:
    """Create and start `count` containers over the API; seconds."""
    body = {"Image": "busybox", "Cmd": ["sleep", "10000"], "Labels": {"bench": "many"}}

    def work(number: int) -> None:
        client = side.client()
        for _ in range(number, count, workers):
            made = client.post("/containers/create", body)
            client.post(f"/containers/{made['Id']}/start")

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return time.perf_counter() - began


def remove_many(side: Side, workers: int = 8) -> None:
    ids = [c["Id"] for c in side.client().get("/containers/json", {"all": True})]

    def work(number: int) -> None:
        client = side.client()
        for one in ids[number::workers]:
            client.delete(f"/containers/{one}", {"force": True, "v": True})

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def hundreds(sides: Pair, runs: int) -> list[Row]:
    """With 100 containers: ps and statistics; then five hundred, ours alone."""
    ps = Row("docker ps with 100 containers", "ms", 1.5)
    stats = Row("statistics of 100 containers, CPU for each second", "ms", 1.0)
    five = Row("500 containers created and started over the API", "s", 5.0, absolute=True)
    for side, shown, used in zip(sides, (ps.ours, ps.theirs), (stats.ours, stats.theirs), strict=True):
        start_many(side, 100)
        shown += [side.docker("ps") * 1000 for _ in range(runs * 2)]
        used.append(follow_stats(side, 10.0))
        remove_many(side)
    five.ours.append(start_many(sides[0], 500, 16))
    remove_many(sides[0], 16)
    return [ps, stats, five]


def follow_stats(side: Side, seconds: float) -> float:
    """Watch all statistics, as `docker stats` does; milliseconds of CPU for each second."""
    sockets = [
        open_stream(side, f"/containers/{c['Id']}/stats?stream=1")
        for c in side.client().get("/containers/json")
    ]
    time.sleep(2)
    stop = threading.Event()
    reader = threading.Thread(target=drain, args=(sockets, stop))
    reader.start()
    before = side.cpu()
    time.sleep(seconds)
    used = side.cpu() - before
    stop.set()
    reader.join()
    return used / seconds * 1000


def open_stream(side: Side, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(side.environment["DOCKER_HOST"].removeprefix("unix://"))
    sock.sendall(f"GET /v1.41{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def drain(sockets: list[socket.socket], stop: threading.Event) -> int:
    """Read everything until told to stop; how many bytes that were."""
    import selectors

    total = 0
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while not stop.is_set():
            for key, _ in selector.select(0.1):
                data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                total += len(data)
                if not data:
                    selector.unregister(key.fileobj)
    for sock in sockets:
        sock.close()
    return total


def logs(sides: Pair) -> Row:
    """Ten containers that write 10,000 lines a second each, all followed; CPU, normalised by the bytes that arrived."""
    row = Row("10 followed logs at 10,000 lines/s, CPU for each second", "ms", 1.0)
    for side, used in zip(sides, (row.ours, row.theirs), strict=True):
        for number in range(10):
            side.docker("run", "-d", "--name", f"talk{number}", "busybox", "sh", "-c", _TALK)
        sockets = [open_stream(side, f"/containers/talk{n}/logs?follow=1&stdout=1&tail=1") for n in range(10)]
        time.sleep(1)
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            got = pool.submit(drain, sockets, stop)
            before, began = side.cpu(), time.perf_counter()
            time.sleep(8)
            cpu, took = side.cpu() - before, time.perf_counter() - began
            stop.set()
        megabytes = got.result() / 1e6
        full = 10 * 10 * (len("".join(f"{n}\n" for n in range(1, _LINES + 1))) + 8 * _LINES) * took / 1e6
        print(f"{side.name}: {megabytes / full:.0%} of 100,000 lines/s arrived", file=sys.stderr)
        used.append(cpu / took * 1000 * full / max(megabytes, full / 100))
        remove_many(side)
    return row


def flood(sides: Pair) -> list[Row]:
    """One container writes as fast as its log takes it, followed by a slow client; another is used meanwhile."""
    size = Row("daemon's memory while one container floods its log", "MB", 200, absolute=True)
    beside = Row("docker exec in another container meanwhile", "ms", 0.6)
    for number, side in enumerate(sides):
        side.docker("run", "-d", "--name", "quiet", "busybox", "sleep", "10000")
        side.docker(
            "run",
            "-d",
            "--name",
            "flood",
            "--log-opt",
            "max-size=20m",
            "--log-opt",
            "max-file=2",
            "busybox",
            "yes",
        )
        sockets = [open_stream(side, "/containers/flood/logs?follow=1&stdout=1&tail=1")]
        stop = threading.Event()
        reader = threading.Thread(target=drain, args=(sockets, stop))
        reader.start()
        time.sleep(3)
        times = beside.theirs if number else beside.ours
        times += [side.docker("exec", "quiet", "true") * 1000 for _ in range(10)]
        (size.theirs if number else size.ours).append(pss(side.pids()[0]))
        stop.set()
        reader.join()
        remove_many(side)
    return [size, beside]


def report(rows: list[Row], docker: peer.Peer) -> str:
    return "\n".join(
        [
            "## One engine beside the other",
            "",
            "`make bench-engine` wrote this: medians, both engines in turn in one run, with the same `docker` client and image.",
            "Limits are issue 4's. CPU is that of daemons and supervisors.",
            "",
            f"* date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; Docker {docker.version}",
            "",
            "| what | runs | pystack | Docker | ratio | limit | |",
            "|---|---|---|---|---|---|---|",
            *(row.render() for row in rows),
            "",
        ]
    )


def measure(sides: Pair, runs: int, only: list[str]) -> list[Row]:
    parts: dict[str, Callable[[], list[Row]]] = {
        "single": lambda: single(sides, runs),
        "stop": lambda: [stopping(sides, runs)],
        "restart": lambda: [returning(sides, runs)],
        "hundreds": lambda: hundreds(sides, runs),
        "logs": lambda: [logs(sides)],
        "flood": lambda: flood(sides),
    }
    rows: list[Row] = []
    for name, part in parts.items():
        if not only or name in only:
            found = part()
            print(*(row.render() for row in found), sep="\n", file=sys.stderr)
            rows += found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", default="docs/benchmarks.md")
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with everything put back, as after an error
    base = Path(tempfile.mkdtemp(prefix="pystack-bench-", dir="/var/lib"))
    run = Path(tempfile.mkdtemp(prefix="psb-", dir=run_parent()))
    (base / "root").mkdir()
    engine = Engine(base / "root", run)
    archive = images.busybox_archive(base / "busybox.tar")
    with peer.docker_daemon() as docker:
        try:
            engine.start()
            ours = Side(
                "pystack",
                engine.environment | {"DOCKER_HOST": engine.environment["PYSTACK_HOST"]},
                lambda: [engine.pid(), *matching(f"/{engine.instance.cgroup}/supervisor", "cgroup")],
            )
            theirs = Side(
                "Docker",
                docker.environment,
                lambda: [docker.pid, docker.containerd_pid, *matching(f"{docker.run}/containerd", "cmdline")],
            )
            for side in (ours, theirs):
                side.docker("load", "-i", str(archive))
            rows = measure((ours, theirs), options.runs, options.only)
            text = report(rows, docker)
        finally:
            engine.remove_everything()
            shutil.rmtree(base, ignore_errors=True)
            shutil.rmtree(run, ignore_errors=True)
    output = Path(options.output)
    before = output.read_text().split(ENGINES)[0].rstrip() if output.exists() else ""
    output.write_text(f"{before}\n\n{ENGINES}\n\n{text}".lstrip())
    print(text)


if __name__ == "__main__":
    main()
