"""Real packets through the engine's bridges, firewall, published ports and names, in a host of the test's own.

The "host" is a network namespace that a thread of the test has entered: the machine's own network is not touched.
"""

import asyncio
import contextlib
import os
import socket
import time
from functools import partial

import dnslib
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
from pystack.model.errors import Conflict, EngineError, Forbidden, InvalidInput, NotFound, PystackError
from pystack.network.service import Sandbox, SandboxRequest

pytestmark = pytest.mark.kernel


@on_own_host
async def test_published_ports_are_reached_from_everywhere_they_should(tmp_path):
    async with engine(tmp_path) as host:
        neighbour = outside()
        await host.service.create(NetworkSpec(name="front"))
        await host.service.create(NetworkSpec(name="back"))
        ports = (
            PortBinding(container_port=80, host_port=8080),
            PortBinding(container_port=5300, host_port=5353, protocol="udp"),
            PortBinding(container_port=81, host_port=8081, host_ip="127.0.0.1"),
            PortBinding(container_port=81, host_port=8082, host_ip="192.0.2.1"),
        )
        web = await host.run("web", "front", ports=ports)
        sibling = await host.run("sibling", "front")
        stranger = await host.run("stranger", "back")
        for port in (80, 81, 90):
            serve(web.fd, port, f"web{port}")
        serve(web.fd, 5300, "dns", kind=socket.SOCK_DGRAM)
        gateway = web.sandbox.endpoints[0].gateway

        # loopback, host address, gateway, hairpin (itself), sibling, another network, outside
        assert (await ask(None, "127.0.0.1", 8080)).startswith("web80")
        assert (await ask(None, "192.0.2.1", 8080)).startswith("web80")
        assert await ask(neighbour, "192.0.2.1", 8080) == "web80 192.0.2.2"  # the client's address is kept
        for box in (web, sibling, stranger):
            assert (await ask(box.fd, "192.0.2.1", 8080)).startswith("web80")
            assert (await ask(box.fd, gateway, 8080)).startswith("web80")
        udp = socket.SOCK_DGRAM
        for asker, address in (
            (None, "127.0.0.1"),
            (None, "192.0.2.1"),
            (neighbour, "192.0.2.1"),
            (web.fd, "192.0.2.1"),
            (stranger.fd, "192.0.2.1"),
        ):
            assert (await ask(asker, address, 5353, kind=udp)).startswith("dns")

        # one address only
        assert (await ask(None, "127.0.0.1", 8081)).startswith("web81")
        assert await ask(None, "192.0.2.1", 8081) == "refused"
        assert await ask(neighbour, "192.0.2.1", 8081) == "refused"
        assert (await ask(neighbour, "192.0.2.1", 8082)).startswith("web81")
        assert await ask(None, "127.0.0.1", 8082) == "refused"

        # unpublished: siblings only
        assert (await ask(sibling.fd, web.ip, 90)) == f"web90 {sibling.ip}"
        assert (await ask(None, web.ip, 90)).startswith("web90")
        assert await ask(neighbour, web.ip, 90, timeout=0.4) == "timeout"
        assert (
            await ask(neighbour, web.ip, 80, timeout=0.4) == "timeout"
        )  # published is not "open to routing"
        assert await ask(stranger.fd, web.ip, 90, timeout=0.4) == "timeout"

        await host.stop(web)
        assert await ask(neighbour, "192.0.2.1", 8080) == "refused"
        assert await ask(None, "127.0.0.1", 8080) == "refused"
        os.close(neighbour)


@on_own_host
async def test_loopback_ports_are_closed_to_a_neighbour_that_routes_to_them(tmp_path):
    async with engine(tmp_path) as host:
        neighbour = outside()
        # the worst case: the host itself takes loopback addresses from its wire
        sysctl.write("ipv4/conf/wire0/route_localnet", "1")
        web = await host.run(
            "web", ports=(PortBinding(container_port=80, host_port=8080, host_ip="127.0.0.1"),)
        )
        serve(web.fd, 80, "web")
        serve(None, 7000, "hostservice", address="127.0.0.1")

        def aim():
            sysctl.write("ipv4/conf/all/route_localnet", "1")
            sysctl.write("ipv4/conf/eth0/route_localnet", "1")
            with rtnetlink.Socket() as inner:
                lo, eth0 = 1, socket.if_nametoindex("eth0")
                assert lo != eth0
                route = rtnetlink._route(
                    socket.AF_INET,
                    rtnetlink._attr(1, socket.inet_aton("127.0.0.1"))
                    + rtnetlink._attr(5, socket.inet_aton("192.0.2.1"))
                    + rtnetlink._u32(4, eth0),
                )
                # /32 in the local table's stead: the neighbour's lo is down and gives its own 127/8 up
                inner.batch(
                    [rtnetlink.Message(16, 0, rtnetlink.struct.pack("=BxHiII", 0, 0, 1, 0, 1), "lo down")]
                )
                inner.batch(
                    [rtnetlink.Message(24, 0x400, route[:1] + bytes((32,)) + route[2:], "route to 127.0.0.1")]
                )

        netns.run_in(neighbour, aim)
        assert (await ask(None, "127.0.0.1", 8080)).startswith("web")
        assert await ask(neighbour, "127.0.0.1", 8080, timeout=0.4) == "timeout"
        assert await ask(neighbour, "127.0.0.1", 7000, timeout=0.4) == "timeout"

        # a container must not reach the host's loopback through route_localnet of its bridge either
        def aim_container():
            sysctl.write("ipv4/conf/eth0/route_localnet", "1")
            index = socket.if_nametoindex("eth0")
            gateway = web.sandbox.endpoints[0].gateway
            route = rtnetlink._route(
                socket.AF_INET,
                rtnetlink._attr(1, socket.inet_aton("127.0.0.9"))
                + rtnetlink._attr(5, socket.inet_aton(gateway))
                + rtnetlink._u32(4, index),
            )
            with rtnetlink.Socket() as inner:
                inner.batch(
                    [rtnetlink.Message(16, 0, rtnetlink.struct.pack("=BxHiII", 0, 0, 1, 0, 1), "lo down")]
                )
                inner.batch([rtnetlink.Message(24, 0x400, route[:1] + bytes((32,)) + route[2:], "route")])

        serve(None, 7001, "hostservice", address="127.0.0.9")
        netns.run_in(web.fd, aim_container)
        assert await ask(web.fd, "127.0.0.9", 7001, timeout=0.4) == "timeout"
        os.close(neighbour)


@on_own_host
async def test_internal_networks_and_the_host_are_closed(tmp_path):
    async with engine(tmp_path) as host:
        neighbour, third = outside(), outside("wire1", "198.51.100")
        serve(neighbour, 7000, "world")
        serve(None, 7001, "hostservice")
        await host.service.create(NetworkSpec(name="inner", internal=True))
        shut = await host.run("shut", "inner", ports=(PortBinding(container_port=80, host_port=8080),))
        mate = await host.run("mate", "inner")
        free = await host.run("free", ports=(PortBinding(container_port=80, host_port=8090),))
        serve(mate.fd, 80, "mate")
        serve(free.fd, 80, "free")
        assert shut.sandbox.ports == ()

        assert await ask(free.fd, "192.0.2.2", 7000) == "world 192.0.2.1"  # masqueraded
        assert await ask(shut.fd, "192.0.2.2", 7000) == "Network is unreachable"
        assert (await ask(shut.fd, mate.ip, 80)).startswith("mate")

        def add_default_route():
            gateway = mate.ip.rsplit(".", 1)[0] + ".1"
            with rtnetlink.Socket() as inner:
                inner.batch(
                    [rtnetlink.default_route(rtnetlink.ip_address(gateway), socket.if_nametoindex("eth0"))]
                )

        netns.run_in(shut.fd, add_default_route)  # a container with NET_ADMIN
        assert await ask(shut.fd, "192.0.2.2", 7000, timeout=0.4) == "timeout"
        assert (
            await ask(shut.fd, "192.0.2.1", 8090, timeout=0.4) == "timeout"
        )  # somebody else's published port

        # the engine turned forwarding on; what the host did not forward before stays unforwarded
        assert sysctl.read("ipv4/ip_forward") == "1"
        assert await ask(third, "192.0.2.2", 7000, timeout=0.4) == "timeout"
        os.close(third)

        gateway = free.sandbox.endpoints[0].gateway
        assert await ask(free.fd, gateway, 7001) == "refused"
        assert await ask(free.fd, "192.0.2.1", 7001) == "refused"
        assert await ask(neighbour, "192.0.2.1", 7001) == "hostservice 192.0.2.2"  # not ours to judge
        assert await ask(neighbour, mate.ip, 80, timeout=0.4) == "timeout"
        os.close(neighbour)
    assert sysctl.read("ipv4/ip_forward") == "0"


@on_own_host
async def test_names_resolve_on_shared_networks_only(tmp_path):
    async with engine(tmp_path) as host:
        for name in ("front", "back"):
            await host.service.create(NetworkSpec(name=name))
        await host.service.create(NetworkSpec(name="inner", internal=True))
        alias = (EndpointSpec(network="front", aliases=("db", "Data")),)
        one = await host.run("db-1", "front", endpoints=alias)
        two = await host.run("db-2", "front", endpoints=alias)
        far = await host.run("far", "back")
        shut = await host.run("shut", "inner")
        linked = await host.run(
            "linked", "front", endpoints=(EndpointSpec(network="front", links=("db-1:primary",)),)
        )
        assert one.sandbox.resolv_conf_text == "nameserver 127.0.0.11\noptions ndots:0\n"
        inside_one = partial(netns.run_in, one.fd)
        assert inside_one(lambda: sysctl.read("ipv4/ip_unprivileged_port_start")) == "0"
        assert inside_one(lambda: sysctl.read("ipv4/ping_group_range")) == "0\t2147483647"

        assert await resolve(one, "db-2") == ("NOERROR", [two.ip])
        assert await resolve(one, "DB-2.front.") == ("NOERROR", [two.ip])
        assert await resolve(one, "db") == ("NOERROR", sorted([one.ip, two.ip]))
        assert await resolve(one, "data", tcp=True) == ("NOERROR", sorted([one.ip, two.ip]))
        assert await resolve(one, two.sandbox.container_id[:12]) == ("NOERROR", [two.ip])
        assert await resolve(one, "db", "AAAA") == ("NOERROR", [])
        assert await resolve(one, "db", "MX") == ("NOERROR", [])
        reverse = ".".join(reversed(two.ip.split("."))) + ".in-addr.arpa"
        assert await resolve(one, reverse, "PTR") == ("NOERROR", ["db-2.front."])
        assert await resolve(linked, "primary") == ("NOERROR", [one.ip])
        # a namespace without any name server in reach: what is not ours fails, it does not hang
        assert await resolve(shut, "far") == ("SERVFAIL", [])
        assert await resolve(shut, "example.com") == ("SERVFAIL", [])
        host.service._dns._host_servers = lambda: ()
        assert await resolve(one, "far") == ("SERVFAIL", [])
        assert await resolve(far, "db") == ("SERVFAIL", [])
        assert await resolve(one, "primary") == ("SERVFAIL", [])
        host.service._dns._host_servers = lambda: ("127.0.0.1",)

        loop = asyncio.get_running_loop()
        upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        upstream.bind(("127.0.0.1", 53))
        SERVERS.append(upstream)
        seen = []

        def answer():
            data, peer = upstream.recvfrom(4096)
            query = dnslib.DNSRecord.parse(data)
            seen.append((str(query.q.qname), query.header.id, peer[1]))
            if str(query.q.qname).startswith("slow"):
                return
            reply = query.reply()
            reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.A, rdata=dnslib.A("203.0.113.9"), ttl=5))
            wrong = query.reply()
            wrong.header.id ^= 1
            wrong.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.A, rdata=dnslib.A("203.0.113.66"), ttl=5))
            upstream.sendto(wrong.pack(), peer)
            upstream.sendto(reply.pack(), peer)

        loop.add_reader(upstream, answer)
        slow = asyncio.create_task(resolve(one, "slow.example.com"))
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        assert await resolve(one, "db-2") == ("NOERROR", [two.ip])
        assert time.perf_counter() - began < 0.1  # not behind the slow one
        assert await resolve(one, "www.example.com") == ("NOERROR", ["203.0.113.9"])
        await resolve(one, "www2.example.com")
        assert len({port for _, _, port in seen}) == len(seen)
        assert not any("inner" in name or "far" in name for name, _, _ in seen)
        count = len(seen)
        assert await resolve(shut, "leak.example.com") == ("SERVFAIL", [])
        assert len(seen) == count  # nothing of an internal network leaves
        began = time.perf_counter()
        assert await slow == ("SERVFAIL", [])
        loop.remove_reader(upstream)

        await host.stop(two)
        assert await resolve(one, "db") == ("NOERROR", [one.ip])


@on_own_host
async def test_ports_are_really_bound(tmp_path):
    async with engine(tmp_path) as host, engine(tmp_path, "b") as other:
        binding = (PortBinding(container_port=80, host_port=8080),)
        first = await host.run("first", ports=binding)
        for holder, hint in ((host, "container first publishes it"), (other, "another program")):
            with pytest.raises(
                EngineError, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated"
            ) as caught:
                await holder.run("second", ports=binding)
            assert hint in caught.value.hint
        with (
            socket.create_server(("127.0.0.1", 8081)),
            pytest.raises(EngineError, match=r"0\.0\.0\.0:8081 failed"),
        ):
            await host.run("third", ports=(PortBinding(container_port=80, host_port=8081),))
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("0.0.0.0", 8080))
        ranged = await host.run(
            "ranged",
            ports=(PortBinding(container_port=80, host_port=8080, host_port_end=8085),),
        )
        assert [port.host_port for port in ranged.sandbox.ports] == [8081]
        free = await host.run("free", publish_all=True, exposed=("80/tcp", "90/udp"))
        low, high = map(int, sysctl.read("ipv4/ip_local_port_range").split())
        assert len({port.host_port for port in free.sandbox.ports}) == 2
        assert all(low <= port.host_port <= high for port in free.sandbox.ports)
        serve(free.fd, 80, "free")
        [tcp] = [port for port in free.sandbox.ports if port.protocol == "tcp"]
        assert (await ask(None, "127.0.0.1", tcp.host_port)).startswith("free")
        await host.stop(first)
        again = await other.run("again", ports=binding)
        assert again.sandbox.ports[0].host_port == 8080


@on_own_host
async def test_engines_side_by_side_keep_apart(tmp_path):
    async with engine(tmp_path) as host, engine(tmp_path, "b") as other:
        mine, theirs = await host.run("mine"), await other.run("theirs")
        serve(theirs.fd, 80, "theirs")
        assert mine.ip.split(".")[:2] != theirs.ip.split(".")[:2]
        assert (await ask(None, theirs.ip, 80)).startswith("theirs")
        assert await ask(mine.fd, theirs.ip, 80, timeout=0.4) == "timeout"
        before = Nft().run(f"list table inet {other.instance.nft_table}")
        await host.stop(mine)
        await host.service.recover([])
        assert Nft().run(f"list table inet {other.instance.nft_table}") == before


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
