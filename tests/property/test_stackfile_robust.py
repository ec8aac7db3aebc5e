"""Whatever shape a stack file has, the loader answers with a stack or with diagnostics: never with a traceback."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from fake.stackfile_reader import MemoryReader

from pystack.model.errors import PystackError, StackFileError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.diagnostics import Diagnostic
from pystack.stackfile.load import LoadRequest, load, resolve

FULL: dict[str, Any] = {
    "name": "p",
    "services": {
        "a": {
            "image": "x",
            "command": ["a", "b"],
            "environment": {"A": "1", "B": None},
            "env_file": [{"path": "e.env", "required": False}],
            "ports": ["80:80", {"target": 81, "published": "8081"}],
            "volumes": [
                "data:/d",
                {"type": "bind", "source": ".", "target": "/b", "bind": {"propagation": "rslave"}},
            ],
            "networks": {"n": {"aliases": ["q"], "priority": 1}},
            "depends_on": {"b": {"condition": "service_healthy"}},
            "healthcheck": {"test": ["CMD", "x"], "interval": "1s", "retries": 3},
            "deploy": {"replicas": 2, "resources": {"limits": {"cpus": "0.5", "memory": "1g"}}},
            "ulimits": {"nofile": {"soft": 1, "hard": 2}},
            "logging": {"driver": "json-file", "options": {"a": "b"}},
            "secrets": ["s", {"source": "s", "target": "t", "mode": 256}],
            "configs": ["c"],
            "labels": ["a=b"],
            "extra_hosts": ["a:1.1.1.1"],
            "devices": ["/dev/null"],
            "tmpfs": "/t",
            "extends": {"service": "d"},
            "security_opt": ["seccomp:unconfined"],
            "stop_grace_period": "1s",
            "profiles": [],
            "build": {"context": ".", "secrets": ["s"], "args": ["A=1"]},
            "post_start": [{"command": "x"}],
            "x-y": {"a": [1]},
        },
        "b": {"image": "y", "network_mode": "service:c"},
        "c": {"image": "z", "volumes_from": ["d"], "links": ["d:e"]},
        "d": {"image": "z"},
    },
    "include": [{"path": "inc.yml"}],
    "networks": {"n": {"ipam": {"config": [{"subnet": "10.0.0.0/24"}]}, "external": False}},
    "volumes": {"data": {"driver_opts": {"o": "bind", "device": "./x"}}},
    "secrets": {"s": {"environment": "HOME"}},
    "configs": {"c": {"content": "x"}},
}
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "$",
    "${A}",
    "a:b:c:d:e",
    "/",
    "=",
    [],
    [None],
    [[]],
    [{}],
    [1, "a"],
    {},
    {"a": {}},
    {"a": None},
    {"": []},
]


RUNNABLE = copy.deepcopy(FULL)
for _key in ("build", "post_start"):
    del RUNNABLE["services"]["a"][_key]
RUNNABLE["services"]["c"] = {"image": "z"}


SAMPLES = 1  # odd values tried at each place (all 21 pass, in half a minute)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += places(item, (*path, key))
    return found


def mutated(base: dict[str, Any], path: tuple[Any, ...], odd: Any) -> dict[str, Any]:
    document = copy.deepcopy(base)
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = odd
    return document


def attempt(run: Any, *texts: str) -> list[Diagnostic]:
    files = {f"/p/{i}.yml": text for i, text in enumerate(texts)}
    files["/p/inc.yml"] = "services: {inc: {image: x}}"
    request = LoadRequest(
        files=tuple(f"{i}.yml" for i in range(len(texts))), working_dir="/p", environment={"HOME": "/h"}
    )
    try:
        run(request, MemoryReader(files))
    except StackFileError as error:
        return error.diagnostics
    except PystackError:
        pass  # no file, no name: said in one sentence, without diagnostics
    return []


def config(request: LoadRequest, reader: MemoryReader) -> str:
    return json.dumps(to_canonical(resolve(request, reader)))


CASES = [(load, RUNNABLE), (config, FULL)]


@pytest.mark.parametrize(("run", "base"), CASES)
def test_the_bases_are_right(run: Any, base: dict[str, Any]) -> None:
    assert attempt(run, json.dumps(base)) == []


@pytest.mark.parametrize(("run", "base"), CASES)
def test_odd_values_anywhere_are_diagnostics(run: Any, base: dict[str, Any]) -> None:
    chooser = random.Random(7)
    for path in places(base):
        for odd in chooser.sample(ODD, SAMPLES):
            for diagnostic in attempt(run, json.dumps(mutated(base, path, odd))):
                assert isinstance(diagnostic, Diagnostic)
                assert "pydantic" not in str(diagnostic)


def test_odd_overrides_anywhere_are_diagnostics() -> None:
    chooser = random.Random(1)
    base = json.dumps(RUNNABLE)
    for path in places(RUNNABLE)[::4]:
        over: Any = chooser.choice(ODD)
        for key in reversed(path):
            over = {key: over} if isinstance(key, str) else [over]
        for diagnostic in attempt(load, base, json.dumps(over)):
            assert isinstance(diagnostic, Diagnostic)
