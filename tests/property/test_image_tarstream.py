"""The tar reader on damaged archives and on any bytes: entries or our own error, never anything else."""

from __future__ import annotations

import images
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import LIMITS, MEMBERS, Dribble, entries

from pystack.image.compression import decompress
from pystack.image.tarstream import Source, TarReader
from pystack.model.errors import InvalidInput

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
