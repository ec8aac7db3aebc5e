"""Firewall text, port bindings and records: what goes to the kernel and to the store, without either."""

import asyncio

import pytest

from pystack.kernel import failpoints
from pystack.model.container import NetworkSpec, PortBinding
from pystack.model.errors import EngineError, InvalidInput
from pystack.model.observed import PublishedPort
from pystack.network import ports
from pystack.network.firewall import BridgeRules, Firewall, Forward
from pystack.network.records import NetworkRecord, dump_network, load_network


class Recorder:
    """Takes nft's commands; `refuse` makes the next one fail."""

    def __init__(self):
        self.commands, self.refuse = [], False

    def run(self, commands):
        if self.refuse:
            self.refuse = False
            raise EngineError("cannot change the firewall: no such file")
        self.commands.append(commands)
        return ""


def forward(host_ip="0.0.0.0", port=8080, target="10.0.0.2"):
    return Forward(
        port=PublishedPort(container_port=80, protocol="tcp", host_ip=host_ip, host_port=port), target=target
    )


def test_changes_are_elements_and_a_foreign_change_is_mended_by_the_whole_table():
    asyncio.run(_changes())


async def _changes():
    nft = Recorder()
    firewall = Firewall("t", nft)
    firewall.add_bridge(BridgeRules(bridge="b0", subnets=("10.0.0.0/24", "fd00::/64")))
    assert nft.commands[-1].startswith("add table inet t\ndelete table inet t\ntable inet t {")
    await firewall.publish("c", [forward(), forward("127.0.0.1", 81), forward("::", 8080, "fd00::2")])
    assert nft.commands[-1].splitlines() == [
        "add element inet t open4 { 6 . 8080 : 10.0.0.2 . 80 }",
        "add element inet t bound4 { 127.0.0.1 . 6 . 81 : 10.0.0.2 . 80 }",
        "add element inet t open6 { 6 . 8080 : fd00::2 . 80 }",
    ]
    nft.refuse = True
    await firewall.publish("d", [forward(port=90)])
    assert nft.commands[-1] == firewall.render()
    assert "6 . 90 : 10.0.0.2 . 80" in firewall.render()
    await firewall.unpublish("c")
    assert nft.commands[-1].splitlines()[0] == "delete element inet t open4 { 6 . 8080 }"
    count = len(nft.commands)
    await firewall.unpublish("c")
    firewall.remove_bridge("nix")
    assert len(nft.commands) == count
    firewall.add_bridge(BridgeRules(bridge="b1", subnets=("10.0.1.0/24",), internal=True, icc=False))
    last = nft.commands[-1]
    assert 'internals { "b1" }' in last
    assert "masq4" not in last
    assert "same" not in last


def test_a_turn_of_the_loop_is_one_transaction():
    async def scenario():
        nft = Recorder()
        firewall = Firewall("t", nft)
        firewall.add_bridge(BridgeRules(bridge="b0", subnets=("10.0.0.0/24",)))
        await asyncio.gather(*(firewall.publish(f"c{n}", [forward(port=n)]) for n in range(1, 51)))
        assert len(nft.commands) == 2
        assert nft.commands[-1].count(" : 10.0.0.2 . 80") == 50
        # a port that changes hands within a turn, and one that ends before it began
        had, gone = (
            asyncio.create_task(firewall.unpublish("c1")),
            asyncio.create_task(firewall.unpublish("c2")),
        )
        new = asyncio.create_task(firewall.publish("d", [forward(port=1, target="10.0.0.3")]))
        short = asyncio.create_task(firewall.publish("e", [forward(port=99)]))
        await asyncio.sleep(0)
        end = asyncio.create_task(firewall.unpublish("e"))
        await asyncio.gather(had, gone, new, short, end)
        assert nft.commands[2].splitlines() == [
            "delete element inet t open4 { 6 . 1, 6 . 2 }",
            "add element inet t open4 { 6 . 1 : 10.0.0.3 . 80, 6 . 99 : 10.0.0.2 . 80 }",
        ]
        assert nft.commands[3:] == ["delete element inet t open4 { 6 . 99 }"]

    asyncio.run(scenario())


def test_a_refused_port_is_forgotten_and_its_neighbours_are_told():
    class Refusing(Recorder):
        def run(self, commands):
            if "6 . 666" in commands:
                raise EngineError("cannot change the firewall: no")
            return super().run(commands)

    async def scenario():
        firewall = Firewall("t", Refusing())
        firewall.add_bridge(BridgeRules(bridge="b0", subnets=("10.0.0.0/24",)))
        await firewall.publish("a", [forward(port=1)])
        results = await asyncio.gather(
            firewall.publish("b", [forward(port=666)]),
            firewall.publish("c", [forward(port=2)]),
            return_exceptions=True,
        )
        assert [str(result) for result in results] == ["cannot change the firewall: no"] * 2
        await firewall.publish("c", [forward(port=2)])
        assert "666" not in firewall.render()
        assert firewall._led == {("open4", "6 . 1"): "10.0.0.2 . 80", ("open4", "6 . 2"): "10.0.0.2 . 80"}
        cancelled = asyncio.create_task(firewall.publish("d", [forward(port=3)]))
        other = asyncio.create_task(firewall.publish("e", [forward(port=4)]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await other
        assert cancelled.cancelled() or cancelled.cancelling()
        assert ("open4", "6 . 3") in firewall._led  # until its owner ends it

    asyncio.run(scenario())


def test_a_fault_after_the_kernel_took_a_change_makes_the_next_one_write_everything():
    async def scenario():
        nft = Recorder()
        firewall = Firewall("t", nft)
        firewall.add_bridge(BridgeRules(bridge="b0", subnets=("10.0.0.0/24",)))
        failpoints.configure("test.nft=1*error")
        run = nft.run

        def applied(commands):
            run(commands)
            failpoints.failpoint("test.nft")
            return ""

        nft.run = applied
        with pytest.raises(EngineError, match=r"cannot change the firewall: .*failpoint"):
            await firewall.publish("c", [forward(port=1)])
        assert not firewall.is_intact()
        await firewall.publish("d", [forward(port=2)])
        assert nft.commands[-1] == firewall.render()
        assert "6 . 1 :" not in nft.commands[-1]

    try:
        asyncio.run(scenario())
    finally:
        failpoints.configure("")


def test_port_bindings():
    asked = PortBinding(container_port=80, host_port=8080)
    expanded = ports.expand([asked], ["80/tcp", "53/udp", "7000-7001"])
    assert [(b.container_port, b.protocol, b.host_port) for b in expanded] == [
        (80, "tcp", 8080),
        (53, "udp", 0),
        (7000, "tcp", 0),
        (7001, "tcp", 0),
    ]
    for text in ("x/tcp", "80/icmp", "80-x"):
        with pytest.raises(InvalidInput):
            ports.expand([], [text])
    for bad in (
        PortBinding(container_port=0),
        PortBinding(container_port=80, host_port=70000),
        PortBinding(container_port=80, host_port=9, host_port_end=8),
        PortBinding(container_port=80, host_ip="localhost; flush"),
    ):
        with pytest.raises(InvalidInput):
            ports.check(bad)


def test_reserving_is_all_or_nothing():
    held = ports.HostPorts(lambda container_id: f"name-{container_id}")
    [low] = held.reserve("a", [PortBinding(container_port=80, host_ip="127.0.0.1")], frozenset({4}))
    taken = PortBinding(container_port=80, host_ip="127.0.0.1", host_port=low.host_port)
    with pytest.raises(EngineError, match="port is already allocated") as caught:
        held.reserve("b", [PortBinding(container_port=81, host_ip="127.0.0.1"), taken], frozenset({4}))
    assert caught.value.hint == "container name-a publishes it"
    assert not held._held["b"]
    assert held.reserve("c", [taken], frozenset({6})) == ()
    held.release("a")
    assert held.reserve("b", [taken], frozenset({4}))[0].host_port == low.host_port
    with pytest.raises(EngineError, match=r"failed to bind host port for 203\.0\.113\.77:"):
        held.reserve("d", [PortBinding(container_port=1, host_ip="203.0.113.77")], frozenset({4}))
    held.close()
    assert not held._held


def test_records_survive_the_store():
    record = NetworkRecord(
        id="f" * 64, created="x", spec=NetworkSpec(name="n", options={"a": "b"}), bridge="b", mac="m"
    )
    assert load_network(dump_network(record)) == record
    with pytest.raises(ValueError, match="JSON"):
        load_network("{")
