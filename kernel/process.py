"""Facts about processes from /proc, and the few places where a path must go through /proc/self/fd. Pids and fds in."""

from __future__ import annotations

import fcntl
import os
import select

from pystack.kernel import syscalls

#: rt_sigtimedwait(2) here, and on i386 with its two sizes of time; none of these numbers is another call that sleeps.
_SIGWAITS = {syscalls.NUMBERS["rt_sigtimedwait"], 177, 421}
_SUN_PATH = 107  # bytes of a socket's path, without the terminating NUL (unix(7))


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/<pid>/status (proc_pid_status(5)): `{"SigCgt": "0000000000010000", …}`."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def can_react_to(pid: int, signal: int) -> bool:
    """Whether the first process of a pid namespace can react to `signal` at all.

    The kernel drops signals with the default action for a namespace's init, and ignored ones for anyone (signal(7),
    pid_namespaces(7)). A blocked signal stays pending: sigwait or signalfd may be taking it. While a process sleeps in
    sigwait, its SigBlk shows the signals as not blocked, so that counts as a reaction to any. A process that is gone
    cannot react.
    """
    try:
        fields = status(pid)
        if _sleeps_in_sigwait(pid):
            return True
    except (FileNotFoundError, ProcessLookupError):
        return False
    bit = 1 << (signal - 1)
    caught, blocked = int(fields.get("SigCgt", "0"), 16), int(fields.get("SigBlk", "0"), 16)
    return bool((caught | blocked) & bit)


def _sleeps_in_sigwait(pid: int) -> bool:
    with open(f"/proc/{pid}/syscall", "rb") as file:
        number = file.read(8).split()[0]
    return number.isdigit() and int(number) in _SIGWAITS


def start_time(pid: int) -> int:
    """Clock ticks after boot at which the process started: with the pid it names a process for ever."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rsplit(b")", 1)[1].split()[19])


def parent(pid: int) -> int:
    """Pid of the parent process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rsplit(b")", 1)[1].split()[1])


def is_alive(pidfd: int) -> bool:
    """Whether the process has not ended yet (a pidfd is readable from then on, also while it is a zombie)."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return not poller.poll(0)


def open_namespace(pid: int, kind: str) -> int:
    """An fd of a namespace ("net", "pid", "mnt" …) of a process that the caller keeps from being reaped."""
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def has_user_namespace(pid: int) -> bool:
    """Whether a process is in another user namespace than the caller."""
    return not os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), os.stat("/proc/self/ns/user"))


def fd_path(fd: int) -> bytes:
    """A short path that names exactly the object behind `fd`, for calls that take only paths (mount(2), chmod(2))."""
    return b"/proc/self/fd/%d" % fd


def write_self(name: str, value: str) -> None:
    """Write to a file below /proc/self of the host's procfs: `oom_score_adj`, `attr/apparmor/exec`.

    Only before the caller has entered a container, whose /proc may be anything; checked all the same (CVE-2025-52881).
    """
    fd = os.open(f"/proc/thread-self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if syscalls.fstatfs_type(fd) != syscalls.PROC_SUPER_MAGIC:
            raise OSError(1, "is not on procfs", f"/proc/thread-self/{name}")
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class socket_address:  # noqa: N801 - used as a function; contextlib is more than the launcher shall carry
    """An address for bind(2) or connect(2) that fits in sun_path, however long `path` is: `with … as address`."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path, self._fd = path, -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= _SUN_PATH:
            return self._path
        directory, name = os.path.split(self._path)
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def sealed_copy(path: str) -> int:
    """A memfd with the content of `path` that nobody can ever change, to execute in place of it (CVE-2019-5736)."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memfd = os.memfd_create(os.path.basename(path), flags | syscalls.MFD_EXEC)
    except OSError as error:
        if error.errno != 22:
            raise
        memfd = os.memfd_create(os.path.basename(path), flags)  # before Linux 6.3 every memfd is executable
    with open(path, "rb") as source:
        while os.sendfile(memfd, source.fileno(), None, 1 << 30):
            pass
    fcntl.fcntl(memfd, syscalls.F_ADD_SEALS, syscalls.F_SEAL_ALL)
    return memfd
