"""Paths of a hostile tree never lead outside: links, "..", magic links, races; and metadata goes to the entry itself."""

import os
import stat
import threading

import pytest

from pystack.kernel.rootpath import Root

pytestmark = pytest.mark.kernel


@pytest.fixture
def tree(tmp_path):
    """A tree with the usual traps, beside a canary directory that must never change."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "token").write_text("secret")
    top = tmp_path / "root"
    top.mkdir()
    (top / "real").mkdir()
    (top / "real" / "file").write_text("inside")
    (top / "evil").symlink_to(canary)
    (top / "up").symlink_to("../../../../canary")
    (top / "absolute").symlink_to("/real")
    (top / "token").symlink_to(canary / "token")
    (top / "loop").symlink_to("loop")
    with Root.open_host(top) as root:
        yield root, top, canary
    assert sorted(os.listdir(canary)) == ["token"]
    assert (canary / "token").read_text() == "secret"
    assert stat.S_IMODE(os.stat(canary / "token").st_mode) == 0o644
    assert os.stat(canary / "token").st_nlink == 1


def test_absolute_links_and_dotdot_stay_inside(tree):
    root, _, _ = tree
    assert root.read_file("/absolute/file") == b"inside"
    assert root.read_file(b"../../../../real/../absolute/file") == b"inside"
    for path in ("evil/token", "up/token", "token", "/../../canary/token"):
        with pytest.raises(FileNotFoundError):
            root.open(path)


def test_creation_through_links_happens_inside(tree):
    root, top, canary = tree
    root.mkdir("evil/new/deep")  # the link dangles in-root: what it points at is made below the top
    made = top / str(canary).lstrip("/") / "new" / "deep"
    assert made.is_dir()
    root.mkdir("a/../b/./c", 0o750, 7, 8)
    info = os.stat(top / "b" / "c")
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o750, 7, 8)


def test_a_file_replaces_a_link_and_does_not_follow_it(tree):
    root, top, canary = tree
    (top / "hosts").symlink_to(canary / "token")
    root.write_file("hosts", b"127.0.0.1 localhost\n", 0o644, 5, 6)
    info = os.lstat(top / "hosts")
    assert stat.S_ISREG(info.st_mode)
    assert (info.st_uid, info.st_gid) == (5, 6)
    assert not [name for name in os.listdir(top) if "tmp" in name]
    with pytest.raises(IsADirectoryError):
        root.write_file("real", b"")


def test_metadata_is_the_links_own(tree):
    root, top, canary = tree
    before = os.stat(canary / "token")
    root.chown("token", 3, 4)
    root.utime("token", 1, 2)
    assert os.lstat(top / "token").st_uid == 3
    assert os.lstat(top / "token").st_mtime_ns == 2
    with pytest.raises(OSError, match="not supported"):
        root.chmod("token", 0o777)
    after = os.stat(canary / "token")
    assert (after.st_uid, after.st_mtime_ns, after.st_mode) == (
        before.st_uid,
        before.st_mtime_ns,
        before.st_mode,
    )


def test_hard_links_take_the_symlink_itself(tree):
    root, top, _ = tree
    root.link("token", "copy")
    assert os.path.islink(top / "copy")
    with pytest.raises(FileNotFoundError):
        root.link("evil/token", "copy2")


def test_magic_links_and_loops_are_refused(tree):
    with Root.open_host("/proc") as proc, pytest.raises(OSError, match="symbolic links"):
        proc.open("self/root/etc/hostname")
    root, _, _ = tree
    with pytest.raises(OSError, match="symbolic links"):
        root.open("loop")
    assert not root.exists("loop")


def test_paths_that_name_nothing(tree):
    root, _, _ = tree
    for path in ("", "/", ".", "real/..", "a\0b"):
        with pytest.raises(OSError, match="cannot use"):
            root.unlink(path)
    with pytest.raises(OSError, match="NUL"):
        root.open("real\0/file")


def test_special_files_do_not_block_a_read(tree):
    root, top, _ = tree
    os.mkfifo(top / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        root.read_file("fifo")
    (top / "big").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="more than 99 bytes"):
        root.read_file("big", limit=99)
    assert root.read_file("big", limit=100) == b"x" * 100


def test_names_that_look_like_whiteouts_are_only_names(tree):
    root, top, _ = tree
    for name in (".wh.", ".wh..", ".wh..wh..opq", "real/.wh.file"):
        root.write_file(name, b"w")
        assert root.read_file(name) == b"w"
    root.rmtree(".wh..")
    assert (top / "real" / "file").exists()
    odd = b"\xff\xfe name"
    root.write_file(odd, b"bytes")
    assert odd in root.listdir()


def test_a_racing_directory_never_leads_outside(tree):
    """A container swaps a directory with a link to the canary while we write and make directories below it."""
    root, top, canary = tree
    (top / "swap").mkdir()
    (top / "other").symlink_to(canary)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            os.rename(top / "swap", top / "kept")
            os.rename(top / "other", top / "swap")
            os.rename(top / "swap", top / "other")
            os.rename(top / "kept", top / "swap")

    racer = threading.Thread(target=swap)
    racer.start()
    wrote = 0
    try:
        for _ in range(1500):
            try:
                root.write_file("swap/token", b"overwritten")
                wrote += 1
                root.mkdir("swap/new", parents=False)
                root.rmtree("swap/new")
            except OSError:
                continue
    finally:
        stop.set()
        racer.join()
    assert wrote > 0


def test_no_xdev_stops_at_mounts():
    with Root.open_host("/", no_xdev=True) as root, pytest.raises(OSError, match="cross-device"):
        root.open("proc/version")
