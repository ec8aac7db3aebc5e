"""Stack files written for the purpose: the output is what docker compose 2.40.3 printed, and together they use everything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake.stackfile_reader import MemoryReader
from ruamel.yaml import YAML
from stackfile_cases import DIRECTORY, HOME, KINDER, Case, all_cases, expected, ours

from pystack.cli.yamltext import dump
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.document import plain
from pystack.stackfile.jsonschema import attributes, schema
from pystack.stackfile.load import LoadRequest, resolve
from pystack.stackfile.standing import standing
from pystack.stackfile.yamldoc import parse_text

CASES = all_cases()
EXPECTED = expected()
#: Every attribute of the specification's JSON schema: `*` for a name, `[]` for an entry of a list.
SPECIFIED = (DIRECTORY / "attributes.txt").read_text().split()
#: What docker compose 2.40.3 does not know yet.
NEWER = {"services.*.build.no_cache_filter", "services.*.pre_start"}
SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "reference" / "compose-spec.json"
COMPOSE_DOC = Path(__file__).resolve().parents[2] / "docs" / "compose.md"


def _agrees(case: Case) -> bool:
    found, theirs = ours(case), EXPECTED[case.id]
    if case.id in KINDER:
        return found is not None and theirs is None
    if case.options:  # its JSON compose cannot print: the YAML's texts, in no order
        wanted = sorted(text.replace(": ", "=") for text in theirs["services"]["a"]["build"]["ssh"])
        return bool(found["services"]["a"]["build"]["ssh"] == wanted)
    return found == theirs and (not found or list(found["services"]) == list(theirs["services"]))


@pytest.mark.parametrize("group", sorted({case.group for case in CASES}))
def test_the_output_is_that_of_compose(group: str) -> None:
    assert [case.id for case in CASES if case.group == group and not _agrees(case)] == []


def test_there_are_enough_cases() -> None:
    assert len({case.id for case in CASES}) == len(CASES) == len(EXPECTED) >= 150
    assert len(KINDER) <= 20  # the reviewed list of differences only ever gets shorter


def test_the_output_can_be_read_again_and_is_the_same() -> None:
    again = LoadRequest(files=("again.json",), working_dir=HOME, profiles=("*",))
    for case in CASES:
        found = ours(case)
        # Compose prints keys of blkio_config, and a `$` in any key, in a way that it does not read itself.
        if not found or not found.get("services") or case.name == "keys_stay" or "Path" in json.dumps(found):
            continue
        reader = MemoryReader({f"{HOME}/again.json": json.dumps(found, ensure_ascii=False)})
        second = json.loads(json.dumps(to_canonical(resolve(again, reader, consistency=False))))
        assert second == found, case.id


def _used(value: Any, path: str, out: set[str]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            for name in {f"{path}.{key}".lstrip("."), f"{path}.*".lstrip(".")}:
                out.add(name)
                _used(item, name, out)
    elif isinstance(value, list):
        for item in value:
            _used(item, f"{path}[]", out)


def test_the_cases_use_every_attribute_of_the_specification() -> None:
    used: set[str] = set()
    for case in CASES:
        if EXPECTED[case.id] is None:
            continue
        for name, text in case.files.items():
            if name.endswith(".yml"):
                for document in parse_text(text):
                    _used(plain(document), "", used)
    missing = [p for p in SPECIFIED if p not in used and not any(p.startswith(n) for n in NEWER)]
    assert missing == []


def test_our_schema_has_every_attribute_of_the_specification_and_no_other() -> None:
    assert sorted(attributes()) == sorted(SPECIFIED)


def test_every_attribute_is_documented_as_what_it_is() -> None:
    """Carried out, refused or ignored: the document names each, and says of each what the code does."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", COMPOSE_DOC.read_text(), re.MULTILINE)
    documented = dict(rows)
    assert len(rows) == len(documented)
    assert sorted(documented) == sorted(SPECIFIED)
    assert {p: standing(p) for p in SPECIFIED} == documented


@pytest.mark.skipif(not SCHEMA.is_file(), reason="the specification's JSON schema is not beside the checkout")
def test_the_list_of_attributes_is_that_of_the_json_schema() -> None:
    assert sorted(_walk(json.loads(SCHEMA.read_text()))) == sorted(SPECIFIED)


def _walk(schema: dict[str, Any]) -> set[str]:
    out: set[str] = set()

    def walk(node: Any, path: str, trail: tuple[str, ...]) -> None:
        if not isinstance(node, dict):
            return
        if reference := node.get("$ref"):
            name = reference.rsplit("/", 1)[-1]
            if name not in trail:
                walk(schema["$defs"][name], path, (*trail, name))
        for alternatives in ("oneOf", "anyOf", "allOf"):
            for other in node.get(alternatives, ()):
                walk(other, path, trail)
        for key, value in node.get("properties", {}).items():
            below = f"{path}.{key}".lstrip(".")
            out.add(below)
            walk(value, below, trail)
        for pattern, value in node.get("patternProperties", {}).items():
            if not pattern.startswith("^x-"):
                walk(value, f"{path}.*", trail)
        walk(node.get("items"), f"{path}[]", trail)

    walk(schema, "", ())
    return out


def test_the_yaml_text_is_read_back_as_what_it_was() -> None:
    yaml = YAML(typ="safe")
    for case, document in EXPECTED.items():
        if document and "ssh" not in case:
            assert yaml.load(dump(document)) == document, case


def test_every_case_of_compose_fits_the_json_schema() -> None:
    check = jsonschema.Draft202012Validator(schema())
    for case in all_cases():
        if EXPECTED[case.id] is None or case.group in ("variables", "files"):
            continue
        for document in parse_text(case.files["compose.yml"]):
            assert [e.message for e in check.iter_errors(plain(document))] == [], case.id
