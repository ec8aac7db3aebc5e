"""Names and driver options of volumes."""

from __future__ import annotations

import pytest

from pystack.model.errors import InvalidInput, NotFound, Unsupported
from pystack.volume.records import VolumeRecord, check_driver, check_name, device_of, from_json


def test_a_record_reads_back_as_itself() -> None:
    made = VolumeRecord(
        name="v", created="2026-01-01T00:00:00Z", labels={"a": "b"}, options={"o": "bind"}, device="/x"
    )
    assert from_json(made.to_json()) == made


@pytest.mark.parametrize("name", ["v1", "A_b.c-d", "0" * 64, "x" * 255])
def test_names(name: str) -> None:
    check_name(name)
    assert not VolumeRecord(name=name, created="", labels={}, options={}).anonymous


@pytest.mark.parametrize("name", ["", "v", ".v1", "-v", "a/b", "..", "a b", "é1", "v1\n", "x" * 256])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="invalid characters for a local volume name"):
        check_name(name)


def test_drivers() -> None:
    check_driver("")
    check_driver("local")
    with pytest.raises(NotFound, match='plugin "rexray" not found'):
        check_driver("rexray")


def test_driver_options() -> None:
    assert device_of("v", {}) == ""
    assert device_of("v", {"type": "none", "o": "bind", "device": "/srv"}) == "/srv"
    assert device_of("v", {"o": "rbind,rw", "device": "/srv"}) == "/srv"
    for kind in ("tmpfs", "nfs", "ext4"):
        with pytest.raises(Unsupported, match=f"of type {kind}"):
            device_of("v", {"type": kind, "device": "x"})
    with pytest.raises(Unsupported, match="only bind and rbind"):
        device_of("v", {"o": "bind,ro", "device": "/srv"})
    with pytest.raises(InvalidInput, match="missing device"):
        device_of("v", {"o": "bind", "device": "srv"})
    with pytest.raises(InvalidInput, match='invalid option: "size"'):
        device_of("v", {"size": "1"})
