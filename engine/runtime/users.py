"""Who a process runs as: a `user` string and the container's /etc/passwd and /etc/group in, numbers out.

Own parsers on bytes: `pwd`, `grp` and codecs would load the container's code or the host's users (CVE-2019-14271).
The files are read inside the root, must be regular, and are capped (CVE-2026-47262). A name is looked up before it is
taken for a number, as Docker does; numbers are 0 … 2^31-1 (CVE-2024-40635).
"""

from __future__ import annotations

import os
import stat

from pystack.kernel.mounts import open_in_root

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_FILE = 1024 * 1024  # bytes
_READ = 16 * 1024  # at once: a buffer for the whole file would be mapped and unmapped for every process
_MAX_ID = 2**31 - 1


class UserError(Exception):
    """The user or group cannot be resolved; the text is Docker's."""


class Identity:
    """What a process runs as. `groups`: supplementary, without duplicates, the primary one first."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: bytes) -> None:
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


def read_database(root: int, path: bytes) -> bytes:
    """The file's content, or nothing if the container has no such file. UserError if it is not an honest file."""
    name = path.decode()
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UserError(f"cannot read {name}: not a regular file")
        content = b""
        while chunk := os.read(fd, _READ):
            content += chunk
            if len(content) > _MAX_FILE:
                raise UserError(f"cannot read {name}: larger than {_MAX_FILE} bytes")
        return content
    finally:
        os.close(fd)


def _rows(content: bytes, width: int) -> Iterator[list[bytes]]:
    for line in content.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) >= width and not line.startswith(b"#"):
            yield fields


def _number(text: bytes) -> int:
    """A decimal id, or -1. Only ASCII digits: int() would take "+1", "1_0" and spaces."""
    if text.isdigit() and len(text) <= 10 and (value := int(text)) <= _MAX_ID:
        return value
    return -1


def _is_numeric(text: bytes) -> bool:
    return text.lstrip(b"-+").isdigit()


def resolve(passwd: bytes, group: bytes, user: str, group_add: Sequence[str]) -> Identity:
    """Identity for `user`: "", "name", "uid", "name:group", "uid:gid" in any mix.

    With an explicit group the memberships of /etc/group do not count, as in Docker; `group_add` always does.
    """
    name, _, group_name = user.encode().partition(b":")
    name = name or b"0"
    row = _find_user(passwd, name)
    if row:
        uid, gid = _number(row[2]), _number(row[3])
        login, home = row[0], row[5] or b"/"
    else:
        uid, gid, login, home = _number(name), 0, b"", b"/"
    if uid < 0 or gid < 0:
        if _is_numeric(name):
            raise UserError(f"uids and gids must be in range 0-{_MAX_ID}")
        raise UserError(f"unable to find user {name.decode()}: no matching entries in passwd file")
    if group_name:
        gid = _find_group(group, group_name)
        groups = [gid]
    else:
        groups = [gid, *_memberships(group, login)]
    groups += [_find_group(group, extra.encode()) for extra in group_add]
    return Identity(uid, gid, list(dict.fromkeys(groups)), home)


def _find_user(passwd: bytes, name: bytes) -> list[bytes] | None:
    by_number = None
    number = _number(name)
    for row in _rows(passwd, 7):
        if row[0] == name:
            return row
        if by_number is None and number >= 0 and _number(row[2]) == number:
            by_number = row
    return by_number


def _find_group(group: bytes, name: bytes) -> int:
    for row in _rows(group, 3):
        if row[0] == name and (gid := _number(row[2])) >= 0:
            return gid
    gid = _number(name)
    if gid >= 0:
        return gid
    if _is_numeric(name):
        raise UserError(f"uids and gids must be in range 0-{_MAX_ID}")
    raise UserError(f"Unable to find group {name.decode()}: no matching entries in group file")


def _memberships(group: bytes, login: bytes) -> list[int]:
    if not login:
        return []
    return [gid for row in _rows(group, 4) if login in row[3].split(b",") and (gid := _number(row[2])) >= 0]
