"""Configs, removal and lists of images: pure decisions."""

from __future__ import annotations

import json

import images
import pytest

from pystack.image import removal
from pystack.image.listing import history_of, keep, view_of
from pystack.image.records import (
    ImageRecord,
    ImageUser,
    chain_ids,
    image_config,
    image_from_json,
    parse_config,
)
from pystack.image.references import normalise
from pystack.model.container import Healthcheck
from pystack.model.errors import Conflict, InvalidInput
from pystack.model.observed import ImageView


def record(config: bytes, **more: object) -> ImageRecord:
    diff_ids = parse_config(config).diff_ids
    return ImageRecord(id=images.digest(config), config=config.decode(), layers=chain_ids(diff_ids), **more)  # type: ignore[arg-type]


def test_a_record_reads_back_as_itself() -> None:
    made = record(
        images.image_config([b"a"]),
        blobs=("b",),
        size=3,
        repo_digests=("x@y",),
        synthetic="s",
        key="k",
        binds=(("/a", "/b"),),
    )
    assert image_from_json(made.to_json()) == made


def test_chain_ids_follow_the_oci_rule() -> None:
    one, two = images.digest(b"1"), images.digest(b"2")
    assert chain_ids([]) == ()
    assert chain_ids([one, two]) == (one, images.digest(f"{one} {two}".encode()))


def test_the_config_in_the_engines_words() -> None:
    config = {
        "User": "www", "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Env": ["A=1"], "Entrypoint": ["/run"], "Cmd": None,
        "Volumes": {"/data": {}}, "WorkingDir": "/w", "Labels": {"a": "b"}, "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 3}, "Shell": ["/bin/bash"], "OnBuild": ["x"],
    }  # fmt: skip
    found = image_config(parse_config(images.image_config([], config)))
    assert (found.user, found.exposed_ports, found.env) == ("www", ("443/tcp", "80/tcp"), ("A=1",))
    assert (found.entrypoint, found.command, found.volumes) == (("/run",), None, ("/data",))
    assert found.healthcheck == Healthcheck(test=("CMD", "x"), interval=5, retries=3)
    assert (found.labels, found.stop_signal, found.shell) == ({"a": "b"}, "SIGQUIT", ("/bin/bash",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "cannot use the image config"),
        (b"[]", "cannot use the image config"),
        (b'{"config": {"Env": "x"}}', "config.Env"),
        (b'{"config": {"Labels": {"a": 1}}}', "config.Labels"),
        (b'{"rootfs": {"type": "other"}}', "rootfs type is 'other'"),
        (b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}}', "with diff id"),
        (
            json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 126}}).encode(),
            "126 layers",
        ),
        (b"[" * 100_000, "cannot use the image config"),
        (b" " * (9 << 20), "more than"),
    ],
)
def test_configs_that_are_none(text: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_config(text)


def view(tag: str, created: str, **labels: str) -> ImageView:
    config = images.image_config([b"x"], {"Labels": labels}, created=created)
    return view_of(record(config), [str(normalise(tag))] if tag else [])


def test_filters() -> None:
    old, new, none = (
        view("a/app:1", "2020-01-01T00:00:00Z", x="1"),
        view("app:2", "2030-01-01T00:00:00.123456789+02:00"),
        view("", "2025-01-01T00:00:00Z"),
    )
    everything = [old, new, none]

    def kept(**filters: list[str]) -> list[ImageView]:
        return keep(
            everything, filters, lambda ref: next(found for found in everything if ref in found.repo_tags)
        )

    assert kept() == everything
    assert kept(reference=["app"]) == [new]
    assert kept(reference=["*/app:1", "none"]) == [old]
    assert kept(dangling=["true"]) == [none]
    assert kept(dangling=["false"], label=["x"]) == [old]
    assert kept(**{"label!": ["x=1"]}) == [new, none]
    assert kept(before=["app:2"]) == [old, none]
    assert kept(since=["a/app:1"]) == [new, none]
    assert kept(until=["2024-01-01T00:00:00Z"]) == [old]
    assert kept(until=["24h"])[0] == old
    for bad in ({"dangling": ["maybe"]}, {"until": ["soon"]}, {"size": ["1"]}):
        with pytest.raises(InvalidInput, match=r"invalid filter|failed to parse value"):
            keep(everything, bad, lambda _: old)


def test_history_gives_sizes_to_the_entries_that_have_a_layer() -> None:
    config = json.loads(images.image_config([b"a", b"b"]))
    config["history"].insert(1, {"created_by": "ENV x", "empty_layer": True, "comment": "c"})
    made = record(json.dumps(config).encode())
    found = history_of(made, view_of(made, ["docker.io/library/a:1"]), [10, 20])
    assert [(entry["Id"] == made.id, entry["CreatedBy"], entry["Size"], entry["Tags"]) for entry in found] == [
        (True, "layer 1", 20, ["a:1"]), (False, "ENV x", 0, None), (False, "layer 0", 10, None),
    ]  # fmt: skip
    assert found[2]["Created"] == 1767323045


RUNNING = ImageUser(id="r" * 64, name="r", running=True)
STOPPED = ImageUser(id="s" * 64, name="s", running=False)
MADE = record(images.image_config([]))
TAG, OTHER, THIRD = (str(normalise(text)) for text in ("a:1", "b:1", "a:2"))


@pytest.mark.parametrize(
    ("by", "tags", "users", "force", "expected"),
    [
        ("a:1", [TAG], [], False, ([TAG], True)),
        ("a:1", [TAG, OTHER], [RUNNING], False, ([TAG], False)),
        ("a:1", [TAG], [STOPPED], False, "must force"),
        ("a:1", [TAG], [RUNNING], True, ([TAG], False)),
        ("", [TAG], [STOPPED], False, "must be forced"),
        ("", [TAG], [STOPPED], True, ([TAG], False)),
        ("", [TAG], [STOPPED, RUNNING], True, "cannot be forced"),
        ("", [TAG, OTHER], [], False, "multiple repositories"),
        ("", [TAG, THIRD], [], False, ([TAG, THIRD], True)),
        ("", [TAG, OTHER], [], True, ([TAG, OTHER], True)),
        ("", [], [], False, ([], True)),
    ],
)
def test_what_a_removal_takes(
    by: str, tags: list[str], users: list[ImageUser], force: bool, expected: object
) -> None:
    reference = normalise(by) if by else None
    if isinstance(expected, str):
        with pytest.raises(Conflict, match=expected):
            removal.plan(by, MADE, reference, tags, users, force=force)
        return
    found = removal.plan(by, MADE, reference, tags, users, force=force)
    assert (list(found.untag), found.delete) == expected
