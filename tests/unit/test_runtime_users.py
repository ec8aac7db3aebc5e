"""Who a process runs as: `user` strings against the container's own passwd and group files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pystack.engine.runtime.users import UserError, read_database, resolve

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
alice:x:1000:1001::/home/alice:/bin/sh
# carol:x:7:7::/:
broken line
dave:x:99999999999:5::/home/dave:/bin/sh
1234:x:42:42::/home/number:/bin/sh
nohome:x:50:50:::/bin/sh
"""
GROUP = b"root:x:0:\nalice:x:1001:\naudio:x:29:alice,bob\nusers:x:100:bob,alice\nodd:x:-5:alice\n"


@pytest.mark.parametrize(
    ("user", "add", "expected"),
    [
        ("", [], (0, 0, [0], b"/root")),
        ("root", [], (0, 0, [0], b"/root")),
        ("alice", [], (1000, 1001, [1001, 29, 100], b"/home/alice")),
        ("1000", [], (1000, 1001, [1001, 29, 100], b"/home/alice")),
        ("alice:audio", [], (1000, 29, [29], b"/home/alice")),
        ("1000:1000", [], (1000, 1000, [1000], b"/home/alice")),
        ("2000", [], (2000, 0, [0], b"/")),
        ("2000:audio", ["users", "7"], (2000, 29, [29, 100, 7], b"/")),
        ("alice", ["29", "audio"], (1000, 1001, [1001, 29, 100], b"/home/alice")),
        ("1234", [], (42, 42, [42], b"/home/number")),
        ("nohome", [], (50, 50, [50], b"/")),
        ("2147483647", [], (2147483647, 0, [0], b"/")),
    ],
)
def test_resolve(user: str, add: list[str], expected: tuple) -> None:
    found = resolve(PASSWD, GROUP, user, add)
    assert (found.uid, found.gid, found.groups, found.home) == expected


@pytest.mark.parametrize(
    ("user", "add", "message"),
    [
        ("bob", [], "unable to find user bob: no matching entries in passwd file"),
        ("carol", [], "unable to find user carol"),
        ("dave", [], "unable to find user dave"),
        ("alice:nope", [], "Unable to find group nope: no matching entries in group file"),
        ("alice", ["nope"], "Unable to find group nope"),
        ("4294967296", [], "must be in range 0-2147483647"),
        ("2147483648", [], "must be in range"),
        ("-1", [], "must be in range"),
        ("0:4294967296", [], "must be in range"),
        ("1_0", [], "unable to find user"),
        (" 5", [], "unable to find user"),
        ("٣", [], "unable to find user"),
    ],
)
def test_refused(user: str, add: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(PASSWD, GROUP, user, add)


def test_without_files() -> None:
    assert resolve(b"", b"", "", []).uid == 0
    assert resolve(b"", b"", "5:6", []).gid == 6


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root/etc").mkdir(parents=True)
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_only_honest_files_inside_the_root_are_read(root: int, tmp_path: Path) -> None:
    etc = tmp_path / "root/etc"
    assert read_database(root, b"/etc/passwd") == b""
    (tmp_path / "secret").write_text("alice:x:4242:4242::/:\n")
    (etc / "passwd").symlink_to(tmp_path / "secret")
    assert read_database(root, b"/etc/passwd") == b""
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("../../../../../../secret")
    assert read_database(root, b"/etc/passwd") == b""
    (etc / "real").write_bytes(b"here")
    (etc / "group").symlink_to("/etc/real")
    assert read_database(root, b"/etc/group") == b"here"
    os.mkfifo(etc / "fifo")
    with pytest.raises(UserError, match="not a regular file"):
        read_database(root, b"/etc/fifo")
    (etc / "big").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(UserError, match="larger than"):
        read_database(root, b"/etc/big")
