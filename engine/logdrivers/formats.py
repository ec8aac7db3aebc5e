"""What goes over the wire for one entry: `Encoder.encode` takes an entry and gives the messages of its driver. Pure.

syslog: RFC 3164 and 5424; gelf: GELF 1.1; fluentd: the forward protocol's message mode; journald: its native protocol.
Fields and their names are those of Docker's drivers (moby daemon/logger/*).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pystack.engine.interface import LogEntry
from pystack.engine.logdrivers.options import FACILITIES, boolean, gelf_target, syslog_target
from pystack.engine.logdrivers.packing import msgpack
from pystack.engine.logdrivers.tags import Subject, extra_attributes, render_tag
from pystack.model.container import LogConfig

_SEVERITY = {"stdout": 6, "stderr": 3}  # informational, error
_GELF_CHUNK = 1420 - 12  # bytes of payload that fit into a datagram, beside the chunk's header
_GELF_CHUNKS = 128
_NS = 1_000_000_000


class Encoder:
    """The driver of one container. `connect_retries` and such are the sender's; this is content only."""

    def __init__(self, log: LogConfig, subject: Subject, time_ns: Callable[[str], int]) -> None:
        options = log.options
        self._options = options
        self._subject = subject
        self._time_ns = time_ns
        self._tag = render_tag(options.get("tag") or "{{.ID}}", subject)
        self._extra = extra_attributes(options, subject)
        self._partial: dict[
            str, tuple[str, int]
        ] = {}  # stream -> id and number of the line that is not complete
        make: dict[str, Callable[[], Callable[[LogEntry], list[bytes]]]] = {
            "syslog": self._make_syslog,
            "gelf": self._make_gelf,
            "fluentd": lambda: self._fluentd,
            "journald": lambda: self._journald,
        }
        self._encode = make[log.driver]()

    def encode(self, entry: LogEntry) -> list[bytes]:
        """The messages of one entry: datagrams, or pieces of a stream."""
        return self._encode(entry)

    def _parts(self, entry: LogEntry) -> tuple[str, int, bool] | None:
        """(id, number from 1, whether it is the last) of a line in pieces, None for a whole one."""
        last = entry.line.endswith(b"\n")
        known = self._partial.pop(entry.stream, None)
        if last and known is None:
            return None
        made = hashlib.sha256(f"{self._subject.id}{entry.stream}{entry.time}".encode()).hexdigest()
        identifier, number = known or (made, 0)
        if not last:
            self._partial[entry.stream] = identifier, number + 1
        return identifier, number + 1, last

    # -- syslog -------------------------------------------------------------------------------------------------------

    def _make_syslog(self) -> Callable[[LogEntry], list[bytes]]:
        name = self._options.get("syslog-facility") or "daemon"
        facility = FACILITIES[name] if name in FACILITIES else int(name)
        kind, form = syslog_target(self._options).kind, self._options.get("syslog-format", "")
        digits = {"rfc5424": "seconds", "rfc5424micro": "microseconds"}.get(form, "")

        def head(entry: LogEntry) -> str:
            priority = facility * 8 + _SEVERITY[entry.stream]
            seconds, rest = divmod(self._time_ns(entry.time), _NS)
            moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000).astimezone()
            host, tag, pid = self._subject.hostname or "-", self._tag, os.getpid()
            if digits:
                when = moment.isoformat(timespec=digits).replace("+00:00", "Z")
                return f"<{priority}>1 {when} {host} {tag} {pid} {tag} - "
            when = f"{moment:%b} {moment.day:2} {moment:%H:%M:%S}"
            return f"<{priority}>{when} {host + ' ' if form == 'rfc3164' else ''}{tag}[{pid}]: "

        def encode(entry: LogEntry) -> list[bytes]:
            message = head(entry).encode() + entry.line.rstrip(b"\n") + b"\n"
            # RFC 5425: with TLS and RFC 5424 each message is counted instead of ended.
            return [b"%d %s" % (len(message), message) if kind == "tls" and digits else message]

        return encode

    # -- gelf ---------------------------------------------------------------------------------------------------------

    def _make_gelf(self) -> Callable[[LogEntry], list[bytes]]:
        subject = self._subject
        extra: dict[str, object] = {f"_{name}": value for name, value in self._extra.items()}
        fixed: dict[str, object] = {
            "version": "1.1",
            "host": subject.hostname,
            "_command": " ".join(subject.command),
            "_container_id": subject.id,
            "_container_name": subject.name,
            "_created": subject.created,
            "_image_id": subject.image_id,
            "_image_name": subject.image,
            "_tag": self._tag,
        } | extra
        tcp = gelf_target(self._options).kind == "tcp"
        level = int(self._options.get("gelf-compression-level", "1"))
        form = self._options.get("gelf-compression-type") or "gzip"

        def encode(entry: LogEntry) -> list[bytes]:
            text = entry.line.rstrip(b"\n")
            if not text:
                return []  # GELF has no empty messages
            document = fixed | {
                "short_message": text.decode("utf-8", "replace"),
                "timestamp": round(self._time_ns(entry.time) / _NS, 3),
                "level": _SEVERITY[entry.stream],
            }
            data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
            if tcp:
                return [data + b"\0"]
            if form == "gzip":
                data = gzip.compress(data, 9 if level < 0 else level, mtime=0)
            elif form == "zlib":
                data = zlib.compress(data, level)
            return gelf_chunks(data, os.urandom(8))

        return encode

    # -- fluentd ------------------------------------------------------------------------------------------------------

    def _fluentd(self, entry: LogEntry) -> list[bytes]:
        library = msgpack()
        record = self._extra | {
            "container_id": self._subject.id,
            "container_name": f"/{self._subject.name}",
            "source": entry.stream,
            "log": entry.line.rstrip(b"\n").decode("utf-8", "replace"),
        }
        if parts := self._parts(entry):
            record |= {
                "partial_message": "true",
                "partial_id": parts[0],
                "partial_ordinal": str(parts[1]),
                "partial_last": "true" if parts[2] else "false",
            }
        seconds, rest = divmod(self._time_ns(entry.time), _NS)
        when: object = seconds
        if boolean(self._options, "fluentd-sub-second-precision", False):
            when = library.ExtType(0, struct.pack(">II", seconds, rest))
        message = [self._tag, when, record]
        if boolean(self._options, "fluentd-request-ack", False):
            message.append({"chunk": os.urandom(16).hex()})
        packed: bytes = library.packb(message)
        return [packed]

    # -- journald -----------------------------------------------------------------------------------------------------

    def _journald(self, entry: LogEntry) -> list[bytes]:
        subject = self._subject
        fields: dict[str, str] = {journal_name(name): value for name, value in self._extra.items()}
        fields |= {
            "PRIORITY": str(_SEVERITY[entry.stream]),
            "CONTAINER_ID": subject.id[:12],
            "CONTAINER_ID_FULL": subject.id,
            "CONTAINER_NAME": subject.name,
            "CONTAINER_TAG": self._tag,
            "IMAGE_NAME": subject.image,
            "SYSLOG_IDENTIFIER": self._tag,
            "SYSLOG_TIMESTAMP": entry.time,
        }
        if parts := self._parts(entry):
            fields |= {"CONTAINER_PARTIAL_ID": parts[0], "CONTAINER_PARTIAL_ORDINAL": str(parts[1])}
            fields["CONTAINER_PARTIAL_LAST"] = "true" if parts[2] else "false"
            if not parts[2]:
                fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        return [journal_message(fields, entry.line.rstrip(b"\n"))]


def gelf_chunks(data: bytes, identifier: bytes) -> list[bytes]:
    """Datagrams of one GELF message; none when it needs more than 128."""
    if len(data) <= _GELF_CHUNK + 12:
        return [data]
    pieces = [data[n : n + _GELF_CHUNK] for n in range(0, len(data), _GELF_CHUNK)]
    if len(pieces) > _GELF_CHUNKS:
        return []
    return [
        b"\x1e\x0f" + identifier + bytes((number, len(pieces))) + piece for number, piece in enumerate(pieces)
    ]


def journal_name(name: str) -> str:
    """A field of the journal: upper case, digits and underscores, not beginning with one (systemd.journal-fields(7))."""
    return re.sub(r"[^A-Z0-9_]", "_", name.upper()).lstrip("_0123456789")[:64] or "FIELD"


def journal_message(fields: Mapping[str, str], message: bytes) -> bytes:
    """The native protocol of systemd: NAME=value lines; a value with line breaks goes with its length, little endian, before."""
    out = bytearray()
    for name, value in (
        *((n, v.encode("utf-8", "replace")) for n, v in fields.items()),
        ("MESSAGE", message),
    ):
        if b"\n" in value:
            out += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            out += name.encode() + b"=" + value + b"\n"
    return bytes(out)
