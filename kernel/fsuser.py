"""Reading files as somebody else: a thread whose file accesses are checked against another user's rights.

In come a user's ids, out comes a context for the calling thread. Only the file-system ids change (setfsuid(2)): with a
foreign fsuid the kernel also takes CAP_DAC_OVERRIDE and its like away, but the user gets no right to signal or trace the
thread, as setresuid(2) would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pystack.kernel import syscalls
from pystack.model.errors import EngineError


def _set(call: str, identity: int) -> int:
    """Set one id. Both calls report no errors: they return the id that was in force before."""
    return int(getattr(syscalls.libc, call)(identity))


@contextmanager
def file_access_of(uid: int, gid: int, groups: list[int]) -> Iterator[None]:
    """Within, the calling thread opens files with the rights of this user. For a thread of its own: its groups are changed for good."""
    syscalls.setgroups(groups)
    _set("setfsgid", gid)
    _set("setfsuid", uid)
    if _set("setfsuid", uid) != uid or _set("setfsgid", gid) != gid:
        raise EngineError(f"cannot read files as user {uid}: the kernel refused the change of ids")
    try:
        yield
    finally:
        _set("setfsuid", 0)
        _set("setfsgid", 0)
