"""Small stack files, one for each rule, and what docker compose 2.40.3 prints for them (null: it refuses).

`test_stackfile_compose.json` was made by running `docker-compose config --format json` on each case in a directory
`/w/proj` with the environment that the case names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake.stackfile_reader import MemoryReader
from stackfile_cases import request_of

from pystack.model.errors import PystackError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.load import LoadRequest, resolve

CASES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def request(case: dict[str, Any]) -> LoadRequest:
    return request_of(case["arguments"], "/w/proj", case["environment"])


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_output_is_that_of_compose(case: dict[str, Any]) -> None:
    reader = MemoryReader({f"/w/proj/{name}": text for name, text in case["files"].items()})
    if case["expected"] is None:
        with pytest.raises(PystackError):
            resolve(request(case), reader)
    else:
        assert json.loads(json.dumps(to_canonical(resolve(request(case), reader)))) == case["expected"]


def test_the_output_can_be_read_again_and_says_the_same() -> None:
    for case in CASES:
        if not case["expected"]:
            continue
        reader = MemoryReader({"/w/proj/again.json": json.dumps(case["expected"])})
        again = LoadRequest(
            files=("again.json",), working_dir="/w/proj", environment=case["environment"], profiles=("*",)
        )
        found = to_canonical(resolve(again, reader))
        services = case["expected"]["services"]
        assert {n: s.get("ports") for n, s in found["services"].items()} == {
            n: s.get("ports") for n, s in services.items()
        }
        assert {n: s.get("volumes") for n, s in found["services"].items()} == {
            n: s.get("volumes") for n, s in services.items()
        }
