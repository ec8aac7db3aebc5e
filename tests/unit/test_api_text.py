"""Texts of the API: durations and status lines as Docker words them, filters, instants, versions, frames."""

from __future__ import annotations

import dataclasses
import time

import pytest

from pystack.api import jsons
from pystack.api.docker.clock import human_duration, status_line, unix_seconds
from pystack.api.docker.container import inspect_json, summary
from pystack.api.filters import flag, instant_ns, integer, parse_duration, parse_filters, parse_instant
from pystack.api.routes.streaming import fixed_time, log_line
from pystack.api.streams import frame
from pystack.api.versioning import parse_version, split_version
from pystack.engine.interface import LogEntry
from pystack.model.container import ContainerSpec
from pystack.model.errors import InvalidInput
from pystack.model.observed import ContainerView, EndpointView, PublishedPort
from pystack.model.states import ContainerState, Health

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (46 * MINUTE, "46 minutes"),
        (60 * MINUTE, "About an hour"),
        (90 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (731 * DAY, "2 years"),
    ],
)
def test_human_durations_are_those_of_go_units(seconds: float, text: str) -> None:
    assert human_duration(int(seconds * 10**9)) == text


VIEW = ContainerView(
    id="a" * 64,
    name="web",
    created="2026-11-24T10:00:00.5Z",
    spec=ContainerSpec(image="i", exposed_ports=("80/tcp", "81/tcp")),
    image="i",
    image_id="sha256:" + "b" * 64,
    state=ContainerState.RUNNING,
    pid=9,
    started_at="2026-11-24T10:00:00Z",
    path="sh",
    args=("-c", "sleep 1"),
    ports=(PublishedPort(container_port=80, protocol="tcp", host_ip="0.0.0.0", host_port=8080),),
    endpoints=(EndpointView(network="bridge", network_id="n", ipv4_address="172.17.0.2", ipv4_prefix=16),),
)
NOW = instant_ns("2026-11-24T10:02:05Z")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "Up 2 minutes"),
        ({"health": Health.HEALTHY}, "Up 2 minutes (healthy)"),
        ({"health": Health.STARTING}, "Up 2 minutes (health: starting)"),
        ({"state": ContainerState.PAUSED}, "Up 2 minutes (Paused)"),
        ({"state": ContainerState.CREATED}, "Created"),
        ({"state": ContainerState.DEAD}, "Dead"),
        (
            {"state": ContainerState.EXITED, "exit_code": 137, "finished_at": "2026-11-24T10:02:02Z"},
            "Exited (137) 3 seconds ago",
        ),
        (
            {"state": ContainerState.RESTARTING, "exit_code": 1, "finished_at": "2026-11-24T10:02:04Z"},
            "Restarting (1) 1 second ago",
        ),
    ],
)
def test_status_lines(values: dict[str, object], text: str) -> None:
    assert status_line(dataclasses.replace(VIEW, **values), NOW) == text  # type: ignore[arg-type]


def test_summary_and_inspect() -> None:
    line = summary(VIEW, NOW)
    assert line["Names"] == ["/web"]
    assert line["Command"] == "sh -c 'sleep 1'"
    assert line["Created"] == unix_seconds(VIEW.created) == 1795514400
    assert line["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "tcp"},
    ]
    shown = inspect_json(VIEW)
    settings = shown["NetworkSettings"]
    assert isinstance(settings, dict)
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None}
    assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] == "172.17.0.2"
    stopped = dataclasses.replace(VIEW, state=ContainerState.EXITED, pid=0)
    assert summary(stopped, NOW)["Ports"] == []
    assert inspect_json(stopped)["NetworkSettings"]["Ports"] == {}  # type: ignore[index]


@pytest.mark.parametrize("text", ['{"label":["a=b","c"]}', '{"label":{"a=b":true,"c":true,"d":false}}'])
def test_filters_in_both_spellings(text: str) -> None:
    assert parse_filters(text) == {"label": ["a=b", "c"]}


@pytest.mark.parametrize("text", ["[]", "{", '{"a":"b"}', '{"a":{"b":1}}', '{"x":[]} {}', '{"bogus":["x"]}'])
def test_bad_filters(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_filters(text, {"a", "x"})


def test_queries() -> None:
    assert [flag({"a": v}, "a") for v in ("1", "true", "yes", "x", "0", "False", "", "no", "none")] == [
        True
    ] * 4 + [False] * 5
    assert flag({}, "a", default=True)
    assert (integer({"t": "-1"}, "t"), integer({}, "t")) == (-1, None)
    with pytest.raises(InvalidInput, match="cannot read t"):
        integer({"t": "x"}, "t")


def test_instants() -> None:
    assert parse_instant("1700000000.000000001", "since") == 1_700_000_000_000_000_001
    assert parse_instant("1700000000", "since") == 1_700_000_000 * 10**9
    assert parse_instant("2026-11-24T10:00:00.123456789Z", "since") == 1795514400_123456789
    assert parse_instant("2026-11-24T11:00:00+01:00", "since") == 1795514400 * 10**9
    assert abs(parse_instant("1h30m", "since") - (time.time_ns() - 5400 * 10**9)) < 10**9
    assert (parse_instant("", "since"), parse_instant("0", "since")) == (0, 0)
    assert (parse_duration("1.5s"), parse_duration("250ms"), parse_duration("5 s")) == (
        1_500_000_000,
        250_000_000,
        None,
    )
    with pytest.raises(InvalidInput, match="cannot read until"):
        parse_instant("yesterday", "until")


def test_versions() -> None:
    assert split_version("/v1.47/info?x=1") == ("1.47", "/info?x=1")
    assert split_version("/version") == ("", "/version")
    assert split_version("/volumes/v1.2") == ("", "/volumes/v1.2")
    assert (parse_version("1.24"), parse_version("")) == ((1, 24), (1, 50))
    with pytest.raises(
        InvalidInput, match=r"client version 1.23 is too old. Minimum supported API version is 1.24"
    ):
        parse_version("1.23")
    with pytest.raises(
        InvalidInput, match=r"client version 1.51 is too new. Maximum supported API version is 1.50"
    ):
        parse_version("1.51")


def test_frames_and_log_lines() -> None:
    assert frame("stderr", b"abc") == b"\x02\0\0\0\0\0\0\3abc"
    entry = LogEntry(
        time="2026-11-24T10:00:00.5Z", stream="stdout", line=b"x\n", attributes={"b": "c d", "a": "1"}
    )
    assert log_line(entry, timestamps=False, details=False) == b"x\n"
    assert log_line(entry, timestamps=True, details=True) == b"2026-11-24T10:00:00.500000000Z a=1,b=c+d x\n"
    assert fixed_time("2026-11-24T10:00:00Z") == "2026-11-24T10:00:00.000000000Z"


@pytest.mark.parametrize("data", [b"{}{}", b"{} x", b"{", b"\xff", b"[" * 100_000])
def test_bodies_are_one_json_document(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="invalid JSON"):
        jsons.parse(data)
