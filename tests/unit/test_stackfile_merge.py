"""Several files: the specification's rules for each attribute. The big case agrees with docker compose 2.40.3."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest
from fake.stackfile_reader import MemoryReader

from pystack.model.errors import StackFileError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.document import locate
from pystack.stackfile.load import LoadRequest, resolve
from pystack.stackfile.resolved import Resolved


def merged(*texts: str, **files: str) -> Resolved:
    everything = {f"/p/{i}.yml": dedent(t) for i, t in enumerate(texts)} | {
        f"/p/{n}": t for n, t in files.items()
    }
    names = tuple(f"{i}.yml" for i in range(len(texts)))
    return resolve(LoadRequest(files=names, working_dir="/p"), MemoryReader(everything))


def service(*texts: str, **files: str) -> dict[str, Any]:
    found: dict[str, Any] = to_canonical(merged(*texts, **files))["services"]["a"]
    return found


def both(first: str, second: str) -> dict[str, Any]:
    return service(f"services: {{a: {{image: x, {first}}}}}", f"services: {{a: {{{second}}}}}")


@pytest.mark.parametrize(
    ("first", "second", "key", "expected"),
    [
        ("command: a b", "command: [c]", "command", ["c"]),
        ("entrypoint: [a]", "entrypoint: b c", "entrypoint", ["b", "c"]),
        ("command: a", "command: null", "command", None),
        (
            "environment: [A=1, B=2]",
            "environment: {A: 3, C: }",
            "environment",
            {"A": "3", "B": "2", "C": None},
        ),
        ("labels: {x: 1}", "labels: [x=2, y]", "labels", {"x": "2", "y": ""}),
        ("dns: 1.1.1.1", "dns: [2.2.2.2, 1.1.1.1]", "dns", ["1.1.1.1", "2.2.2.2"]),
        ("cap_add: [A]", "cap_add: [B, A]", "cap_add", ["A", "B"]),
        ("tmpfs: /t", "tmpfs: [/t, /u]", "tmpfs", ["/t", "/u"]),
        ("expose: ['1']", "expose: [1, 2]", "expose", ["1", "2"]),
        (
            "extra_hosts: ['a:1.1.1.1']",
            "extra_hosts: {a: 2.2.2.2}",
            "extra_hosts",
            ["a=1.1.1.1", "a=2.2.2.2"],
        ),
        ("ulimits: {n: {soft: 1, hard: 2}}", "ulimits: {n: 7}", "ulimits", {"n": 7}),
        (
            "logging: {driver: d, options: {a: b}}",
            "logging: {options: {c: d}}",
            "logging",
            {"driver": "d", "options": {"a": "b", "c": "d"}},
        ),
        (
            "logging: {driver: d, options: {a: b}}",
            "logging: {driver: e}",
            "logging",
            {"driver": "e"},
        ),
        (
            "healthcheck: {test: [CMD, a], interval: 1s}",
            "healthcheck: {test: b, retries: 2}",
            "healthcheck",
            {"test": ["CMD-SHELL", "b"], "interval": "1s", "retries": 2},
        ),
        (
            "ports: ['80:80']",
            "ports: !override ['90:90']",
            "ports",
            [{"mode": "ingress", "target": 90, "published": "90", "protocol": "tcp"}],
        ),
        ("environment: {A: 1, B: 2}", "environment: {A: !reset null}", "environment", {"B": "2"}),
        ("user: a", "user: b", "user", "b"),
    ],
)
def test_attributes(first: str, second: str, key: str, expected: object) -> None:
    assert both(first, second)[key] == expected


def test_reset_removes_attributes_and_services() -> None:
    text = "services: {a: {image: x, ports: ['1:1'], command: z}, b: {image: y}}"
    over = "services: {a: {ports: !reset [], command: !reset null}, b: !reset null}"
    found = to_canonical(merged(text, over))
    assert list(found["services"]) == ["a"]
    assert "ports" not in found["services"]["a"]
    assert found["services"]["a"]["command"] is None


def test_lists_are_unique_by_what_they_mount_or_publish() -> None:
    found = both(
        "ports: ['80:80', '81:80'], volumes: ['/one:/a', '/two:/b'], devices: ['/dev/a:/dev/x']",
        "ports: [{target: 80, published: 80}], volumes: ['/three:/a'], devices: ['/dev/b:/dev/x']",
    )
    assert [p["published"] for p in found["ports"]] == ["80", "81"]
    assert [(v["source"], v["target"]) for v in found["volumes"]] == [("/three", "/a"), ("/two", "/b")]
    assert [d["source"] for d in found["devices"]] == ["/dev/b"]


def test_depends_on_and_networks_merge_whatever_their_form() -> None:
    found = service(
        "services: {a: {image: x, depends_on: [b], networks: [n]}, b: {image: x}}\nnetworks: {n: , m: }",
        "services: {a: {depends_on: {b: {condition: service_healthy}}, networks: {m: {aliases: [z]}}}}",
    )
    assert found["depends_on"] == {"b": {"condition": "service_healthy", "required": True}}
    assert found["networks"] == {"n": None, "m": {"aliases": ["z"]}}


def test_documents_of_one_file_merge() -> None:
    assert service("services: {a: {image: x}}\n---\nservices: {a: {command: y}}\n")["command"] == ["y"]


def test_marks_survive_the_merge() -> None:
    document = merged("services:\n  a:\n    image: x\n", "services:\n  a:\n    command: y\n").document
    image, command = (locate(document, ("services", "a", key)) for key in ("image", "command"))
    assert (image.source.display, image.line) == ("0.yml", 3)
    assert (command.source.display, command.line) == ("1.yml", 3)


def test_different_forms_cannot_be_merged() -> None:
    with pytest.raises(StackFileError, match=r"1.yml:1:\d+: error: cannot merge a list over a mapping"):
        both("healthcheck: {retries: 1}", "healthcheck: [a]")


def test_extends_lays_the_service_over_its_base() -> None:
    found = service(
        "services: {a: {extends: {service: b, file: sub/f.yml}, command: z, environment: {C: 1}}}",
        **{
            "sub/f.yml": "services: {b: {extends: c, environment: {A: 1}, volumes: ['./d:/d'], env_file: e}, c: {image: q}}",
            "sub/e": "Z=1\n",
        },
    )
    assert found["image"] == "q"
    assert found["environment"] == {"A": "1", "C": "1", "Z": "1"}
    assert found["volumes"][0]["source"] == "/p/sub/d"


def test_include_brings_services_with_their_own_directory_and_variables() -> None:
    found = to_canonical(
        merged(
            "include: [sub/c.yaml]\nservices: {a: {image: x, depends_on: [b]}}",
            **{"sub/c.yaml": 'services: {b: {image: "x${Q}", volumes: ["./d:/d"]}}', "sub/.env": "Q=sub"},
        )
    )
    assert found["services"]["b"]["image"] == "xsub"
    assert found["services"]["b"]["volumes"][0]["source"] == "/p/sub/d"
