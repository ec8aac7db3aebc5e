"""What `pystack config` can leave out and list: views, variables, hashes, the JSON Schema, YAML text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake.stackfile_reader import MemoryReader
from ruamel.yaml import YAML
from stackfile_cases import expected

from pystack.cli.yamltext import dump
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.confighash import hashes
from pystack.stackfile.interpolate import Mention, mentions, templates
from pystack.stackfile.jsonschema import schema
from pystack.stackfile.load import LoadRequest, resolve
from pystack.stackfile.view import View
from pystack.stackfile.yamldoc import parse_text

TEXT = """\
services:
  a:
    image: "x:${V:-1}"
    ports: ["${P}:80"]
    env_file: e.env
    depends_on: [b]
    environment: {Q: $Q}
  b: {build: ., volumes: ["./r:/r"], links: [c]}
  c: {image: y, networks: [nowhere]}
"""


def look(view: View) -> dict[str, Any]:
    reader = MemoryReader({"/p/stack.yml": TEXT, "/p/e.env": "E=1"})
    request = LoadRequest(files=("stack.yml",), working_dir="/p", environment={"P": "8080", "Q": "q"})
    return to_canonical(resolve(request, reader, view=view))


def test_without_interpolation_variables_stand_as_written() -> None:
    found = look(View(interpolate=False, consistency=False))["services"]
    assert found["a"]["image"] == "x:${V:-1}"
    assert found["a"]["ports"] == ["${P}:80"]
    assert found["a"]["environment"] == {"Q": "$Q"}
    assert found["a"]["depends_on"] == {"b": {"condition": "service_started", "required": True}}


def test_without_path_resolution_paths_stay_relative() -> None:
    found = look(View(paths=False, consistency=False))["services"]["b"]
    assert found["build"]["context"] == "."
    assert found["volumes"][0]["source"] == "./r"


def test_without_normalising_nothing_is_added() -> None:
    found = look(View(normalize=False, consistency=False))
    assert "networks" not in found
    assert "networks" not in found["services"]["a"]
    assert "dockerfile" not in found["services"]["b"]["build"]
    assert "depends_on" not in found["services"]["b"]


def test_without_env_resolution_files_stay_named() -> None:
    found = look(View(environment=False, consistency=False))["services"]["a"]
    assert found["env_file"] == [{"required": True, "path": "/p/e.env"}]
    assert found["environment"] == {"Q": "q"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$A", [Mention(name="A")]),
        ("${A}-${B:-b}", [Mention(name="A"), Mention(name="B", default="b")]),
        ("${A:?m}${B?m}", [Mention(name="A", required=True), Mention(name="B", required=True)]),
        ("${A:+p}", [Mention(name="A", presence="p")]),
        ("${A:-${B}}", [Mention(name="A", default="${B}"), Mention(name="B")]),
        ("$$A $1 ${", []),
    ],
)
def test_mentions(text: str, found: list[Mention]) -> None:
    (document,) = parse_text(json.dumps({"a": [text]}))
    assert list(mentions(templates(document))) == found


#: What `docker-compose config --hash '*'` prints for three of the cases.
HASHES = {
    "service/simple": {"a": "daef7adc9ecc59d4881bd1ebc06f26a836d35656f8b5fb0adfdb95b2d856fbd3"},
    "deploy/update": {
        "a": "85c5d4de0174ad16d0552ca6509aa7ff21298e098650b08ab6aa60ff7c8da06e",
        "b": "dab83d14d562c3bb009d1a966cde6b16858d02431601f4d8c16901003d69e5d8",
    },
    "service/environment_map": {"a": "0e9ad70dfd6b362b669673b61c14061329e03ee6a9a0fdf76daaafa28320ac79"},
}


def test_hashes_are_those_of_compose() -> None:
    recorded = expected()
    for case, wanted in HASHES.items():
        assert hashes(recorded[case]) == wanted


def test_odd_texts_are_read_back_as_what_they_were() -> None:
    yaml = YAML(typ="safe")
    odd = {
        "": [
            "",
            " a",
            "a ",
            "- b",
            "#",
            "a: b",
            "no",
            "1",
            "1.0",
            "~",
            "\n",
            "\x7f\x85",
            "\u2028",
            "🚀",
            "=",
            "<<",
        ]
    }
    assert yaml.load(dump(odd)) == odd
    assert yaml.load(dump({"a": [[], {}, [[1]], [{"b": [2]}]]})) == {"a": [[], {}, [[1]], [{"b": [2]}]]}


def test_the_json_schema_is_whole_and_knows_short_forms() -> None:
    made = schema()
    text = json.dumps(made)
    for name in made["$defs"]:
        assert made["$defs"][name]["properties"]
    service = made["$defs"]["Service"]["properties"]
    assert {"type": "string"} in service["command"]["anyOf"]
    assert "anyOf" in service["ports"]["items"]
    assert service["cgroup"] == {"type": "string", "enum": ["host", "private"]}
    assert '"$ref": "#/$defs/Build"' in text
