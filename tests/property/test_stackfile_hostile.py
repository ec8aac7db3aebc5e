"""Hostile stack files of up to 1 MB: an answer or our own error, in bounded time and memory; and generated ones."""

from __future__ import annotations

import json
import os
import resource
import time

import pytest
from fake.stackfile_reader import MemoryReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pystack.model.errors import PystackError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.load import LoadRequest, load, resolve

#: Seconds of CPU. The budget is 1 for any 1 MB; these are scaled down to keep the suite fast, and a loaded machine is slower.
LIMIT = 1.5
MEMORY = 256 * 1024  # KB
EXAMPLES = int(os.environ.get("PYSTACK_EXAMPLES", "25"))

HOSTILE = {
    "bomb": "a0: &a0 [x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "open": "[" * 300_000,
    "dashes": "- " * 500_000,
    "nested": "".join(" " * i + "a:\n" for i in range(1000)),
    "unknown keys": "services: {a: {" + ", ".join(f"k{i}: 1" for i in range(5_000)) + "}}",
    "wrong services": "services:\n" + "".join(f"  s{i}: {{imag: 1}}\n" for i in range(1_500)),
    "too many services": "services:\n" + "".join(f"  s{i}: {{image: x}}\n" for i in range(10_001)),
    "duplicates": "a: 1\n" * 30_000,
    "variables": 'services: {a: {image: "' + "${A}" * 10_000 + '"}}',
    "open variables": 'services: {a: {image: "' + "${A:-" * 30_000 + '"}}',
    "port ranges": "services: {a: {image: x, ports: [" + '"1-65535",' * 20_000 + "]}}",
    "exposed ranges": "services: {a: {image: x, expose: [" + '"1-65535",' * 10_000 + "]}}",
    "volumes": "services: {a: {image: x, volumes: [" + '"/a:/b",' * 50_000 + "]}}",
    "options": "services: {a: {image: x, security_opt: [" + ",".join(f"a{i}" for i in range(10_000)) + "]}}",
    "dependencies": "services:\n"
    + "".join(f"  s{i}: {{image: x, depends_on: [s{i + 1}]}}\n" for i in range(1_500)),
    "shared dependencies": "x-d: &d ["
    + ",".join(f"s{i}" for i in range(900))
    + "]\nservices:\n"
    + "".join(f"  s{i}: {{image: x, depends_on: *d}}\n" for i in range(900)),
    "extends": "services:\n" + "".join(f"  s{i}: {{extends: s{i + 1}}}\n" for i in range(1_500)),
    "integer": "services: {a: {image: x, scale: " + "9" * 900_000 + "}}",
    "hexadecimal": "services: {a: {image: x, cpus: 0x" + "f" * 900_000 + "}}",
    "float": "services: {a: {image: x, mem_limit: 1e9999}}",
    "infinity": "services: {a: {image: x, cpus: .inf, mem_limit: .inf, scale: .nan, shm_size: .nan}}",
    "duration": "services: {a: {image: x, stop_grace_period: " + "1h" * 100_000 + "}}",
    "merges": "x: &x {" + ",".join(f"k{i}: 1" for i in range(500)) + "}\ny: {<<: [" + "*x," * 20_000 + "]}",
    "flow colons": "x-a: [" + "data:/x," * 10_000 + "]",
    "documents": "services: {a: {image: x, environment: {"
    + ",".join(f"k{i}: 1" for i in range(20_000))
    + "}}}\n"
    + "---\nservices: {a: {environment: {X: 1}}}\n" * 10_000,
    "extended base": "services:\n  b: {image: x, environment: {"
    + ",".join(f"k{i}: 1" for i in range(20_000))
    + "}}\n"
    + "".join(f"  s{i}: {{extends: b, environment: {{X: 1}}}}\n" for i in range(3_000)),
    "repeated include": "include: [" + "s.yml, b.yml," * 5_000 + "]",
    "one path list": "include: [{path: [" + "b.yml," * 20_000 + "]}]",
    "long values": "services: {a: {image: x, environment: {"
    + ",".join(f'k{i}: "$LONG$LONG"' for i in range(20_000))
    + "}}}",
    "longer value": 'services: {a: {image: "' + "$LONG" * 100_000 + '"}}',
    "nested variables": 'services: {a: {image: "' + ("${A:-" * 45 + "}" * 45) * 2_000 + '"}}',
    "required variables": "services: {a: {image: x, environment: [" + '"${A:?b}",' * 30_000 + "]}}",
    "env files": "services: {a: {image: x, env_file: [" + "many.env," * 40_000 + "]}}",
    "services with an env file": "services:\n"
    + "".join(f"  s{i}: {{image: x, env_file: many.env}}\n" for i in range(3_000)),
    "bad env file": "services: {a: {image: x, env_file: bad.env}}",
    "open quotes": "services: {a: {image: x, env_file: open.env}}",
    "doubling": "services: {a: {image: x, env_file: doubling.env}}",
    "NUL": "a: \0",
    "control": "a: \x01",
    "surrogate": "a: \ud800",
    "BOM": "\ufeffservices: {a: {image: x}}",
    "CRLF": "services:\r\n  a:\r\n    image: x\r\n    bogus: 1\r\n",
}


ENV_FILES = {
    "/p/many.env": "".join(f"A{i}=1\n" for i in range(20_000)),
    "/p/bad.env": "=\n" * 200_000,
    "/p/open.env": "A='\n" + 'B="x\n' * 100_000,
    "/p/doubling.env": "A0=xx\n" + "".join(f"A{i + 1}=$A{i}$A{i}\n" for i in range(20_000)),
}
#: What a small file would blow up, and by what it is stopped.
STOPPED = {
    "documents": "too-many-entries",
    "extended base": "too-many-entries",
    "shared dependencies": "too-many-entries",
    "one path list": "too-many-includes",
    "long values": "too-large",
    "longer value": "too-large",
    "env files": "too-many-entries",
    "services with an env file": "too-many-entries",
    "doubling": "longer than",
}


def answer(text: str) -> str:
    """ "ok", or our own error."""
    request = LoadRequest(files=("s.yml",), working_dir="/p", environment={"LONG": "x" * 100_000})
    reader = MemoryReader({"/p/s.yml": text, "/p/b.yml": text, **ENV_FILES})
    try:
        load(request, reader)
        to_canonical(resolve(request, reader))
    except PystackError as error:
        return str(error)
    return "ok"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_answered_in_bounds(name: str) -> None:
    began = time.process_time()
    said = answer(HOSTILE[name][:1_000_000])
    assert time.process_time() - began < LIMIT
    assert said
    assert STOPPED.get(name, "") in said
    assert len(said) < 500_000


def test_a_hostile_file_does_not_take_the_machines_memory() -> None:
    """In a process of its own: what this one has used is not the loader's."""
    pid = os.fork()
    if not pid:
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer(HOSTILE["wrong services"])
        answer(HOSTILE["volumes"])
        answer(HOSTILE["extended base"])
        answer(HOSTILE["long values"])
        answer(HOSTILE["doubling"])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
        os._exit(0 if grown < MEMORY else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


_KEYS = st.sampled_from(
    [
        "services",
        "networks",
        "volumes",
        "secrets",
        "configs",
        "include",
        "name",
        "x-a",
        "image",
        "build",
        "command",
        "ports",
        "environment",
        "depends_on",
        "deploy",
        "healthcheck",
        "extends",
        "test",
        "interval",
        "gpus",
        "develop",
        "watch",
        "<<",
    ]
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["${A", "${A:-b}", "$", "80:80", "./a:/b", "1g", "5s", "b.yml", "s.yml", "a"])
)
_TREES = st.recursive(
    _LEAVES,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(_KEYS, below, max_size=5),
    max_leaves=25,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(_TREES)
def test_any_tree_is_answered(tree: object) -> None:
    assert answer(json.dumps({"services": {"a": tree, "b": {"image": "x"}}}))
    assert answer(json.dumps(tree))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet=" \n:-[]{},&*a!|>'\"#%@`?<$\t0", max_size=60))
def test_any_text_is_answered(text: str) -> None:
    assert answer(text)
    assert answer("services:\n  a: {image: x}\n" + text)
