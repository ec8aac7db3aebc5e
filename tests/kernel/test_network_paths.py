"""Real packets through the engine's bridges, firewall, published ports and names, in a host of the test's own.

The "host" is a network namespace that a thread of the test has entered: the machine's own network is not touched.
"""

import asyncio
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
    on_own_host,
    outside,
    resolve,
    serve,
)

from pystack.kernel import netns, rtnetlink, sysctl
from pystack.kernel.nftables import Nft
from pystack.model.container import EndpointSpec, NetworkSpec, PortBinding
from pystack.model.errors import EngineError

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
