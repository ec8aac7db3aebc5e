"""A container's whole tree for those who are not in it: a namespace, or the parts of a root, in; a descriptor of "/" out.

A path of a container means what the container's own mounts make of it, so it must be walked among those: of a running one
in its mount namespace; of one that does not run, in a namespace put together here from the same parts. Only a thread that
is made for it, and ends at once, ever enters such a namespace; it makes three system calls there and loads nothing
(CVE-2019-14271). All else goes through kernel.rootpath on the descriptor that it brings back. docs/adr/0011.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pystack.kernel import mounts
from pystack.kernel import syscalls as sc

_TOP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A host path (trusted, its links are followed) that is mounted at `target` of the container.

    `subpath` is resolved below the source, whose content is not trusted.
    """

    source: str
    target: str
    subpath: str = ""
    read_only: bool = False
    recursive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a container's root is made of: directories of layers, topmost first, and its own upper and work directory.

    With `scratch` nothing that is changed in the tree, mount points that have to be made among it, stays. `place` is any
    directory; the tree is mounted on it where nobody sees it.
    """

    lower: Sequence[str]
    upper: str
    work: str
    place: str
    attachments: Sequence[Attachment] = ()
    read_only: bool = False
    scratch: bool = True


class Tree:
    """`fd` is "/" of the tree (O_PATH). `namespace` keeps the mounts below it alive. Close it, or use it with `with`."""

    __slots__ = ("_namespace", "fd")

    def __init__(self, fd: int, namespace: int) -> None:
        self.fd, self._namespace = fd, namespace

    def close(self) -> None:
        for fd in (self.fd, self._namespace):
            if fd >= 0:
                os.close(fd)
        self.fd = self._namespace = -1

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _elsewhere(work: Callable[[], Tree]) -> Tree:
    """`work()` in a thread of its own, whose namespaces nobody else shares and nobody gets back."""
    made: list[Tree] = []
    failed: list[BaseException] = []

    def main() -> None:
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=main, name="tree")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def of_namespace(namespace: int) -> Tree:
    """The tree as the processes of a mount namespace see it. Takes over the descriptor."""

    def enter() -> Tree:
        sc.unshare(sc.CLONE_FS)  # setns(2) needs a root and a working directory of its own
        sc.setns(namespace, sc.CLONE_NEWNS)
        return Tree(os.open(b"/", _TOP), namespace)

    return _taking(namespace, enter)


def root_of_namespace(namespace: int) -> Tree:
    """The root file system alone, without what is mounted in it: what belongs to the container. Takes the descriptor."""

    def enter() -> Tree:
        sc.unshare(sc.CLONE_FS)
        sc.setns(namespace, sc.CLONE_NEWNS)
        return Tree(sc.open_tree(sc.AT_FDCWD, b"/", sc.OPEN_TREE_CLONE), namespace)

    return _taking(namespace, enter)


def _taking(namespace: int, work: Callable[[], Tree]) -> Tree:
    try:
        return _elsewhere(work)
    except BaseException:
        os.close(namespace)
        raise


def assemble(parts: Parts) -> Tree:
    """Mount the parts in a new mount namespace. OSError with the path that is at fault."""
    return _elsewhere(lambda: _assemble(parts))


def _assemble(parts: Parts) -> Tree:
    with ExitStack() as undo:

        def keep(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        sc.unshare(sc.CLONE_NEWNS)
        os.umask(0)  # of this thread alone from here on: mount points that are made have the modes of others
        namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        with ExitStack() as lost:
            lost.callback(os.close, namespace)
            sc.mount(None, b"/", None, sc.MS_REC | sc.MS_PRIVATE)
            sources = [keep(_source(attachment)) for attachment in parts.attachments]
            overlay = keep(_overlay(parts))
            place = os.fsencode(parts.place)
            sc.move_mount(overlay, sc.AT_FDCWD, place)
            root = os.open(place, _TOP)
            lost.callback(os.close, root)
            for attachment, source in zip(parts.attachments, sources, strict=True):
                _attach(root, attachment, source)
            if parts.read_only:
                mounts.set_readonly(root, recursive=False)
            # The host's mounts leave this namespace, or they would be busy for as long as somebody reads.
            os.fchdir(root)
            sc.pivot_root(b".", b".")
            sc.umount2(b".", sc.MNT_DETACH)
            lost.pop_all()
        return Tree(root, namespace)


def _source(attachment: Attachment) -> int:
    """A detached bind mount of what an attachment names."""
    path = os.fsencode(attachment.source)
    if not attachment.subpath:
        return mounts.clone_tree(path, recursive=attachment.recursive)
    top = os.open(path, _TOP)
    try:
        below = mounts.open_in_root(top, os.fsencode(attachment.subpath))
    finally:
        os.close(top)
    try:
        return mounts.clone_tree(below, recursive=attachment.recursive)
    finally:
        os.close(below)


def _overlay(parts: Parts) -> int:
    """The detached overlay of the parts; nothing in it is ever run or opened as a device."""
    lower = [os.fsencode(path) for path in parts.lower]
    upper, work = os.fsencode(parts.upper), os.fsencode(parts.work)
    if parts.scratch:
        lower.insert(0, upper)
        place = os.fsencode(parts.place)
        sc.mount(b"tmpfs", place, b"tmpfs", 0, b"size=1m,mode=755")
        upper, work = place + b"/u", place + b"/w"
        _copy_of(os.fsencode(parts.upper), upper)
        os.mkdir(work, 0o700)
    tree = mounts.overlay(lower, upper, work)
    sc.mount_setattr(tree, set_=sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV, propagation=sc.MS_PRIVATE)
    return tree


def _copy_of(path: bytes, target: bytes) -> None:
    """The merged "/" has the owner and mode of the upper directory."""
    info = os.stat(path)
    os.mkdir(target, 0o700)
    os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))


def _attach(root: int, attachment: Attachment, source: int) -> None:
    """Mount the detached `source` where the tree itself leads: a link in it stays in it (CVE-2026-41568)."""
    directory = stat.S_ISDIR(os.fstat(source).st_mode)
    target = mounts.make_in_root(root, os.fsencode(attachment.target), directory=directory)
    try:
        if attachment.read_only:
            mounts.set_readonly(source, recursive=attachment.recursive)
        sc.mount_setattr(source, propagation=sc.MS_PRIVATE, recursive=attachment.recursive)
        sc.move_mount(source, target)
    finally:
        os.close(target)
