"""Network namespaces by file descriptor: run a function inside one, make one, compare two.

A namespace is entered only between two setns(2) calls of one thread, with nothing awaited in between, so the event
loop never runs in a container's network. Sources: setns(2), network_namespaces(7).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from pystack.kernel import syscalls

_T = TypeVar("_T")
_OWN = "/proc/thread-self/ns/net"


def own() -> int:
    """An fd of the calling thread's network namespace; the caller closes it."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def run_in(netns_fd: int, function: Callable[[], _T]) -> _T:
    """`function()` inside the namespace. It must not await, start threads, or import what needs the host's network.

    Sockets made inside stay in that namespace for their life. When the way back fails the process aborts: to go on in
    a container's network would be worse than to die (containers outlive the daemon).
    """
    home = own()
    try:
        syscalls.setns(netns_fd, syscalls.CLONE_NEWNET)
        try:
            return function()
        finally:
            try:
                syscalls.setns(home, syscalls.CLONE_NEWNET)
            except OSError:
                os.abort()
    finally:
        os.close(home)


def create() -> int:
    """A fresh namespace that lives as long as its fd or a process in it. Made by a thread that ends at once (no fork)."""
    box: list[int | BaseException] = []

    def make() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            box.append(own())
        except OSError as error:
            box.append(error)

    # A thread that entered a namespace never goes back to a pool (DESIGN, trap 7).
    thread = threading.Thread(target=make, name="new-netns")
    thread.start()
    thread.join()
    made = box[0]
    if isinstance(made, BaseException):
        raise made
    return made


def same(first: int, second: int) -> bool:
    """Whether two fds name one namespace."""
    return os.path.samestat(os.fstat(first), os.fstat(second))
