"""Device rules: the compiled v2 program decides as the list says, on every kind of request."""

import itertools
import struct

import pytest

from pystack.kernel import bpf
from pystack.kernel.devices import (
    ALLOW_ALL,
    ANY,
    DEFAULT_RULES,
    DeviceRule,
    container_devices,
    host_device,
    parse_rule,
)
from pystack.model.container import Device
from pystack.model.errors import InvalidInput, NotFound


def run(program, kind, access, major, minor):
    """A small interpreter of the eBPF that the compiler emits; every instruction it does not know fails the test."""
    code = [struct.unpack_from("<BBhi", program, at) for at in range(0, len(program), 8)]
    context = [sum(bpf._ACCESS[letter] for letter in access) << 16 | bpf._KIND[kind], major, minor]
    registers = {1: "ctx"}
    at = 0
    while True:
        op, places, offset, immediate = code[at]
        dst, src = places & 15, places >> 4
        at += 1
        if op == 0x61:
            assert registers[src] == "ctx"
            registers[dst] = context[offset // 4]
        elif op == 0xBF:
            registers[dst] = registers[src]
        elif op == 0xB7:
            registers[dst] = immediate
        elif op == 0x57:
            registers[dst] &= immediate
        elif op == 0x77:
            registers[dst] >>= immediate
        elif op == 0x55:
            at += offset * (registers[dst] != immediate)
        elif op == 0x15:
            at += offset * (registers[dst] == immediate)
        elif op == 0x5D:
            at += offset * (registers[dst] != registers[src])
        else:
            assert op == 0x95, hex(op)
            return bool(registers[0])


def decide(rules, kind, access, major, minor):
    """The meaning of a rule list, written the plain way."""
    verdict = False
    for rule in rules:
        same = rule.type in {"a", kind} and (
            rule.type == "a" or (rule.major in {ANY, major} and rule.minor in {ANY, minor})
        )
        if same and (set(access) <= set(rule.access) if rule.allow else set(access) & set(rule.access)):
            verdict = rule.allow
    return verdict


LISTS = [
    DEFAULT_RULES,
    ALLOW_ALL,
    (),
    (*DEFAULT_RULES, parse_rule("b 8:* r"), parse_rule("c 1:3 m")),
    (DeviceRule(allow=True, type="a"), DeviceRule(allow=False, type="c", major=10, access="w")),
    (parse_rule("a *:* rwm"), DeviceRule(allow=False, type="b")),
]


@pytest.mark.parametrize("rules", LISTS)
def test_the_program_means_the_list(rules):
    program = bpf.device_program(rules)
    numbers = [(1, 3), (1, 1), (1, 11), (5, 2), (136, 0), (136, 7), (10, 229), (10, 200), (8, 0), (254, 0)]
    for kind, access, (major, minor) in itertools.product("cb", ("r", "w", "m", "rw", "rwm"), numbers):
        expected = decide(rules, kind, access, major, minor)
        assert run(program, kind, access, major, minor) == expected, (kind, access, major, minor)


def test_what_the_default_allows():
    program = bpf.device_program(DEFAULT_RULES)
    assert run(program, "c", "rw", 1, 3)
    assert run(program, "b", "m", 8, 0)
    assert not run(program, "b", "r", 8, 0)
    assert not run(program, "c", "r", 1, 1)
    assert not run(program, "c", "rw", 10, 229)


def test_no_code_that_cannot_be_reached():
    rules = (parse_rule("c 1:3 r"), DeviceRule(allow=False, type="a"), parse_rule("c 5:1 rwm"))
    program = bpf.device_program(rules)
    assert program.endswith(bpf._EXIT)
    assert program == bpf.device_program(rules[1:])


def test_rule_texts():
    assert [rule.v1_line() for rule in DEFAULT_RULES[:4]] == ["a", "c *:* m", "b *:* m", "c 1:3 rwm"]
    assert parse_rule("c 10:* mr").v1_line() == "c 10:* rm"
    for text in ("c 1:3", "x 1:3 r", "c 1:3 rx", "c 1 3 r", " c 1:3 r", "c -1:3 r", "c 1:3 r\na"):
        with pytest.raises(InvalidInput, match="invalid device cgroup rule format"):
            parse_rule(text)


def test_a_device_of_the_host():
    [(node, rule)] = host_device(
        Device(path_on_host="/dev/null", path_in_container="/dev/nil", cgroup_permissions="rw")
    )
    assert (node["path"], node["type"], node["major"], node["minor"], node["mode"]) == (
        "/dev/nil",
        "c",
        1,
        3,
        0o666,
    )
    assert rule.v1_line() == "c 1:3 rw"
    with pytest.raises(NotFound, match="cannot add device"):
        host_device(Device(path_on_host="/dev/none", path_in_container=""))
    with pytest.raises(InvalidInput, match="not a device"):
        host_device(Device(path_on_host="/etc/hostname", path_in_container=""))
    with pytest.raises(InvalidInput, match="invalid device mode"):
        host_device(Device(path_on_host="/dev/null", path_in_container="", cgroup_permissions="rr"))


def test_devices_of_a_container():
    nodes, rules = container_devices(
        False, [Device(path_on_host="/dev/full", path_in_container="")], ["c 7:* rwm"]
    )
    assert [node["path"] for node in nodes] == ["/dev/full"]
    assert [rule.v1_line() for rule in rules[-2:]] == ["c 1:7 rwm", "c 7:* rwm"]
    assert rules[: len(DEFAULT_RULES)] == list(DEFAULT_RULES)
    nodes, rules = container_devices(True, [], [])
    assert "/dev/null" in {node["path"] for node in nodes}
    assert not {node["path"] for node in nodes} & {"/dev/ptmx", "/dev/console"}
    assert rules == ALLOW_ALL
