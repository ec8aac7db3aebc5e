"""Tar archives that nobody vouches for: a reader of bytes in, entries and their content out, in one pass.

ustar, old GNU and pax as images use them. Names are bytes. Everything is bounded: entries, bytes, extended headers. What
cannot be read with one meaning only (sparse files, unknown types, negative or absurd numbers) is InvalidInput, never a
guess: two parsers that disagree are how an archive gets past a check. Sources: tar(5), POSIX pax.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pystack.image.compression import BUFFER, Reader, is_damage
from pystack.model.errors import InvalidInput

REGULAR, HARDLINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

BLOCK_SIZE = 512
NAME_MAX = 4096
EXTENDED_MAX = 1 << 20
_ZERO = bytes(BLOCK_SIZE)
_XATTR = b"SCHILY.xattr."
_NUMBERS_KEPT = 4096
_ID_MAX = 0xFFFFFFFE
_SECONDS_MAX = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one archive may hold: bytes of the whole stream after decompression, and entries."""

    bytes: int = 64 << 30
    entries: int = 1_000_000


class Entry(NamedTuple):
    """One member. `name` and `link` are as written in the archive. `size` is of the content that follows."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[str, bytes]


class Source:
    """A buffered, counted and optionally hashed stream. `what` names it in errors."""

    def __init__(self, reader: Reader, what: str, limit: int, *, digest: bool = False) -> None:
        self._reader = reader
        self._what = what
        self._limit = limit
        self._buffer = b""
        self._at = 0
        self._hash = hashlib.sha256() if digest else None
        self.total = 0

    def _fill(self) -> bool:
        """Read more in place of a buffer that is used up; False at the end."""
        try:
            data = self._reader.read(BUFFER)
        except Exception as error:
            if is_damage(error):
                raise InvalidInput(
                    f"cannot decompress {self._what}: {error}", hint="the file is damaged or cut short"
                ) from error
            raise
        self._buffer, self._at = data, 0
        self.total += len(data)
        if self.total > self._limit:
            raise InvalidInput(f"cannot read {self._what}: it is larger than {self._limit} bytes")
        if self._hash is not None:
            self._hash.update(data)
        return bool(data)

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end of the stream."""
        at = self._at
        if at + size <= len(self._buffer):
            self._at = at + size
            return self._buffer[at : at + size]
        return b"".join(bytes(part) for part in self.parts(size))

    def parts(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes piece by piece, without copies; fewer only at the end of the stream."""
        while size:
            if self._at == len(self._buffer) and not self._fill():
                return
            end = min(self._at + size, len(self._buffer))
            part = memoryview(self._buffer)[self._at : end]
            self._at = end
            size -= len(part)
            yield part

    def drain(self) -> None:
        """Read to the end, for the digest's sake. The stream's limit bounds the padding."""
        while self._fill():
            pass

    @property
    def digest(self) -> str:
        """Of everything read so far; after `drain`, of the whole stream."""
        assert self._hash is not None
        return "sha256:" + self._hash.hexdigest()

    def cut(self) -> InvalidInput:
        return InvalidInput(
            f"cannot read {self._what}: it ends too early", hint="the file is damaged or cut short"
        )


class TarReader:
    """Iterate over it for entries; after each, `content()` gives its bytes (what is left is skipped)."""

    def __init__(self, source: Source, what: str, limits: Limits) -> None:
        self._source = source
        self._what = what
        self._limits = limits
        self._left = 0  # content of the current entry not read yet
        self._padding = 0
        self._global: dict[bytes, bytes] = {}
        self._numbers: dict[bytes, int] = {}  # modes, owners and times repeat: half of the parsing

    def content(self) -> Iterator[memoryview]:
        """The current entry's bytes. InvalidInput when the archive ends within them."""
        for part in self._source.parts(self._left):
            self._left -= len(part)
            yield part
        if self._left:
            raise self._source.cut()

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        pax: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while (block := self._next_block()) is not None:
            count += 1
            if count > self._limits.entries:
                raise self._bad(f"more than {self._limits.entries} entries")
            kind = block[156:157]
            size = self._number(block[124:136])
            if kind in b"xgLK" and kind:
                record = self._extended(size)
                if kind == b"x":
                    pax = self._pax(record)
                elif kind == b"g":
                    self._global |= self._pax(record)
                else:
                    long[kind] = record.partition(b"\0")[0]
                continue
            yield self._entry(block, kind, size, {**self._global, **pax} if self._global else pax, long)
            pax, long = {}, {}
        if pax or long:
            raise self._source.cut()

    def _bad(self, why: str) -> InvalidInput:
        return InvalidInput(f"cannot read {self._what}: {why}")

    def _next_block(self) -> bytes | None:
        """The next header, checked; None at the end-of-archive mark or the end of the stream."""
        skip = self._left + self._padding
        if skip and sum(map(len, self._source.parts(skip))) < self._left:
            raise self._source.cut()
        self._left = self._padding = 0
        block = self._source.take(BLOCK_SIZE)
        if not block or block == _ZERO:
            return None
        if len(block) < BLOCK_SIZE:
            raise self._source.cut()
        # The header's checksum counts its own field as spaces. adler32's low half is 1 + the sum, modulo 65521.
        if not block[148:156].strip(b" \0").isdigit():
            raise self._bad("it is not a tar, or it is damaged")
        expected = self._number(block[148:156])
        total = (1 + expected - 8 * 32 + sum(block[148:156])) % 65521
        if total != zlib.adler32(block) & 0xFFFF and expected not in tarfile.calc_chksums(block):  # type: ignore[attr-defined]
            raise self._bad("a header's checksum is wrong")
        return block

    def _number(self, field: bytes) -> int:
        """A number of a header: octal, or base-256 when the first byte says so. Never negative."""
        known = self._numbers.get(field)
        if known is not None:
            return known
        try:
            if field[0] & 0x80:
                value: int = tarfile.nti(field)  # type: ignore[attr-defined]
            else:
                text = field.partition(b"\0")[0].strip()
                if not text:
                    return 0
                if not text.isdigit():
                    raise ValueError(text)
                value = int(text, 8)
        except (ValueError, tarfile.HeaderError) as error:
            raise self._bad(f"{bytes(field)!r} is not a number") from error
        if value < 0:
            raise self._bad(f"negative number {value}")
        if len(self._numbers) < _NUMBERS_KEPT:
            self._numbers[field] = value
        return value

    def _extended(self, size: int) -> bytes:
        if size > EXTENDED_MAX:
            raise self._bad(f"an extended header of {size} bytes")
        record = self._source.take(size)
        padding = -size % BLOCK_SIZE
        if len(record) < size or len(self._source.take(padding)) < padding:
            raise self._source.cut()
        return record

    def _pax(self, record: bytes) -> dict[bytes, bytes]:
        """The records of a pax header: length, space, key=value, newline."""
        found: dict[bytes, bytes] = {}
        at = 0
        while at < len(record):
            space = record.find(b" ", at, at + 12)
            digits = record[at:space] if space > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            line = record[at : at + length]
            key, equals, value = record[space + 1 : at + length - 1].partition(b"=")
            if (
                length <= space - at
                or len(line) < length
                or not line.endswith(b"\n")
                or not equals
                or not key
            ):
                raise self._bad("an extended header is malformed")
            if key.startswith(b"GNU.sparse."):
                raise self._bad("sparse files are not taken")
            found[key] = value
            at += length
        return found

    def _entry(
        self, block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], long: dict[bytes, bytes]
    ) -> Entry:
        name = block[:100].partition(b"\0")[0]
        link = block[157:257].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345] and (prefix := block[345:500].partition(b"\0")[0]):
            name = prefix + b"/" + name
        name, link = long.get(b"L", name), long.get(b"K", link)
        uid, gid = self._number(block[108:116]), self._number(block[116:124])
        mtime_ns = (
            self._number(block[136:148]) * 1_000_000_000 if not block[136] & 0x80 else self._old_time(block)
        )
        xattrs: dict[str, bytes] = {}
        if pax:
            name, link = pax.get(b"path", name), pax.get(b"linkpath", link)
            uid = self._decimal(pax, b"uid", uid)
            gid = self._decimal(pax, b"gid", gid)
            size = self._decimal(pax, b"size", size)
            mtime_ns = self._time(pax[b"mtime"]) if b"mtime" in pax else mtime_ns
            for key, value in pax.items():
                if key.startswith(_XATTR):
                    xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value
        kind = self._kind(kind, name)
        if kind != REGULAR:
            size = 0  # links, directories and devices have no content, whatever the field says
        self._check(name, link, size, uid, gid)
        self._left, self._padding = size, -size % BLOCK_SIZE
        return Entry(
            name, kind, self._number(block[100:108]) & 0o7777, uid, gid, size, mtime_ns, link,
            self._number(block[329:337]) if kind in b"34" else 0,
            self._number(block[337:345]) if kind in b"34" else 0, xattrs,
        )  # fmt: skip

    def _kind(self, kind: bytes, name: bytes) -> bytes:
        if kind in (b"\0", b"7"):
            kind = REGULAR
        if kind == REGULAR and name.endswith(b"/"):
            return DIRECTORY  # before POSIX a directory was a file whose name ends in a slash
        if kind not in (REGULAR, HARDLINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO):
            raise self._bad(f"{name[:80]!r} has type {kind!r}, which is not taken")
        return kind

    def _check(self, name: bytes, link: bytes, size: int, uid: int, gid: int) -> None:
        if not name or b"\0" in name or b"\0" in link:
            raise self._bad(f"{name[:80]!r} is not a name")
        if len(name) > NAME_MAX or len(link) > NAME_MAX:
            raise self._bad(f"a name of {max(len(name), len(link))} bytes")
        if size > self._limits.bytes:
            raise self._bad(f"{name[:80]!r} is larger than {self._limits.bytes} bytes")
        if uid > _ID_MAX or gid > _ID_MAX:
            raise self._bad(f"{name[:80]!r} belongs to {uid}:{gid}")

    def _decimal(self, pax: dict[bytes, bytes], key: bytes, default: int) -> int:
        text = pax.get(key)
        if text is None:
            return default
        if not text.isdigit() or len(text) > 20:
            raise self._bad(f"{key.decode()} is {text[:30]!r}")
        return int(text)

    def _time(self, text: bytes) -> int:
        """Nanoseconds of a pax time, a decimal of seconds."""
        whole, _, fraction = text.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(text) > 40:
            raise self._bad(f"mtime is {text[:40]!r}")
        seconds, nanoseconds = int(digits), int(fraction[:9].ljust(9, b"0"))
        if seconds > _SECONDS_MAX:
            raise self._bad(f"mtime is {text[:40]!r}")
        total = seconds * 1_000_000_000 + nanoseconds
        return -total if whole.startswith(b"-") else total

    def _old_time(self, block: bytes) -> int:
        """GNU tar writes times before 1970, and after 2242, in base-256."""
        value: int = tarfile.nti(block[136:148])  # type: ignore[attr-defined]
        if abs(value) > _SECONDS_MAX:
            raise self._bad(f"mtime is {value}")
        return value * 1_000_000_000
