"""aiodocker against a real engine, used as its documentation uses it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator

import aiodocker
import harness
import pytest

pytestmark = [pytest.mark.clients, pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
async def client(daemon: harness.Engine) -> AsyncIterator[aiodocker.Docker]:
    async with aiodocker.Docker(url=daemon.environment["PYSTACK_HOST"]) as made:
        yield made


async def test_containers(client: aiodocker.Docker) -> None:
    assert (await client.version())["ApiVersion"] == "1.50"
    config = {"Cmd": ["sh", "-c", "echo out; echo err >&2; exit 3"], "Image": "busybox", "Labels": {"a": "b"}}
    made = await client.containers.create_or_replace(config=config, name="aio")
    await made.start()
    assert (await made.wait())["StatusCode"] == 3
    assert "".join(await made.log(stdout=True)) == "out\n"
    assert "".join(await made.log(stderr=True)) == "err\n"
    assert [c.id for c in await client.containers.list(all=True, filters={"label": ["a=b"]})] == [made.id]
    again = await client.containers.create_or_replace(config=config, name="aio")
    assert again.id != made.id
    assert (await again.show())["State"]["Status"] == "created"
    await again.delete(force=True)
    with pytest.raises(aiodocker.DockerError) as caught:
        await client.containers.get("aio")
    assert caught.value.status == 404


async def test_exec_files_and_logs_as_they_come(client: aiodocker.Docker) -> None:
    script = "i=0; while [ $i -lt 3 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; sleep 1000"
    made = await client.containers.run(config={"Cmd": ["sh", "-c", script], "Image": "busybox"}, name="aio")
    lines = []
    async for line in made.log(stdout=True, follow=True):
        lines.append(line)
        if len(lines) == 3:
            break
    assert lines == ["line 0\n", "line 1\n", "line 2\n"]
    run = await made.exec(["sh", "-c", "read x; echo got $x; exit 4"], stdin=True)
    async with run.start(detach=False) as stream:
        await stream.write_in(b"it\n")
        message = await stream.read_out()
        assert message is not None
        assert (message.stream, message.data) == (1, b"got it\n")
        assert await stream.read_out() is None
    assert (await run.inspect())["ExitCode"] == 4
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            info = tarfile.TarInfo("there.txt")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
        await made.put_archive("/tmp", packed.getvalue())
    fetched = await made.get_archive("/tmp/there.txt")
    with fetched as archive:
        member = archive.extractfile("there.txt")
        assert member is not None
        assert member.read() == b"hello"
    assert (await made.stats(stream=False))[0]["pids_stats"]["current"] >= 1
    await made.kill()
    assert (await made.wait())["StatusCode"] == 137
    await made.delete()


async def test_events_networks_and_volumes(client: aiodocker.Docker) -> None:
    subscriber = client.events.subscribe()
    network = await client.networks.create({"Name": "aionet", "Labels": {"n": "1"}})
    volume = await client.volumes.create({"Name": "aiovol"})
    config = {"Cmd": ["sleep", "1000"], "Image": "busybox", "HostConfig": {"Binds": ["aiovol:/data"]}}
    made = await client.containers.run(config=config, name="aio")
    await network.connect({"Container": made.id, "EndpointConfig": {"Aliases": ["friend"]}})
    networks = (await made.show())["NetworkSettings"]["Networks"]
    assert "friend" in networks["aionet"]["Aliases"]
    await network.disconnect({"Container": made.id})
    await made.delete(force=True)
    await volume.delete()
    await network.delete()
    seen: list[tuple[str, str]] = []
    async with asyncio.timeout(30):
        while ("network", "destroy") not in seen:
            event = await subscriber.get()
            assert event is not None
            seen.append((event["Type"], event["Action"]))
    wanted = [("network", "create"), ("volume", "create"), ("container", "create"), ("container", "start")]
    wanted += [("container", "die"), ("container", "destroy"), ("volume", "destroy"), ("network", "destroy")]
    assert [item for item in seen if item in wanted] == wanted
    await client.events.stop()
