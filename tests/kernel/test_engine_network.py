"""Containers on networks, through the engine: names, published ports, live connect, and all of it after a restart."""

import asyncio
import urllib.request

import pytest
from engines import engine_at, execute, shell, spec

from pystack.model.container import EndpointSpec, NetworkSpec, PortBinding
from pystack.model.errors import Conflict, EngineError

pytestmark = pytest.mark.kernel

SERVE = "mkdir -p /srv; echo content > /srv/index.html; exec python3 -m http.server -d /srv 8000"


async def fetch(url):
    def get():
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    for _ in range(200):
        try:
            return await asyncio.to_thread(get)
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError(f"no answer from {url}")


def test_names_ports_and_live_connect_survive_a_restart_of_the_engine(tmp_path):
    async def check(engine, port):
        assert await fetch(f"http://127.0.0.1:{port}/") == "content\n"
        script = "import urllib.request as u; print(u.urlopen('http://{}:8000/', timeout=5).read().decode())"
        for name in ("web", "site"):
            code, text = await execute(engine, "client", "python3", "-c", script.format(name))
            assert (code, text.strip()) == (0, "content")

    async def first():
        async with engine_at(tmp_path, clean=False) as engine:
            containers = engine.containers
            await engine.networks.create(NetworkSpec(name="front"))
            server = shell(
                SERVE,
                network_mode="front",
                endpoints=(EndpointSpec(network="front", aliases=("site",)),),
                ports=(PortBinding(container_port=8000),),
            )
            await containers.create(server, "web")
            await containers.start("web")
            view = await containers.inspect("web")
            port = view.ports[0].host_port
            assert view.endpoints[0].ipv4_address
            await containers.create(spec("sleep", "1000", network_mode="bridge"), "client")
            await containers.start("client")
            await engine.networks.connect("front", "client", EndpointSpec(network="front"))
            await check(engine, port)
            taken = shell(
                "true", network_mode="bridge", ports=(PortBinding(container_port=1, host_port=port),)
            )
            made = await containers.create(taken)
            with pytest.raises((Conflict, EngineError), match="port is already allocated"):
                await containers.start(made.id)
            return port

    async def second(port):
        async with engine_at(tmp_path) as engine:
            await check(engine, port)
            assert (await engine.containers.inspect("web")).ports[0].host_port == port
            await engine.networks.disconnect("front", "client")
            code, _ = await execute(
                engine, "client", "python3", "-c", "import socket; socket.gethostbyname('web')"
            )
            assert code != 0
            await engine.containers.restart("web", timeout=0)
            assert (await engine.containers.inspect("web")).ports
            for name in ("web", "client"):
                await engine.containers.remove(name, force=True)
            await engine.networks.remove("front")

    port = asyncio.run(first())
    asyncio.run(second(port))
