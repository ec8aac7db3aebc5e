"""The tar reader: it reads what GNU tar and Python write as they do, and anything else is our own error."""

from __future__ import annotations

import io
import tarfile

import images
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystack.image.compression import decompress
from pystack.image.tarstream import Entry, Limits, Source, TarReader
from pystack.model.errors import InvalidInput

LIMITS = Limits(bytes=1 << 24, entries=1000)


class Dribble:
    """Gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, size: int) -> None:
        self._stream = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._size))


def entries(data: bytes, size: int = 1 << 20, limits: Limits = LIMITS) -> list[tuple[Entry, bytes]]:
    source = Source(Dribble(data, size), "it", limits.bytes)
    reader = TarReader(source, "it", limits)
    found = [(entry, b"".join(map(bytes, reader.content()))) for entry in reader]
    source.drain()
    return found


MEMBERS = [
    images.directory("d", 0o2755, uid=1000, gid=2**31),
    images.member("d/" + "long" * 60, b"content" * 1000, mode=0o4711, mtime=-5),
    images.member("d/ünï", b"x"),
    images.symlink("d/link", "target" * 40),
    images.hardlink("d/hard", "d/ünï"),
    images.member("null", type=tarfile.CHRTYPE, device=(1, 3)),
    images.member("empty"),
]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("size", [7, 512, 1 << 20])
def test_it_reads_what_python_writes(format: int, size: int) -> None:
    data = images.tar(MEMBERS, format)
    found = entries(data, size)
    assert len(found) == len(MEMBERS)
    for (entry, content), (info, wanted) in zip(found, MEMBERS, strict=True):
        assert entry.name.rstrip(b"/") == info.name.encode()
        assert entry.link == info.linkname.encode()
        assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert entry.mtime_ns == info.mtime * 1_000_000_000
        assert (entry.type, content) == (info.type, wanted)
        assert (entry.major, entry.minor) == (info.devmajor, info.devminor)


def test_times_have_nanoseconds_and_global_headers_count() -> None:
    stamped = images.member("a", pax={"mtime": "1700000000.123456789"})
    assert entries(images.tar([stamped]))[0][0].mtime_ns == 1_700_000_000_123_456_789
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"SCHILY.xattr.user.x": "1"}
    ) as archive:
        archive.addfile(images.member("a")[0])
    assert entries(out.getvalue())[0][0].xattrs == {"user.x": b"1"}


def test_content_that_is_not_read_is_skipped() -> None:
    data = images.tar([images.member("a", b"1" * 5000), images.member("b", b"2")])
    reader = TarReader(Source(Dribble(data, 100), "it", 1 << 20), "it", LIMITS)
    assert [entry.name for entry in reader] == [b"a", b"b"]


@pytest.mark.parametrize("cut", [1, 511, 513, 1000, 1537, 1700])
def test_an_archive_cut_short_is_an_error(cut: int) -> None:
    data = images.tar([images.member("a", b"1" * 700), images.member("b", b"2" * 700)])
    with pytest.raises(InvalidInput, match="ends too early"):
        entries(data[:cut])


def test_limits_hold() -> None:
    many = images.tar([images.member(f"f{n}") for n in range(11)])
    with pytest.raises(InvalidInput, match="more than 10 entries"):
        entries(many, limits=Limits(bytes=1 << 24, entries=10))
    big = images.tar([images.member("a", bytes(100_000))])
    with pytest.raises(InvalidInput, match="larger than 50000 bytes"):
        entries(big, size=1000, limits=Limits(bytes=50_000, entries=10))
    header = images.member("a")[0].tobuf(tarfile.GNU_FORMAT)
    assert len(header) == 512
    bomb = tarfile.TarInfo("././@LongLink")
    bomb.type, bomb.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    with pytest.raises(InvalidInput, match="an extended header of"):
        entries(bomb.tobuf(tarfile.GNU_FORMAT) + header)


@pytest.mark.parametrize(
    "record",
    [b"9 path=ab", b"12 path=ab\n", b"0 path=a\n", b"-5 a=b\n", b"99999999999999999999 a=b\n", b"x a=b\n", b"6 a b\n", b"5 =b\n", b"\xff" * 20],
)  # fmt: skip
def test_malformed_extended_headers(record: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    data = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + images.tar([images.member("a")])
    with pytest.raises(InvalidInput):
        entries(data)


BASE = images.tar(MEMBERS)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(1, 5000),
)
def test_any_damage_is_our_own_error_or_none(damage: list[tuple[int, int]], size: int) -> None:
    data = bytearray(BASE)
    for at, value in damage:
        data[at] = value
    try:
        found = entries(bytes(data), size)
    except InvalidInput:
        return
    assert all(entry.name and b"\0" not in entry.name for entry, _ in found)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=3000), st.sampled_from([b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
)
def test_any_bytes_are_our_own_error_or_nothing(data: bytes, magic: bytes) -> None:
    source = Source(decompress(Dribble(magic + data, 100))[1], "it", 1 << 20)
    found = None
    try:
        found = list(TarReader(source, "it", LIMITS))
        source.drain()
    except InvalidInput:
        assert source.total <= 1 << 21
    assert not found or data.startswith(bytes(512)) or found[0].name
