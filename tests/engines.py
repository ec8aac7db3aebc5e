"""Engines for kernel tests: opened on a root of their own, and nothing of them may be left on the host afterwards."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from pystack.engine.engine import Engine
from pystack.engine.interface import LogOptions
from pystack.model.container import ContainerSpec, ExecSpec
from pystack.model.names import Instance

IMAGE = "host.local/base"


def instance_at(place):
    """An instance whose state lies below `place`."""
    return Instance(root=f"{place}/root", run=f"{place}/run", socket=f"{place}/api.sock")


def spec(*command, **more):
    """A container of the host's programs without a network, unless `more` says otherwise."""
    return ContainerSpec(**({"image": IMAGE, "command": command, "network_mode": "none"} | more))


def shell(script, **more):
    return spec("sh", "-c", script, **more)


async def until(test, seconds=5.0):
    """Wait until `test()` holds; an assertion when it does not in time."""
    async with asyncio.timeout(seconds):
        while not test():
            await asyncio.sleep(0.005)


async def state(engine, ref):
    return (await engine.containers.inspect(ref)).state


async def output(engine, ref, **options):
    """The container's log as one text."""
    return b"".join([e.line async for e in engine.containers.logs(ref, LogOptions(**options))]).decode()


async def run(engine, script, name="", **more):
    """Create, start and wait: (exit code, log)."""
    made = await engine.containers.create(shell(script, **more), name)
    await engine.containers.start(made.id)
    result = await engine.containers.wait(made.id)
    return result.exit_code, await output(engine, made.id)


async def read(session):
    """All that a session says, by stream."""
    found = {"stdout": b"", "stderr": b""}
    while (item := await session.receive()) is not None:
        found[item[0]] += item[1]
    return found


async def execute(engine, ref, *command, **more):
    """Run an exec to its end: (exit code, stdout)."""
    exec_id = await engine.containers.exec_create(
        ref, ExecSpec(command=command, attach_stdout=True, attach_stderr=True, **more)
    )
    session = await engine.containers.exec_start(exec_id)
    said = await read(session)
    await session.close()
    async with asyncio.timeout(5):
        while (await engine.containers.exec_inspect(exec_id)).running:
            await asyncio.sleep(0.002)
    return (await engine.containers.exec_inspect(exec_id)).exit_code, said["stdout"].decode()


def leftovers(instance):
    """Everything of an instance's containers on this host: shims, cgroups, mounts, directories."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            groups = Path(f"/proc/{entry}/cgroup").read_text()
        except OSError:
            continue
        if f"/{instance.cgroup}/" in groups:
            found.append(f"process {entry} {Path(f'/proc/{entry}/comm').read_text().strip()}")
    for top in Path("/sys/fs/cgroup").iterdir():
        found += [f"cgroup {p}" for p in (top / instance.cgroup).glob("*") if len(p.name) == 64]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if instance.root in line]
    for place in (f"{instance.root}/containers", f"{instance.run}/c"):
        found += [f"{place}/{name}" for name in (os.listdir(place) if os.path.isdir(place) else ())]
    return found


def remove_cgroups(instance):
    """The engine's own parents, which it keeps for its next start."""
    for top in Path("/sys/fs/cgroup").iterdir():
        for place in (top / instance.cgroup / "supervisor", top / instance.cgroup):
            try:
                place.rmdir()
            except OSError:
                continue


@asynccontextmanager
async def engine_at(place, *, clean=True):
    """An open engine; with `clean` all its containers are removed at the end and nothing of them may be left."""
    instance = instance_at(place)
    try:
        async with Engine.open(instance) as engine:
            try:
                yield engine
            finally:
                for view in await engine.containers.list(all=True) if clean else ():
                    await engine.containers.remove(view.id, force=True, volumes=True)
        if clean:
            await until(lambda: not leftovers(instance), 10)
    finally:
        if clean:
            remove_cgroups(instance)


def scene(place):
    """Decorator: run an async test body with an engine, and check that nothing is left."""

    def wrap(body):
        async def main():
            async with engine_at(place) as engine:
                return await body(engine)

        return asyncio.run(main())

    return wrap
