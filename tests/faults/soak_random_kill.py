"""Random kills: several clients work, SIGKILL comes when it comes, and after each the promises are checked.

    python tests/faults/soak_random_kill.py [--seconds 120] [--kills N] [--seed N]

Not a test for pytest: `make soak`. Each client keeps a model of what the engine has acknowledged. A request whose answer
was lost leaves two possible states, every other one; anything else that is found afterwards is an anomaly, as is
whatever lies on the host without an owner.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "src")]

import oracle  # noqa: E402
from harness import Engine, write_stack  # noqa: E402
from orphans import adopt_orphans, reap  # noqa: E402

from pystack.cli.client import ApiError, EngineUnreachable  # noqa: E402

IMAGE = "host.local/base"
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"
GONE, CREATED, RUNNING, PAUSED, EXITED = "gone", "created", "running", "paused", "exited"
STACK = """
name: {name}
services:
  a: {{image: host.local/base, command: ["sleep", "1000"], ports: ["127.0.0.1::80"], volumes: ["data:/data"]}}
  b: {{image: host.local/base, command: ["sleep", "1000"], depends_on: [a], environment: {{V: "{version}"}}}}
volumes: {{data: {{}}}}
"""


class Worker(threading.Thread):
    """One client: its own names, its own model (name -> states that are possible)."""

    def __init__(self, soak: Soak, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.soak, self.number, self.random = soak, number, random.Random(seed)
        self.containers: dict[str, set[str]] = {}
        self.pids: dict[str, int] = {}
        self.volumes: dict[str, bool | None] = {}  # None: not known
        self.networks: dict[str, bool | None] = {}
        self.stack: bool | None = False
        self.operations = 0

    def run(self) -> None:
        while not self.soak.over.is_set():
            self.soak.gate.wait()
            with self.soak.working:
                self._one()

    def _one(self) -> None:
        often = [self._create, self._start, self._remove] * 2
        verb = self.random.choice(
            [
                *often,
                self._stop,
                self._pause,
                self._rename,
                self._exec,
                self._volume,
                self._network,
                self._stack,
            ]
        )
        try:
            verb()
            self.operations += 1
        except EngineUnreachable:
            time.sleep(0.02)
        except ApiError as error:
            if any(shot in error.message for shot in self.soak.shot):
                return  # it was gone, with its shim
            self.soak.anomaly(f"client {self.number}: {verb.__name__}: {error.status} {error.message}")

    def _pick(self, *states: str) -> str | None:
        fitting = [name for name, possible in self.containers.items() if possible <= set(states)]
        return self.random.choice(fitting) if fitting else None

    def _change(self, name: str, after: str, call: Callable[[], Any], *also: int) -> Any:
        """An operation that leads to `after`. Without an answer both are possible; `also`: statuses that are as good."""
        before = self.containers.get(name, {GONE})
        self.containers[name] = before | {after}
        try:
            found = call()
        except ApiError as error:
            if error.status not in also:
                raise
            found = None
        self.containers[name] = {after}
        return found

    def _create(self) -> None:
        if len(self.containers) > 12:
            return
        name = f"w{self.number}-{self.operations}-{self.random.randrange(1000)}"
        body: dict[str, Any] = {"Image": IMAGE, "Cmd": ["sleep", "1000"]}
        if self.random.random() < 0.5:
            body["HostConfig"] = {"NetworkMode": "none"}
        if self.random.random() < 0.3:
            body["Volumes"] = {"/anonymous": {}}
        client = self.soak.engine.client
        self._change(name, CREATED, lambda: client.post("/containers/create", body, {"name": name}))

    def _start(self) -> None:
        name = self._pick(CREATED, EXITED)
        if name:
            client = self.soak.engine.client
            self._change(name, RUNNING, lambda: client.post(f"/containers/{name}/start"), 304)
            self.pids[name] = client.get(f"/containers/{name}/json")["State"]["Pid"]

    def _stop(self) -> None:
        name = self._pick(RUNNING)
        if name:
            client = self.soak.engine.client
            path = self.random.choice((f"/containers/{name}/stop", f"/containers/{name}/kill"))
            self._change(name, EXITED, lambda: client.post(path), 304, 409)

    def _pause(self) -> None:
        name, client = self._pick(RUNNING), self.soak.engine.client
        if name:
            self._change(name, PAUSED, lambda: client.post(f"/containers/{name}/pause"))
            self._change(name, RUNNING, lambda: client.post(f"/containers/{name}/unpause"))

    def _remove(self) -> None:
        name = self._pick(CREATED, EXITED, RUNNING, PAUSED)
        if name:
            client = self.soak.engine.client
            options = {"force": True, "v": True}
            self._change(name, GONE, lambda: client.delete(f"/containers/{name}", options), 404)
            del self.containers[name]

    def _rename(self) -> None:
        name = self._pick(RUNNING)
        if name:
            client, new = self.soak.engine.client, f"{name}r"
            state = self.containers[name]
            self.containers[new] = {GONE, *state}
            self.containers[name] = {GONE, *state}
            client.post(f"/containers/{name}/rename", None, {"name": new})
            del self.containers[name]
            self.containers[new] = state
            if name in self.pids:
                self.pids[new] = self.pids.pop(name)

    def _exec(self) -> None:
        name, client = self._pick(RUNNING), self.soak.engine.client
        if name:
            made = client.post(f"/containers/{name}/exec", {"Cmd": ["true"]})["Id"]
            client.post(f"/exec/{made}/start", {"Detach": True})

    def _named(self, kind: dict[str, bool | None], base: str, create: Callable[[str], Any]) -> None:
        known = [name for name, there in kind.items() if there]
        client = self.soak.engine.client
        if known and self.random.random() < 0.6:
            name = self.random.choice(known)
            kind[name] = None
            client.delete(f"/{base}/{name}")
            del kind[name]
        elif len(known) < 4:
            name = f"{base[0]}{self.number}-{self.random.randrange(10**6)}"
            kind[name] = None
            create(name)
            kind[name] = True

    def _volume(self) -> None:
        client = self.soak.engine.client
        self._named(self.volumes, "volumes", lambda name: client.post("/volumes/create", {"Name": name}))

    def _network(self) -> None:
        client = self.soak.engine.client
        self._named(self.networks, "networks", lambda name: client.post("/networks/create", {"Name": name}))

    def _stack(self) -> None:
        """By the real command, which starts the daemon when none answers."""
        engine, place = self.soak.engine, self.soak.place / f"s{self.number}.yml"
        write_stack(place, STACK.format(name=f"s{self.number}", version=self.random.randrange(3)))
        up = self.random.random() < 0.7
        arguments = ("up", "-d") if up else ("down", "-v")
        before, self.stack = self.stack, None
        done = engine.run("-f", str(place), *arguments, check=False)
        if "Traceback" in done.stderr:
            self.soak.anomaly(f"client {self.number}: {arguments}: {done.stderr}")
        if done.returncode == 0:
            self.stack = up
        elif not any(word in done.stderr for word in ("went away", "engine", "starts the engine again")):
            self.soak.anomaly(f"client {self.number}: {arguments} (was {before}): {done.stderr[-600:]}")

    # -- what must hold, while nobody works

    def check(self, found: dict[str, dict[str, Any]]) -> None:
        for name, possible in list(self.containers.items()):
            state = found[name]["State"] if name in found else GONE
            if state not in possible and not (state == EXITED and found[name]["Id"] in self.soak.shot):
                self.soak.anomaly(f"container {name} is {state}, possible are {sorted(possible)}")
            if state == RUNNING and possible == {RUNNING} and name in self.pids:
                pid = self.soak.engine.inspect(name)["State"]["Pid"]
                if pid != self.pids[name]:
                    self.soak.anomaly(f"container {name} has pid {pid}, it had {self.pids[name]}")
            if state == GONE:
                del self.containers[name]
            else:
                self.containers[name] = {state}
        client = self.soak.engine.client
        volumes = {item["Name"] for item in client.get("/volumes")["Volumes"]}
        networks = {item["Name"] for item in client.get("/networks")}
        for kind, there in ((self.volumes, volumes), (self.networks, networks)):
            for name, known in list(kind.items()):
                if known is not None and known != (name in there):
                    self.soak.anomaly(
                        f"{name} is {'there' if name in there else 'gone'}, against what was acknowledged"
                    )
                if name in there:
                    kind[name] = True
                else:
                    del kind[name]
        mine = [item["State"] for name, item in found.items() if name.startswith(f"s{self.number}-")]
        if self.stack is True and mine != [RUNNING, RUNNING]:
            self.soak.anomaly(f"stack s{self.number} is up, but {mine}")
        if self.stack is False and mine:
            self.soak.anomaly(f"stack s{self.number} is down, but {mine}")


class Soak:
    def __init__(self, place: Path, seed: int, clients: int) -> None:
        self.place = place
        self.engine = Engine(place / "root", place / "run")
        self.random = random.Random(seed)
        self.over, self.gate = threading.Event(), threading.Event()
        self.working = threading.Semaphore(clients)
        self.clients = [Worker(self, number, seed * 100 + number) for number in range(clients)]
        self.kills = dict.fromkeys(("daemon", "launcher", "both", "shim"), 0)
        self.anomalies: list[str] = []
        self.shot: set[str] = set()  # ids of containers whose shim was killed: they may have ended
        self.checks = 0

    def anomaly(self, text: str) -> None:
        self.anomalies.append(text)
        print(f"ANOMALY after {sum(self.kills.values())} kills: {text}", flush=True)

    def run(self, seconds: float, kills: int) -> None:
        engine = self.engine
        engine.start()
        before = oracle.snapshot(engine.instance)
        engine.docker("run", "-d", "--name", "counter", IMAGE, "sh", "-c", COUNTER)
        for client in self.clients:
            client.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not 0 < kills <= sum(self.kills.values()):
            self._round()
        self.over.set()
        self.gate.set()
        self._lines()
        engine.remove_everything()
        before.things["process"] = before.things["mount"] = set()
        try:
            oracle.wait_for_nothing_leaked(engine.instance, before)
        except AssertionError as error:
            self.anomaly(f"at the end: {error}")

    def _round(self) -> None:
        """Clients work, one to three kills come, the daemon starts again, and everything is looked at."""
        self.gate.set()
        for _ in range(self.random.randrange(1, 4)):
            time.sleep(self.random.choice((0.02, 0.1, 0.3, 0.8)) * self.random.random() * 2)
            self._kill()
            if self.random.random() < 0.7:
                self.engine.start()
        self.gate.clear()
        for _ in self.clients:
            self.working.acquire()
        try:
            self.engine.start()
            self._check()
        except (EngineUnreachable, ApiError, OSError) as error:
            self.anomaly(f"cannot check: {error}\n{self.engine.log()}")
        finally:
            self.working.release(len(self.clients))

    def _kill(self) -> None:
        victim = self.random.choices(("daemon", "launcher", "both", "shim"), (60, 20, 15, 5))[0]
        try:
            daemon, launcher = self.engine.pid(), self.engine.launcher_pid()
            if victim == "shim":
                self._kill_shim()
            if victim in {"launcher", "both"} and launcher:
                self.engine.kill(launcher)
            if victim in {"daemon", "both"}:
                self.engine.kill(daemon)
        except (EngineUnreachable, ApiError, ProcessLookupError):
            return  # nobody there to kill
        self.kills[victim] += 1

    def _kill_shim(self) -> None:
        """Its container ends with it."""
        for client in self.clients:
            name = client._pick(RUNNING)
            if name and client.pids.get(name):
                stat = Path(f"/proc/{client.pids[name]}/stat")
                if stat.exists():
                    self.shot.add(self.engine.inspect(name)["Id"])
                    self.engine.kill(int(stat.read_text().rsplit(")", 1)[1].split()[1]))
                return

    def _check(self) -> None:
        """What was acknowledged holds; all that is on the host has an owner within 10 s."""
        self.checks += 1
        client = self.engine.client
        deadline = time.monotonic() + 10
        while any(stack["status"] in {"applying", "removing"} for stack in client.get("/stacks")):
            if time.monotonic() > deadline:
                self.anomaly("a stack is still being resumed after 10 s")
                break
            time.sleep(0.05)
        items = client.get("/containers/json", {"all": True})
        found = {item["Names"][0][1:]: item for item in items}
        for worker in self.clients:
            worker.check(found)
        if found.get("counter", {}).get("State") != RUNNING:
            self.anomaly("the counter does not run")
        while strays := self._strays(items):
            if time.monotonic() > deadline:
                for stray in strays:
                    self.anomaly(f"no owner after 10 s: {stray}")
                break
            time.sleep(0.1)

    def _strays(self, items: list[dict[str, Any]]) -> list[str]:
        instance, all_ids = self.engine.instance, {item["Id"] for item in items}
        live = {item["Id"] for item in items if item["State"] in {RUNNING, PAUSED}}
        strays = [f"directory {n}" for n in os.listdir(f"{instance.root}/containers") if n not in all_ids]
        strays += [f"run {n}" for n in os.listdir(f"{instance.run}/c") if n not in {i[:32] for i in live}]
        for path in Path("/sys/fs/cgroup").glob(f"*/{instance.cgroup}/*"):
            if path.is_dir() and path.name != "supervisor" and path.name not in live:
                strays.append(f"cgroup {path}")
        reap()
        shims = 0
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                text = Path(f"/proc/{entry}/cgroup").read_text()
                shims += f"/{instance.cgroup}/supervisor" in text
            except OSError:
                continue
        if shims not in {len(live), len(live) + 1}:  # a launcher that died is replaced in a moment
            strays.append(f"{shims} shims and launchers for {len(live)} containers")
        return strays

    def _lines(self) -> None:
        log = self.engine.docker("logs", "counter").stdout.split()
        if log != [str(number) for number in range(1, len(log) + 1)]:
            self.anomaly("the counter's log has lost lines")
        print(f"counter: {len(log)} lines, in order")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kills", type=int, default=0, help="end after so many kills")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--clients", type=int, default=3)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pystack-soak-", dir="/var/tmp"))
    for name in ("root", "run"):
        (place / name).mkdir()
    soak = Soak(place, options.seed, options.clients)
    print(f"seed {options.seed}, in {place}", flush=True)
    with adopt_orphans():
        try:
            soak.run(options.seconds, options.kills)
        finally:
            soak.over.set()
            soak.gate.set()
            soak.engine.stop()
    operations = sum(client.operations for client in soak.clients)
    kinds = ", ".join(f"{number} {victim}" for victim, number in soak.kills.items())
    print(
        f"{sum(soak.kills.values())} kills ({kinds}), {operations} operations, {soak.checks} checks: {len(soak.anomalies)} anomalies"
    )
    if soak.anomalies:
        print(f"kept: {place}")
    else:
        shutil.rmtree(place, ignore_errors=True)
    return bool(soak.anomalies)


if __name__ == "__main__":
    sys.exit(main())
