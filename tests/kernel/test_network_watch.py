"""What something else takes away from the engine's networks comes back, with a warning and an event, and works as before."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time

import pytest
from engines import engine_at, instance_at
from ownhost import (  # noqa: F401 - close_servers is a fixture
    ask,
    close_servers,
    engine,
    on_own_host,
    outside,
    own_links,
    resolve,
    serve,
)

from pystack.kernel import rtnetlink, sysctl
from pystack.kernel.links import LinkWatch
from pystack.kernel.nftables import Nft
from pystack.model.container import NetworkSpec, PortBinding
from pystack.network import watch

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.1)
    monkeypatch.setattr(watch, "_QUIET", 0.05)


def repairs(host):
    return [event[3] for event in host.events if event[:2] == ("network", "repair")]


async def until(condition, *, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watched(host):
    """The service watches, and listens to the kernel."""
    host.service.watch()
    await until(lambda: host.service._watch._links is not None)
    yield
    await host.service._watch.stop()


def delete(name):
    with rtnetlink.Socket() as own:
        own.batch([rtnetlink.delete_link(name)])


def take_address(name, address, prefix):
    """As `ip addr del`."""
    ip = rtnetlink.ip_address(address)
    head = rtnetlink.struct.pack("=BBBBi", rtnetlink._family(ip), prefix, 0, 0, socket.if_nametoindex(name))
    body = head + rtnetlink._attr(2, ip.packed)
    with rtnetlink.Socket() as own:
        own.batch([rtnetlink.Message(21, 0, body, "delete address")])


def listing(host):
    return Nft().run(f"list table inet {host.instance.nft_table}")


@on_own_host
async def test_the_table_comes_back_however_it_was_changed(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        neighbour = outside()
        await host.service.create(NetworkSpec(name="app", enable_ipv6=True))
        web = await host.run("web", "app", ports=(PortBinding(container_port=80, host_port=8080),))
        await host.service.create(NetworkSpec(name="other"))
        stranger = await host.run("stranger", "other")
        serve(web.fd, 80, "web")
        serve(web.fd, 81, "web")
        await asyncio.sleep(0.3)
        assert repairs(host) == []  # what the engine does itself is no loss
        table = host.instance.nft_table
        before = listing(host)
        for number, harm in enumerate(
            (
                "flush ruleset",
                f"delete table inet {table}",
                f"flush table inet {table}",
                f"flush chain inet {table} guard",
                f"flush map inet {table} open4",
                f"flush set inet {table} same",
                f"flush set inet {table} own4",
                f"insert rule inet {table} passing accept",
            ),
            start=1,
        ):
            Nft().run(harm)
            await until(lambda n=number: len(repairs(host)) == n)
            assert listing(host) == before, harm
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith("web")
        assert (await ask(web.fd, web.sandbox.endpoints[0].gateway, 8080)).startswith("web")  # hairpin
        assert (await ask(None, "127.0.0.1", 8080)).startswith("web")
        assert await ask(stranger.fd, web.ip, 81, timeout=0.4) == "timeout"
        assert await ask(neighbour, web.ip, 81, timeout=0.4) == "timeout"
        assert repairs(host)[0] == {"name": table, "what": "the firewall table was changed or removed"}
        await asyncio.sleep(0.3)
        assert len(repairs(host)) == 8
        os.close(neighbour)


@on_own_host
async def test_a_deleted_bridge_comes_back_with_everything(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        neighbour = outside()
        made = await host.service.create(NetworkSpec(name="app"))
        closed = await host.service.create(
            NetworkSpec(name="closed", options={"com.docker.network.bridge.enable_icc": "false"})
        )
        web = await host.run("web", "app", ports=(PortBinding(container_port=80, host_port=8080),))
        client = await host.run("client", "app")
        one, two = await host.run("one", "closed"), await host.run("two", "closed")
        for box in (web, two):
            serve(box.fd, 80, "box")
        assert await ask(one.fd, two.ip, 80, timeout=0.3) != "box"
        await asyncio.sleep(0.2)
        for name, network in (("app", made), ("closed", closed)):
            host.events.clear()
            bridge = host.instance.bridge(network.id)
            delete(bridge)
            await until(lambda: repairs(host))
            assert repairs(host) == [{"name": name, "what": f"bridge {bridge} was removed"}]
            assert sysctl.read(f"ipv4/conf/{bridge}/route_localnet") == "1"
            assert sysctl.read(f"ipv6/conf/{bridge}/disable_ipv6") == "1"
        assert (await ask(client.fd, web.ip, 80)).startswith("box")
        assert (await ask(neighbour, "192.0.2.1", 8080)).startswith("box")
        assert (await ask(None, "127.0.0.1", 8080)).startswith("box")  # route_localnet
        assert (await ask(web.fd, "192.0.2.1", 8080)).startswith("box")  # hairpin
        assert (await ask(None, two.ip, 80)).startswith("box")
        assert not (await ask(one.fd, two.ip, 80, timeout=0.3)).startswith("box")  # still isolated
        assert await resolve(client, "web") == ("NOERROR", [web.ip])
        host.events.clear()
        later = await host.run("later", "app")
        assert (await ask(later.fd, web.ip, 80)).startswith("box")
        await asyncio.sleep(0.3)
        assert repairs(host) == []
        os.close(neighbour)


@on_own_host
async def test_what_cannot_be_mended_is_tried_again(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        made = await host.service.create(NetworkSpec(name="app"))
        web = await host.run("web", "app")
        serve(web.fd, 80, "web")
        await asyncio.sleep(0.2)
        bridge = host.instance.bridge(made.id)
        with rtnetlink.Socket() as own:  # in one go: something of another kind has the name at once
            own.batch([rtnetlink.delete_link(bridge), rtnetlink.veth(bridge, "eth7", peer_netns_fd=web.fd)])
        await asyncio.sleep(0.4)
        assert repairs(host) == []
        delete(bridge)
        await until(lambda: repairs(host))
        assert (await ask(None, web.ip, 80)).startswith("web")


@on_own_host
async def test_addresses_come_back_and_bridges_go_up_again(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        made = await host.service.create(NetworkSpec(name="app", enable_ipv6=True))
        web = await host.run("web", "app")
        serve(web.fd, 80, "web")
        view, bridge = web.sandbox.endpoints[0], host.instance.bridge(made.id)
        await asyncio.sleep(0.2)
        for address, prefix in ((view.gateway, view.ipv4_prefix), (view.ipv6_gateway, view.ipv6_prefix)):
            host.events.clear()
            take_address(bridge, address, prefix)
            await until(lambda: repairs(host))
            assert repairs(host) == [
                {"name": "app", "what": f"address {address}/{prefix} of bridge {bridge} was removed"}
            ]
        assert (await ask(None, web.ip, 80)).startswith("web")
        host.events.clear()
        with rtnetlink.Socket() as own:
            own.batch([rtnetlink.link_down(bridge)])
        await until(lambda: repairs(host))
        assert (await ask(None, web.ip, 80)).startswith("web")
        with rtnetlink.Socket() as own:
            addresses = {str(ip) for ip, _ in own.addresses(socket.if_nametoindex(bridge))}
        assert {view.gateway, view.ipv6_gateway} <= addresses
        assert repairs(host) == [{"name": "app", "what": f"bridge {bridge} was set down"}]


@on_own_host
async def test_forwarding_and_losses_before_the_kernel_is_listened_to(
    tmp_path,
):
    async with engine(tmp_path) as host:
        made = await host.service.create(NetworkSpec(name="app"))
        sysctl.write("ipv4/ip_forward", "0")
        delete(host.instance.bridge(made.id))
        await host.service._watch.look()
        assert sysctl.read("ipv4/ip_forward") == "1"
        assert host.instance.bridge(made.id) in {link.name for link in own_links()}
        assert [repair["name"] for repair in repairs(host)] == ["ipv4.ip_forward", "app"]


@on_own_host
async def test_starts_stops_and_removals_are_no_loss_and_reach_no_reader(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        seen = []
        listen = LinkWatch.losses

        async def losses(self):
            found = await listen(self)
            seen.extend(found)
            return found

        LinkWatch.losses = losses
        try:
            for _ in range(2):
                await host.service.create(NetworkSpec(name="app"))
                ports = (PortBinding(container_port=80, host_port=8080),)
                web = await host.run("web", "app", ports=ports)
                box = await host.run("box")
                await asyncio.sleep(0.25)
                await host.stop(web)
                await host.stop(box)
                await asyncio.sleep(0.15)
                await host.service.remove("app")
                await asyncio.sleep(0.15)
        finally:
            LinkWatch.losses = listen
        assert repairs(host) == []
        # our own removals of a bridge at most, never what starting and stopping a container says
        assert len(seen) <= 12


@on_own_host
async def test_the_table_goes_with_the_last_bridge_and_forwarding_too(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        for _ in range(2):
            await host.service.create(NetworkSpec(name="app"))
            await host.service.create(NetworkSpec(name="back"))
            assert host.instance.nft_table in Nft().run("list tables")
            assert sysctl.read("ipv4/ip_forward") == "1"
            await host.service.remove("app")
            assert host.instance.nft_table in Nft().run("list tables")
            await host.service.remove("back")
            assert Nft().run("list tables") == ""
            assert sysctl.read("ipv4/ip_forward") == "0"
        # while another bridge may rely on forwarding, that stays, and what guards it
        await host.service.create(NetworkSpec(name="app"))
        with rtnetlink.Socket() as own:
            own.batch([rtnetlink.bridge("br-other", "02:00:00:00:00:01")])
        await host.service.remove("app")
        assert host.instance.nft_table in Nft().run("list tables")
        assert sysctl.read("ipv4/ip_forward") == "1"
        delete("br-other")
        await until(lambda: Nft().run("list tables") == "")
        assert sysctl.read("ipv4/ip_forward") == "0"
        assert repairs(host) == []


@on_own_host
async def test_the_default_bridge_goes_when_nobody_uses_it(tmp_path):
    async with engine(tmp_path) as host, watched(host):

        def names():
            return {link.name for link in own_links() if link.name.startswith(host.instance.link_prefix)}

        box = await host.run("box")
        gateway = await host.run("gateway", "none", extra_hosts=("host:host-gateway",))
        await asyncio.sleep(0.4)
        assert len(names()) == 2
        await host.stop(box)
        await asyncio.sleep(0.4)
        assert len(names()) == 1  # its address is in the other one's /etc/hosts
        await host.stop(gateway)
        await until(lambda: not names() and Nft().run("list tables") == "")
        assert (await host.service.list({"name": ["bridge"]}))[0].ipam_pools == ()
        view = await host.service.inspect("bridge")
        assert view.ipam_pools[0].subnet
        # users come while it goes: every one of them works
        for _ in range(15):
            box = await host.run("box")
            serve(box.fd, 80, "box")
            assert (await ask(None, box.ip, 80)).startswith("box")
            await host.stop(box)
            await asyncio.sleep(0.17)
        assert repairs(host) == []


@on_own_host
async def test_a_retirement_that_was_cut_short_is_finished_by_the_next_daemon(tmp_path):
    async with engine(tmp_path) as host:
        await host.stop(await host.run("box"))
        state = host.service._registry.default_bridge()
        host.service._registry.give_up_subnet(state)
        await host.service._registry.keep(state)  # and the daemon dies
        await host.service.close()
        host.service = host.new_service()
        await host.service.open()
        await host.service.recover([])
        assert not [link for link in own_links() if link.name.startswith(host.instance.link_prefix)]
        assert Nft().run("list tables") == ""
        assert sysctl.read("ipv4/ip_forward") == "0"


@on_own_host
async def test_watching_costs_next_to_nothing(tmp_path):
    async with engine(tmp_path) as host, watched(host):
        await host.service.create(NetworkSpec(name="app"))
        for number in range(10):
            ports = (PortBinding(container_port=80, host_port=20000 + number),)
            await host.run(f"c{number}", "app", ports=ports)
        await host.service._watch.look()
        looks, began = 50, time.process_time()
        for _ in range(looks):
            await host.service._watch.look()
        each = (time.process_time() - began) / looks
        print(f"one look with nothing changed: {each * 1e6:.0f} us")
        assert each < 0.001 * 5.0  # 0.1 % of the period of 5 s
        Nft().run("add table inet somebody")
        began = time.process_time()
        await host.service._watch.look()
        print(f"one look after any table changed: {(time.process_time() - began) * 1e6:.0f} us")
        Nft().run("delete table inet somebody")
        assert repairs(host) == []


@on_own_host
async def test_the_warning_says_what_and_comes_once(tmp_path):
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler = Keep(logging.WARNING)
    logging.getLogger("pystack").addHandler(handler)
    try:
        async with engine(tmp_path) as host, watched(host):
            made = await host.service.create(NetworkSpec(name="app"))
            await host.run("web", "app")
            await asyncio.sleep(0.2)
            delete(host.instance.bridge(made.id))
            await until(lambda: repairs(host))
            await asyncio.sleep(0.3)
        bridge = host.instance.bridge(made.id)
        assert [r.getMessage() for r in records] == [
            f"bridge {bridge} was removed by something else: mended (app)"
        ]
    finally:
        logging.getLogger("pystack").removeHandler(handler)


def test_pyroute2_is_not_imported_with_the_service():
    code = "import pystack.network.service, sys; sys.exit('pyroute2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_engine_watches_from_its_start(tmp_path):
    async def scenario():
        async with engine_at(tmp_path) as running:
            made = await running.networks.create(NetworkSpec(name="app"))
            instance = instance_at(tmp_path)
            table = next(
                line for line in Nft().run("list tables inet").splitlines() if instance.nft_table in line
            )
            events = running.events.subscribe(filters={"type": ["network"], "event": ["repair"]})
            # One after the other: what mends the bridge needs the table, and when it is the first to miss it, it makes
            # the table anew without a word.
            Nft().run(f"delete {table}")
            async with asyncio.timeout(10):
                assert (await anext(events)).attributes["name"] == instance.nft_table
            assert table in Nft().run("list tables inet").splitlines()
            delete(instance.bridge(made.id))
            async with asyncio.timeout(10):
                assert (await anext(events)).attributes["name"] == "app"
            await events.aclose()
            await running.networks.remove("app")

    asyncio.run(scenario())
