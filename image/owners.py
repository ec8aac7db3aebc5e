"""Owners of files in a tree whose ids are mapped: numbers of the container in, numbers of the host out, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pystack.model.errors import InvalidInput

#: Whom the kernel shows where an id has no number of its own (/proc/sys/kernel/overflowuid).
NOBODY = 65534
Ranges = Sequence[Sequence[int]]  # [first id inside, first on the host, count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """The maps of a user namespace; without any, ids are the host's."""

    uid: Ranges = ((0, 0, 0xFFFFFFFF),)
    gid: Ranges = ((0, 0, 0xFFFFFFFF),)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids for the host's."""
        return _inside(self.uid, uid), _inside(self.gid, gid)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids for the container's. InvalidInput for one that the container does not have."""
        return _outside(self.uid, uid), _outside(self.gid, gid)


def _inside(ranges: Ranges, number: int) -> int:
    for inside, outside, count in ranges:
        if outside <= number < outside + count:
            return inside + number - outside
    return NOBODY


def _outside(ranges: Ranges, number: int) -> int:
    for inside, outside, count in ranges:
        if inside <= number < inside + count:
            return outside + number - inside
    raise InvalidInput(f"cannot give a file to id {number}: the container's user namespace has no such id")


HOST = Owners()
