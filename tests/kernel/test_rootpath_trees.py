"""Removing and copying whole trees: never through a mount or a link, any depth, everything kept."""

import ctypes
import os
import stat

import pytest

from pystack.kernel.rootpath import Root, remove_tree
from pystack.model.errors import Conflict

pytestmark = pytest.mark.kernel

_libc = ctypes.CDLL(None, use_errno=True)


def bind(source, target):
    assert _libc.mount(os.fsencode(source), os.fsencode(target), None, 0x1000, None) == 0, ctypes.get_errno()


def unmount(target):
    assert _libc.umount2(os.fsencode(target), 2) == 0, ctypes.get_errno()


@pytest.fixture
def mounted(tmp_path):
    """A tree with a bind mount of the same file system deep inside."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "token").write_text("secret")
    top = tmp_path / "tree"
    (top / "a" / "mnt point").mkdir(parents=True)
    (top / "a" / "file").write_text("x")
    bind(canary, top / "a" / "mnt point")
    yield top, canary
    unmount(top / "a" / "mnt point")
    remove_tree(top)
    assert not top.exists()
    assert (canary / "token").read_text() == "secret"


def test_removal_refuses_a_mount_and_deletes_nothing(mounted):
    top, canary = mounted
    for act in (lambda: remove_tree(top), lambda: remove_tree(top / "a" / "mnt point")):
        with pytest.raises(Conflict, match=r"is mounted at .*mnt point"):
            act()
    assert (top / "a" / "file").exists()
    assert (canary / "token").exists()


def test_removal_stops_at_a_mount_that_came_after_the_look(mounted, monkeypatch):
    top, canary = mounted
    monkeypatch.setattr("pystack.kernel.roottree.mount_points", list)
    with pytest.raises(Conflict, match="mnt point"):
        remove_tree(top)
    assert (canary / "token").exists()


def test_a_file_that_is_a_mount_point_is_refused(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "hosts").write_text("")
    bind("/etc/hostname", tmp_path / "t" / "hosts")
    try:
        monkeypatch.setattr("pystack.kernel.roottree.mount_points", list)
        with pytest.raises(Conflict, match="hosts"):
            remove_tree(tmp_path / "t")
    finally:
        unmount(tmp_path / "t" / "hosts")
    remove_tree(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_removal_does_not_follow_links(tmp_path):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("x")
    (tmp_path / "t" / "d").mkdir(parents=True)
    (tmp_path / "t" / "d" / "link").symlink_to(tmp_path / "keep")
    (tmp_path / "top").symlink_to(tmp_path / "keep")
    remove_tree(tmp_path / "t")
    remove_tree(tmp_path / "top")
    assert not os.path.lexists(tmp_path / "top")
    assert (tmp_path / "keep" / "file").exists()
    remove_tree(tmp_path / "missing" / "deeper")


def open_below(directory):
    """What this process holds open below a directory, removed or not."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
        if target.startswith(f"{directory}/"):
            found.append(target)
    return found


def test_a_very_deep_tree_is_removed(tmp_path):
    """1500 levels: more than descriptors, Python's recursion and PATH_MAX allow."""
    os.mkdir(tmp_path / "t")
    fd = os.open(tmp_path / "t", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("dddd", dir_fd=fd)
        below = os.open("dddd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(tmp_path / "t")
    assert not (tmp_path / "t").exists()
    assert open_below(tmp_path) == []


def _snapshot(root):
    found = {}
    for path, info in root.walk():
        links = info.st_nlink if not stat.S_ISDIR(info.st_mode) else 0
        found[path] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev, links)
    return found


def test_a_copy_keeps_everything(tmp_path):
    source, target = tmp_path / "s", tmp_path / "t"
    (source / "etc" / "sub").mkdir(parents=True)
    target.mkdir()
    (source / "etc" / "file").write_bytes(b"content")
    os.chown(source / "etc" / "file", 11, 12)
    os.chmod(source / "etc" / "file", 0o4755)
    os.setxattr(source / "etc" / "file", "user.note", b"kept")
    os.setxattr(source / "etc" / "sub", "trusted.overlay.opaque", b"y")
    os.link(source / "etc" / "file", source / "etc" / "sub" / "same")
    os.symlink("/etc/shadow", source / "etc" / "link")
    os.mkfifo(source / "etc" / "fifo")
    os.mknod(source / "etc" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open(source / "sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    os.utime(source / "etc" / "sub", ns=(5, 6))
    os.chmod(source / "etc", 0o1777)
    os.chown(source, 21, 22)
    (target / "sub").mkdir()
    with Root.open_host(source) as origin, Root.open_host(target) as root:
        root.copy_tree(origin, "/", "/sub/vol")
        with root.sub("sub/vol") as copied:
            assert _snapshot(copied) == _snapshot(origin)
            assert copied.read_file("etc/file") == b"content"
            assert copied.getxattrs("etc/file") == {"user.note": b"kept"}
            assert os.listxattr(target / "sub" / "vol" / "etc" / "sub") == []
            assert copied.readlink("etc/link") == b"/etc/shadow"
            assert copied.disk_usage() < 1 << 20
            assert os.stat(target / "sub" / "vol" / "sparse").st_size == (50 << 20) + 3
            assert os.fstat(copied.fd).st_uid == 21
        before = _snapshot(root)
        root.copy_tree(origin, ".", "sub/vol")  # again: replaced, the same
        assert _snapshot(root) == before


def test_a_copy_stays_out_of_links_in_the_target(tmp_path):
    for name in ("s/d", "t", "canary"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "s" / "d" / "f").write_text("x")
    (tmp_path / "t" / "d").symlink_to(tmp_path / "canary")
    with Root.open_host(tmp_path / "s") as origin, Root.open_host(tmp_path / "t") as root:
        root.copy_tree(origin, ".", ".")
    assert os.listdir(tmp_path / "canary") == []
    assert (tmp_path / "t" / "d" / "f").read_text() == "x"
