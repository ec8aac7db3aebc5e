"""Busybox containers and tar streams for tests of files and images."""

from __future__ import annotations

import asyncio
import io
import tarfile

import engines
import images


async def chunks(data, size=30_000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def load_busybox(engine):
    data = images.docker_archive([images.busybox_layer()], ["box:latest"], images.BUSYBOX_CONFIG)
    async for _ in engine.images.load(chunks(data)):
        pass


async def begin(engine, script, name, **more):
    made = await engine.containers.create(engines.shell(f"{script}\nsleep 1000", image="box", **more), name)
    await engine.containers.start(made.id)
    return made.id


async def saying(engine, ref, word):
    for _ in range(500):
        if word in await engines.output(engine, ref):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await engines.output(engine, ref))


async def get(engine, ref, path):
    """(status, members by name) of what comes out."""
    async with engine.files.archive(ref, path) as (status, stream):
        data = b"".join([chunk async for chunk in stream])
    return status, members(data)


class Info(tarfile.TarInfo):
    content = b""


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data), tarinfo=Info) as archive:
        found = {}
        for info in archive:
            info.content = archive.extractfile(info).read() if info.isreg() else b""
            found[info.name] = info
        return found


async def sh(engine, ref, script):
    code, out = await engines.execute(engine, ref, "sh", "-c", script)
    return out if code == 0 else f"{code}: {out}"
