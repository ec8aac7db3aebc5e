"""Cgroup v2, device programs and AppArmor, inside a virtual machine; one boot for all checks."""

import json
import re
import time

import pytest
from vm import guest_cgroup2, machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def results():
    started = time.perf_counter()
    code = "import guest_cgroup2\nguest_cgroup2.main()\n"
    try:
        console = machine.boot(code, {"/tests": machine.CHECKOUT / "tests" / "vm"}, timeout=120)
    except machine.MachineMissing as reason:
        pytest.skip(f"cannot run a virtual machine: {reason}")
    print(f"virtual machine: {time.perf_counter() - started:.1f} s")
    found = [json.loads(line) for line in re.findall(r"pystack-vm (\{.*\})", console)]
    for line in re.findall(r"device program:.*", console):
        print(line)
    assert found, console[-3000:]
    return {each["name"]: each for each in found}


@pytest.mark.parametrize("name", sorted(guest_cgroup2.CHECKS))
def test_inside(results, name):
    assert name in results, f"the machine stopped before {name}"
    assert results[name]["error"] == "", results[name]["error"]
