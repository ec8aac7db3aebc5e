"""Log drivers without a network: options refused in Docker's words, tags, and every wire format."""

import gzip
import json
import struct

import msgpack
import pytest

from pystack.engine import clock
from pystack.engine.interface import LogEntry
from pystack.engine.logdrivers import options
from pystack.engine.logdrivers.formats import Encoder, gelf_chunks, journal_message, journal_name
from pystack.engine.logdrivers.tags import Subject, extra_attributes, render_tag
from pystack.model.container import LogConfig
from pystack.model.errors import InvalidInput

ID = "0123456789abcdef" * 4
WEB = Subject(
    id=ID,
    name="web",
    image="busybox:1",
    image_id="sha256:" + "f" * 64,
    created="2026-11-24T12:00:00.000000001Z",
    command=("sh", "-c", "x y"),
    labels={"tier": "front", "team.name": "a", "other": "b"},
    env=("MODE=prod", "PATH=/bin"),
    hostname="here",
)


def entry(text, stream="stdout"):
    return LogEntry(time="2026-11-24T13:14:15.123456789Z", stream=stream, line=text)


def encoder(driver, **given):
    config = LogConfig(driver=driver, options={k.replace("_", "-"): v for k, v in given.items()})
    options.check(config)
    return Encoder(config, WEB, clock.parse_ns)


@pytest.mark.parametrize(
    ("driver", "given", "said"),
    [
        ("nope", {}, "logger: no log driver named 'nope' is registered"),
        ("awslogs", {}, "logger: no log driver named 'awslogs' is registered"),
        ("json-file", {"x": "1"}, "unknown log opt 'x' for json-file log driver"),
        ("local", {"tag": "x"}, "unknown log opt 'tag' for local log driver"),
        ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("json-file", {"max-size": "lots"}, "invalid size: 'lots'"),
        ("json-file", {"max-file": "3"}, "cannot use max-file without max-size"),
        ("json-file", {"max-size": "1m", "max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"compress": "true"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"compress": "maybe"}, "invalid value for option compress: maybe"),
        ("json-file", {"labels-regex": "("}, "cannot read log opt labels-regex"),
        ("syslog", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
        ("syslog", {"syslog-address": "ftp://x"}, "unsupported scheme: 'ftp'"),
        ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "http://x:1"}, "gelf: endpoint needs to be TCP or UDP"),
        (
            "gelf",
            {"gelf-address": "tcp://x:1", "gelf-compression-type": "none"},
            "compression is only supported on UDP",
        ),
        ("fluentd", {"fluentd-max-retries": "-1"}, "fluentd-max-retries"),
        ("fluentd", {"fluentd-async-reconnect-interval": "1ms"}, "must be between 100ms and 10s"),
    ],
)
def test_what_is_wrong_is_refused(driver, given, said):
    with pytest.raises(InvalidInput) as caught:
        options.check(LogConfig(driver=driver, options=given))
    assert str(caught.value).startswith(said) or said in str(caught.value)


def test_rotation_of_each_driver():
    assert options.rotation(LogConfig(driver="json-file")) == (-1, 1, False)
    assert options.rotation(LogConfig(driver="local")) == (20 << 20, 5, True)
    assert options.rotation(LogConfig(driver="gelf", options={"cache-max-size": "1m"})) == (1 << 20, 5, True)
    assert options.rotation(LogConfig(driver="local", options={"max-file": "1"})) == (20 << 20, 1, False)


def test_tags_and_chosen_attributes():
    assert (
        render_tag("{{.Name}}/{{ .ID }}/{{.ImageName}}/{{.DaemonName}}", WEB)
        == f"web/{ID[:12]}/busybox:1/docker"
    )
    assert render_tag("{{.FullID}}{{.ImageID}}{{.Command}}", WEB) == f"{ID}{'f' * 12}sh -c x y"
    for bad in ("{{.Nope}}", "{{if .ID}}", "{{upper .ID}}"):
        with pytest.raises(InvalidInput, match="cannot read the log tag"):
            render_tag(bad, WEB)
    chosen = {"labels": "tier,absent", "labels-regex": r"^team\.", "env": "MODE"}
    assert extra_attributes(chosen, WEB) == {"tier": "front", "team.name": "a", "MODE": "prod"}


def test_syslog_formats():
    (old,) = encoder("syslog", tag="t").encode(entry(b"hello\n"))
    assert old.startswith(b"<30>Nov 24 ")
    assert old.endswith(b": hello\n")
    assert b" t[" in old
    assert b"here" not in old
    (named,) = encoder("syslog", syslog_format="rfc3164").encode(entry(b"hello\n", "stderr"))
    assert named.startswith(b"<27>Nov 24 ")
    assert f" here {ID[:12]}[".encode() in named
    (new,) = encoder("syslog", syslog_format="rfc5424micro", syslog_facility="local7").encode(entry(b"x"))
    assert new.startswith(b"<190>1 2026-11-24T")
    assert b".123456" in new
    assert new.endswith(f" {ID[:12]} - x\n".encode())
    (framed,) = encoder("syslog", syslog_format="rfc5424", syslog_address="tcp+tls://h").encode(entry(b"x\n"))
    length, _, message = framed.partition(b" ")
    assert int(length) == len(message)


def test_gelf():
    (packed,) = encoder("gelf", gelf_address="udp://h:1", labels="tier").encode(entry(b"hi\n", "stderr"))
    found = json.loads(gzip.decompress(packed))
    assert (
        found | {"version": "1.1", "level": 3, "short_message": "hi", "_tier": "front", "host": "here"}
        == found
    )
    assert found["timestamp"] == pytest.approx(clock.parse_ns("2026-11-24T13:14:15.123Z") / 1e9)
    assert (found["_container_name"], found["_image_name"], found["_command"]) == (
        "web",
        "busybox:1",
        "sh -c x y",
    )
    (line,) = encoder("gelf", gelf_address="tcp://h:1").encode(entry(b"hi\n"))
    assert json.loads(line.removesuffix(b"\0"))["level"] == 6
    assert encoder("gelf", gelf_address="tcp://h:1").encode(entry(b"\n")) == []
    data = bytes(range(256)) * 20
    chunks = gelf_chunks(data, b"12345678")
    assert [(c[:2], c[2:10], c[10], c[11]) for c in chunks] == [
        (b"\x1e\x0f", b"12345678", n, len(chunks)) for n in range(len(chunks))
    ]
    assert b"".join(c[12:] for c in chunks) == data
    assert gelf_chunks(b"x" * 200_000, b"12345678") == []


def test_fluentd_and_lines_in_pieces():
    made = encoder("fluentd", tag="a.{{.Name}}", fluentd_sub_second_precision="true", fluentd_request_ack="1")
    pieces = [made.encode(entry(text))[0] for text in (b"x" * 16384, b"y" * 16384, b"z\n", b"whole\n")]
    first, second, third, whole = (msgpack.unpackb(p) for p in pieces)
    assert first[0] == "a.web"
    assert struct.unpack(">II", first[1].data)[1] == 123456789
    assert set(first[3]) == {"chunk"}
    assert [m[2]["partial_ordinal"] for m in (first, second, third)] == ["1", "2", "3"]
    assert len({m[2]["partial_id"] for m in (first, second, third)}) == 1
    assert [m[2]["partial_last"] for m in (first, second, third)] == ["false", "false", "true"]
    assert whole[2] == {"container_id": ID, "container_name": "/web", "source": "stdout", "log": "whole"}


def test_journal():
    assert journal_message({"A": "1"}, b"x") == b"A=1\nMESSAGE=x\n"
    assert journal_message({}, b"a\nb") == b"MESSAGE\n" + struct.pack("<Q", 3) + b"a\nb\n"
    assert (journal_name("team.name"), journal_name("_x"), journal_name("1")) == ("TEAM_NAME", "X", "FIELD")
    (message,) = encoder("journald", env="MODE").encode(entry(b"hi\n", "stderr"))
    assert {
        b"PRIORITY=3",
        b"MESSAGE=hi",
        b"MODE=prod",
        b"CONTAINER_NAME=web",
        f"CONTAINER_ID_FULL={ID}".encode(),
    } <= set(message.splitlines())
