"""User namespaces: ranges of ids in, a namespace with these maps and others that belong to it out, as descriptors.

A namespace is made by a child that lives only until its descriptors are open: who goes on in it keeps the host's rights
until the last step. Ids are mapped for mounts, too, so files keep the container's own ids on disk (mount_setattr(2),
MOUNT_ATTR_IDMAP). Standard library only: shims run on this. Source: user_namespaces(7).
"""

from __future__ import annotations

import os
import sys

from pystack.kernel import mounts
from pystack.kernel import syscalls as sc
from pystack.kernel.process import open_namespace

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Sequence

    Ranges = Sequence[Sequence[int]]  # [first id inside, first id on the host, count]

KINDS = {"net": sc.CLONE_NEWNET, "ipc": sc.CLONE_NEWIPC, "uts": sc.CLONE_NEWUTS}
_MAXIMUM = 65535  # ids of a container that has all of 16 bits


def to_host(ranges: Ranges, number: int) -> int:
    """The host's id for one of the container's; -1 when it has none."""
    for inside, outside, count in ranges:
        if inside <= number < inside + count:
            return outside + number - inside
    return -1


def make(uid_map: Ranges, gid_map: Ranges, kinds: Sequence[str], user: int = -1) -> dict[str, int]:
    """Descriptors: "user", a new namespace or `user` itself, and one for each of `kinds` (net, ipc, uts), owned by it.

    Only for single-threaded processes with the host's rights. OSError where the host allows no user namespaces.
    """
    flags = sum(KINDS[kind] for kind in kinds)
    ready, done = os.pipe(), os.pipe()
    pid = sc.clone3(flags | sc.CLONE_NEWUSER if user < 0 else 0)
    if pid == 0:
        _hold(ready, done, user, flags)
    for fd in (ready[1], done[0]):
        os.close(fd)
    try:
        if not os.read(ready[0], 1):
            raise OSError(1, "cannot join the user namespace of the other container")
        if user < 0:
            write_maps(pid, uid_map, gid_map)
        found = {kind: open_namespace(pid, kind) for kind in kinds}
        return {"user": open_namespace(pid, "user") if user < 0 else user, **found}
    finally:
        for fd in (ready[0], done[1]):
            os.close(fd)
        os.waitpid(pid, 0)


def _hold(ready: tuple[int, int], done: tuple[int, int], user: int, flags: int) -> None:
    """The child: be in the namespaces until the parent lets go."""
    try:
        os.close(ready[0])
        os.close(done[1])
        if user >= 0:
            sc.setns(user, sc.CLONE_NEWUSER)
            sc.unshare(flags)
        os.write(ready[1], b"1")
        os.read(done[0], 1)
    finally:
        os._exit(0)


def write_maps(pid: int, uid_map: Ranges, gid_map: Ranges) -> None:
    """Map the ids of a process' fresh user namespace, once and for all."""
    for name, ranges in (("uid_map", uid_map), ("gid_map", gid_map)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, "".join(f"{a} {b} {n}\n" for a, b, n in ranges).encode())
        finally:
            os.close(fd)


def maps_of(pid: int) -> tuple[Ranges, Ranges]:
    """The uid and gid map of a process's user namespace, as the host's numbers (user_namespaces(7))."""
    found = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            found.append([[int(number) for number in line.split()] for line in file])
    return found[0], found[1]


def act_as(uid: int, gid: int) -> None:
    """Make files as this user from now on, with all the rights that the process has.

    Other ids take CAP_DAC_OVERRIDE and its like away (capabilities(7)), dumpability and the parent-death signal change:
    all are put back but the signal.
    """
    _, permitted = sc.capget()
    sc.setfsgid(gid)
    sc.setfsuid(uid)
    sc.capset(effective=permitted, permitted=permitted, inheritable=0)
    sc.prctl(sc.PR_SET_DUMPABLE, 0)


def enter(fd: int) -> None:
    """Join a user namespace (`fd` is one, or a pidfd) for good: all rights in it, none outside. Nobody may trace us."""
    sc.setns(fd, sc.CLONE_NEWUSER)
    sc.prctl(sc.PR_SET_DUMPABLE, 0)


def try_out(directories: Sequence[str]) -> None:
    """Whether containers with mapped ids can have their files here. OSError, with the path, when not. For a process of its own."""
    ranges = [[0, 100_000, _MAXIMUM + 1]]
    user = make(ranges, ranges, ())["user"]
    for directory in directories:
        try:
            tree = mounts.clone_tree(os.fsencode(directory), recursive=False)
            mounts.map_ids(tree, user, recursive=False)
        except OSError as error:
            raise OSError(error.errno, error.strerror, directory) from error


def main(arguments: Sequence[str]) -> int:
    """`python -m pystack.kernel.userns DIRECTORY…`: exit status 0, or the reason on standard error."""
    try:
        try_out(arguments)
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'user namespaces'}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
