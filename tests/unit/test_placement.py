"""The hint to the allocator: taken where there is one, refused quietly elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pystack.kernel.placement import spread_children


def _file_system(path: str) -> str:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return max((m for m in mounts if path.startswith(m[1])), key=lambda m: len(m[1]))[2]


def test_where_there_is_no_hint_nothing_happens() -> None:
    assert _file_system("/proc/self") == "proc"
    assert spread_children("/proc/self") is False


def test_ext4_takes_the_hint_twice() -> None:
    place = tempfile.mkdtemp(dir="/var/tmp")
    try:
        taken = spread_children(place)
        assert taken is spread_children(place)
        assert taken or _file_system(place) not in {"ext2", "ext3", "ext4"}
        (Path(place) / "child").mkdir()
    finally:
        shutil.rmtree(place)
