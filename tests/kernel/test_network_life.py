"""Networks that change while packets flow: daemons that restart, live connect and disconnect, renames, many endpoints.

As in test_network_paths.py, the "host" is a network namespace that a thread of the test has entered.
"""

import asyncio
import contextlib
import os
import socket
import time

import pytest
from ownhost import (  # noqa: F401 - close_servers is a fixture
    SERVERS,
    ask,
    close_servers,
    engine,
    eventually,
    on_own_host,
    outside,
    own_links,
    resolve,
    serve,
)

from pystack.kernel import netns, rtnetlink, sysctl
from pystack.kernel.nftables import Nft
from pystack.model.container import EndpointSpec, IpamPool, NetworkSpec, PortBinding
from pystack.model.errors import Conflict, Forbidden, InvalidInput, NotFound, PystackError
from pystack.network.service import Sandbox, SandboxRequest

pytestmark = pytest.mark.kernel


@on_own_host
async def test_a_restarted_daemon_takes_everything_over(tmp_path):
    async with engine(tmp_path) as host:
        neighbour = outside()
        created = await host.service.create(NetworkSpec(name="app"))
        web = await host.run("web", "app", ports=(PortBinding(container_port=80, host_port=8080),))
        client = await host.run("client", "app")
        serve(web.fd, 80, "web")
        sandboxes = [(Sandbox.from_json(sandbox.to_json()), fd) for sandbox, fd in host.live.values()]
        assert [pair[0] for pair in sandboxes] == [sandbox for sandbox, _ in host.live.values()]
        await host.service.close()  # the daemon is gone: sockets closed
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith("web")
        Nft().run(f"delete table inet {host.instance.nft_table}")  # and somebody flushed the firewall
        with rtnetlink.Socket() as own:
            own.batch([rtnetlink.bridge(host.instance.bridge("f" * 64), "02:00:00:00:00:01")])
            own.batch(
                [rtnetlink.delete_link(host.instance.bridge(created.id))]
            )  # and somebody deleted our bridge

        host.service = host.new_service()
        await host.service.open()
        await host.service.recover(sandboxes)
        names = {link.name for link in own_links()}
        assert host.instance.bridge("f" * 64) not in names
        assert host.instance.bridge(created.id) in names
        assert await resolve(client, "web") == ("NOERROR", [web.ip])
        assert (await ask(client.fd, web.ip, 80)).startswith("web")
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith("web")
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("0.0.0.0", 8080))
        third = await host.run("third", "app")
        assert third.ip not in {web.ip, client.ip}
        with pytest.raises(Forbidden, match="has active endpoints"):
            await host.service.remove("app")
        os.close(neighbour)


@on_own_host
async def test_live_connect_and_disconnect(tmp_path):
    async with engine(tmp_path) as host:
        neighbour = outside()
        serve(neighbour, 7000, "world")
        await host.service.create(NetworkSpec(name="app"))
        peer = await host.run("peer", "app")
        web = await host.run("web", ports=(PortBinding(container_port=80, host_port=8080),))
        serve(web.fd, 80, "web")
        assert "127.0.0.11" not in web.sandbox.resolv_conf_text
        box_id = web.sandbox.container_id
        wider = await host.service.connect(box_id, EndpointSpec(network="app", aliases=("shop",)), web.fd)
        assert [a.interface for a in wider.attachments] == ["eth0", "eth1"]
        assert "nameserver 127.0.0.11" in wider.resolv_conf_text
        assert wider.endpoints[1].ipv4_address + "\t" in wider.hosts_text
        assert await resolve(peer, "shop") == ("NOERROR", [wider.endpoints[1].ipv4_address])
        assert (await ask(peer.fd, wider.endpoints[1].ipv4_address, 80)).startswith("web")
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith("web")
        narrower = await host.service.disconnect(box_id, "bridge", web.fd)
        assert [view.network for view in narrower.endpoints] == ["app"]
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith(
            "web"
        )  # published through the other one now
        assert await ask(web.fd, "192.0.2.2", 7000) == "world 192.0.2.1"
        last = await host.service.disconnect(box_id, "app", web.fd)
        assert (last.endpoints, last.ports) == ((), ())
        assert await ask(neighbour, "192.0.2.1", 8080) == "refused"
        with pytest.raises(NotFound):
            await host.service.disconnect(box_id, "app", web.fd)
        assert [e[1] for e in host.events if e[0] == "network" and "container" in e[3]] == [
            "connect",
            "connect",
            "connect",
            "disconnect",
            "disconnect",
        ]
        os.close(neighbour)


@on_own_host
async def test_ipv6_networks(tmp_path):
    async with engine(tmp_path) as host:
        await host.service.create(NetworkSpec(name="six", enable_ipv6=True))
        one = await host.run("one", "six", ports=(PortBinding(container_port=80, host_port=8080),))
        two = await host.run("two", "six")
        four = await host.run("four")
        serve(one.fd, 80, "one", address="::")
        view = one.sandbox.endpoints[0]
        assert view.ipv6_address.startswith("fd")
        assert view.ipv6_prefix == 64
        assert (await ask(two.fd, view.ipv6_address, 80)).startswith("one")
        # the kernel notices a new bridge's carrier within a second, and only then routes IPv6 to it
        await eventually(lambda: ask(two.fd, view.ipv6_gateway, 8080), "one")
        assert (await ask(None, view.ipv6_gateway, 8080)).startswith("one")
        assert (await ask(None, "127.0.0.1", 8080)).startswith("one")
        assert await ask(None, "::1", 8080) == "refused"
        assert await resolve(two, "one", "AAAA") == ("NOERROR", [view.ipv6_address])
        assert netns.run_in(four.fd, lambda: sysctl.read("ipv6/conf/eth0/disable_ipv6")) == "1"
        assert await ask(four.fd, view.ipv6_address, 80) == "Network is unreachable"


@on_own_host
async def test_networks_are_checked_and_removed(tmp_path):
    async with engine(tmp_path) as host:
        service = host.service
        made = await service.create(
            NetworkSpec(
                name="app",
                ipam_pools=(IpamPool(subnet="10.77.0.0/20", ip_range="10.77.1.0/24"),),
                labels={"a": "b"},
            )
        )
        view = await service.inspect("app")
        assert (view.id, view.ipam_pools[0].gateway) == (made.id, "10.77.1.0")
        for spec, error, text in (
            (NetworkSpec(name="app"), Conflict, "network with name app already exists"),
            (NetworkSpec(name="bridge"), Forbidden, "predefined"),
            (NetworkSpec(name="x", ipam_pools=(IpamPool(subnet="10.77.8.0/24"),)), Forbidden, "network app"),
            (NetworkSpec(name="x", ipam_pools=(IpamPool(subnet="10.77.8.1/24"),)), InvalidInput, "host bits"),
            (
                NetworkSpec(name="x", options={"com.docker.network.bridge.name": 'a"; x'}),
                InvalidInput,
                "bridge name",
            ),
        ):
            with pytest.raises(error, match=text):
                await service.create(spec)
        static = await host.run(
            "static", "app", endpoints=(EndpointSpec(network="app", ipv4_address="10.77.2.2"),)
        )
        assert static.ip == "10.77.2.2"
        with pytest.raises(Forbidden, match="already in use"):
            await host.run("clash", "app", endpoints=(EndpointSpec(network="app", ipv4_address="10.77.2.2"),))
        with pytest.raises(PystackError, match="user defined networks only"):
            await host.run("clash", endpoints=(EndpointSpec(network="default", ipv4_address="172.17.0.9"),))
        with pytest.raises(Forbidden, match=rf"network app id {made.id} has active endpoints"):
            await service.remove("app")
        with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
            await service.remove("bridge")
        with pytest.raises(NotFound, match="network nix not found"):
            await service.remove("nix")
        assert [v.name for v in await service.list({"label": ["a=b"]})] == ["app"]
        assert await service.prune() == []
        await host.stop(static)
        assert await service.prune() == ["app"]
        assert host.instance.bridge(made.id) not in {link.name for link in own_links()}
        assert {v.name for v in await service.list()} == {"bridge", "host", "none"}


@on_own_host
async def test_udp_clients_that_never_stop_reach_the_new_container(tmp_path):
    async with engine(tmp_path) as host:
        neighbour = outside()
        ports = (PortBinding(container_port=5300, host_port=5353, protocol="udp"),)
        loop = asyncio.get_running_loop()
        client = netns.run_in(neighbour, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setblocking(False)
        await loop.sock_connect(client, ("192.0.2.1", 5353))

        async def answer():
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                while client.recv(100):  # late answers to a question that was repeated on a busy machine
                    pass
            for _ in range(20):
                try:
                    async with asyncio.timeout(0.3):
                        await loop.sock_sendall(client, b"?")
                        return (await loop.sock_recv(client, 100)).decode()
                except (TimeoutError, ConnectionRefusedError):
                    continue
            return "nothing"

        serve(None, 5353, "hostservice", kind=socket.SOCK_DGRAM)
        assert (await answer()).startswith("hostservice")  # a flow from before the port was published
        loop.remove_reader(SERVERS[0])
        SERVERS.pop().close()
        old = await host.run("old", ports=ports)
        serve(old.fd, 5300, "old", kind=socket.SOCK_DGRAM)
        assert (await answer()).startswith("old")
        await host.stop(old)
        new = await host.run("new", ports=ports)
        serve(new.fd, 5300, "new", kind=socket.SOCK_DGRAM)
        assert new.ip != old.ip
        assert (await answer()).startswith("new")
        client.close()
        os.close(neighbour)


@on_own_host
async def test_a_renamed_container_resolves_by_its_new_name(tmp_path):
    async with engine(tmp_path) as host:
        await host.service.create(NetworkSpec(name="app"))
        one, two = await host.run("one", "app"), await host.run("two", "app")
        host.service._dns._host_servers = lambda: ()
        renamed = host.service.rename(two.sandbox.container_id, "zwei")
        assert renamed.name == "zwei"
        assert await resolve(one, "zwei") == ("NOERROR", [two.ip])
        assert await resolve(one, "two") == ("SERVFAIL", [])


@on_own_host
async def test_fifty_endpoints(tmp_path):
    async with engine(tmp_path) as host:
        await host.service.create(NetworkSpec(name="app"))
        spaces = [netns.create() for _ in range(50)]
        cpu = time.process_time()
        times = {"prepare": 0.0, "wire": 0.0}
        sandboxes = []
        for number, fd in enumerate(spaces):
            ports = (PortBinding(container_port=80, host_port=20000 + number),)
            request = SandboxRequest(
                container_id=os.urandom(32).hex(), name=f"c{number}", network_mode="app", ports=ports
            )
            began = time.perf_counter()
            sandbox = await host.service.prepare(request)
            middle = time.perf_counter()
            await host.service.wire(sandbox, fd)
            times["prepare"] += middle - began
            times["wire"] += time.perf_counter() - middle
            sandboxes.append(sandbox)
        began = time.perf_counter()
        for sandbox in sandboxes:
            await host.service.release(sandbox.container_id)
        for fd in spaces:
            os.close(fd)
        released = time.perf_counter() - began
        began = time.perf_counter()
        await host.service.remove("app")
        removed = time.perf_counter() - began
        print(
            f"50 endpoints with a port each: prepare {times['prepare'] * 1e3:.1f} ms, wire {times['wire'] * 1e3:.1f} ms, "
            f"cpu of all {(time.process_time() - cpu) * 1e3:.0f} ms, release {released * 1e3:.1f} ms, remove network {removed * 1e3:.1f} ms"
        )
        assert time.process_time() - cpu < 1  # the work itself, whatever else the machine does


def test_the_machine_itself_is_left_alone(tmp_path):
    """In the machine's own namespace: forwarding goes back to what it was, no link and no table stays."""
    before = sysctl.read("ipv4/ip_forward")
    others = any(link.kind == "bridge" for link in own_links())

    async def scenario():
        async with engine(tmp_path) as host:
            web = await host.run("web")
            serve(web.fd, 80, "web")
            assert (await ask(None, web.ip, 80)).startswith("web")
            assert sysctl.read("ipv4/ip_forward") == "1"

    asyncio.run(scenario())
    if not others:
        assert sysctl.read("ipv4/ip_forward") == before
