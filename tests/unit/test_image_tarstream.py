"""The tar reader: it reads what GNU tar and Python write as they do, and anything else is our own error."""

from __future__ import annotations

import io
import tarfile

import images
import pytest
from tars import LIMITS, MEMBERS, Dribble, entries

from pystack.image.tarstream import Limits, Source, TarReader
from pystack.model.errors import InvalidInput


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
