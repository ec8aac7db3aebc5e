"""Cgroup v2, device programs, AppArmor and whole containers inside a virtual machine; one boot for all checks."""

import json
import re
import time

import pytest
from vm import guest_cgroup2, guest_engine, guest_runtime, machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(360)]


@pytest.fixture(scope="module")
def results():
    started = time.perf_counter()
    code = "".join(
        f"import {name}\n{name}.main()\n" for name in ("guest_cgroup2", "guest_runtime", "guest_engine")
    )
    try:
        console = machine.boot(code, timeout=300)
    except machine.MachineMissing as reason:
        pytest.skip(f"cannot run a virtual machine: {reason}")
    print(f"virtual machine: {time.perf_counter() - started:.1f} s")
    found = [json.loads(line) for line in re.findall(r"pystack-vm (\{.*\})", console)]
    for line in re.findall(r"(?:device program|container on v2):.*", console):
        print(line)
    assert found, console[-3000:]
    if "Traceback" in console:  # what stopped it
        print(console[console.index("Traceback") :][:3000])
    return {each["name"]: each for each in found}


def check(results, name):
    assert name in results, f"the machine stopped before {name}"
    assert results[name]["error"] == "", results[name]["error"]


@pytest.mark.parametrize("name", guest_cgroup2.CHECKS)
def test_kernel_layer(results, name):
    check(results, name)


@pytest.mark.parametrize("name", guest_runtime.CHECKS)
def test_whole_containers(results, name):
    check(results, name)


@pytest.mark.parametrize("name", guest_engine.CHECKS)
def test_whole_engine(results, name):
    check(results, name)
