"""DNS messages, as much as a resolver for a few names needs: a query in, an answer out. Pure; bytes on both sides.

What is forwarded is never taken apart beyond its question. Sources: RFC 1035, RFC 6891 (EDNS), RFC 2308 (no data).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
_IN = 1
_QR, _OPCODE, _AA, _TC, _RD, _RA = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080
TTL = 600  # seconds, Docker's
PLAIN_UDP = 512  # bytes of an answer without EDNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`name` is lower case without the final dot; `question` its bytes as asked; `size` what the asker takes by UDP."""

    id: int
    flags: int
    name: str
    type: int
    question: bytes
    edns: bool
    size: int


def parse(message: bytes) -> Query | None:
    """A query with one question; None when it is anything else, or malformed."""
    if len(message) < 17:
        return None
    ident, flags, questions, answers, authorities, additional = struct.unpack_from("!6H", message)
    if flags & (_QR | _OPCODE) or questions != 1 or answers or authorities:
        return None
    labels: list[str] = []
    offset = 12
    while True:
        if offset >= len(message):
            return None
        length = message[offset]
        offset += 1
        if not length:
            break
        if length > 63 or offset + length > len(message) or offset - 12 > 255:  # no compression in a question
            return None
        labels.append(message[offset : offset + length].decode("latin-1"))
        offset += length
    if offset + 4 > len(message):
        return None
    kind, class_ = struct.unpack_from("!2H", message, offset)
    if class_ != _IN:
        return None
    offset += 4
    edns, size = _edns(message, offset) if additional else (False, PLAIN_UDP)
    return Query(
        id=ident,
        flags=flags,
        name=".".join(labels).lower(),
        type=kind,
        question=message[12:offset],
        edns=edns,
        size=size,
    )


def _edns(message: bytes, offset: int) -> tuple[bool, int]:
    """Whether an OPT record with the root's name follows, and its UDP size."""
    if len(message) >= offset + 11 and message[offset] == 0:
        kind, size = struct.unpack_from("!2H", message, offset + 1)
        if kind == OPT:
            return True, max(PLAIN_UDP, min(size, 4096))
    return False, PLAIN_UDP


def _encode(name: str) -> bytes:
    parts = [label.encode("latin-1", "replace") for label in name.split(".") if label]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def _answer(
    query: Query, code: int, records: Iterable[tuple[int, bytes]], *, authoritative: bool, limit: int
) -> bytes:
    tail = struct.pack("!BHHIH", 0, OPT, 1232, 0, 0) if query.edns else b""
    body = b""
    count = 0
    flags = _QR | _RA | (query.flags & _RD) | code | (_AA if authoritative else 0)
    for kind, data in records:
        record = struct.pack("!HHHIH", 0xC00C, kind, _IN, TTL, len(data)) + data
        if limit and 12 + len(query.question) + len(body) + len(record) + len(tail) > limit:
            flags |= _TC
            break
        body += record
        count += 1
    head = struct.pack("!6H", query.id, flags, 1, count, 0, 1 if query.edns else 0)
    return head + query.question + body + tail


def addresses(query: Query, found: Iterable[str], *, limit: int) -> bytes:
    """The A or AAAA records among `found`; none of the asked family is NOERROR and empty. `limit` 0 = TCP."""
    version = {A: 4, AAAA: 6}.get(query.type, 0)
    packed = [ip_address(text) for text in found]
    records = [(query.type, address.packed) for address in packed if address.version == version]
    return _answer(query, NOERROR, records, authoritative=False, limit=limit)


def pointers(query: Query, names: Iterable[str], *, limit: int) -> bytes:
    return _answer(query, NOERROR, [(PTR, _encode(name)) for name in names], authoritative=False, limit=limit)


def failure(query: Query, code: int) -> bytes:
    return _answer(query, code, (), authoritative=False, limit=0)


def truncated(query: Query) -> bytes:
    """An empty answer with TC: ask again by TCP."""
    answer = failure(query, NOERROR)
    return answer[:2] + bytes((answer[2] | _TC >> 8,)) + answer[3:]


def format_error(message: bytes) -> bytes | None:
    """FORMERR for a query that cannot be read; None when it is an answer or too short to reply to."""
    if len(message) < 12 or message[2] & 0x80:
        return None
    return message[:2] + struct.pack("!5H", _QR | _RA | FORMERR, 0, 0, 0, 0)


def reverse_address(name: str) -> IPv4Address | IPv6Address | None:
    """The address of a name below in-addr.arpa or ip6.arpa; None when it is none (RFC 1035 3.5, RFC 3596 2.5)."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name.removesuffix(".in-addr.arpa").split(".")
            return IPv4Address(".".join(reversed(parts))) if len(parts) == 4 else None
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        return None
    return None


def is_reply_to(reply: bytes, query: Query, ident: int) -> bool:
    """Whether `reply` answers the query that was sent with `ident`: same question, letters compared as sent."""
    if len(reply) < 12 + len(query.question):
        return False
    number, flags, questions = struct.unpack_from("!3H", reply)
    return (
        number == ident
        and bool(flags & _QR)
        and questions == 1
        and reply[12 : 12 + len(query.question)].lower() == query.question.lower()
    )


def code_of(reply: bytes) -> int:
    return reply[3] & 0x0F


def with_id(message: bytes, ident: int) -> bytes:
    return struct.pack("!H", ident) + message[2:]
