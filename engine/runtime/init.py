"""Our own init for `init: true`: PID 1 forks the program, hands signals on, reaps orphans, exits as the program did.

It is confined exactly as the program is before it forks (same user, capabilities, seccomp filter) and holds no
descriptor. Then it becomes a static program of 134 bytes (init_x86_64.S), executed from a sealed memfd, so that nothing
of the engine stays in the container. Where that cannot be (another machine, a seccomp profile without execveat) the same
loop runs in Python. See docs/adr/0004-init.md.
"""

from __future__ import annotations

import fcntl
import os
import struct

from pystack.kernel import syscalls as sc

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # without the enumerations of `signal`, for the sake of small forks

#: Raised by the process itself when it is broken: blocking them would turn a crash into an endless loop.
_SYNCHRONOUS = {
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
}
_CATCHABLE = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP} - _SYNCHRONOUS
#: The terminal's job control stops the program, not its init.
_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}

CODE = {
    "x86_64": bytes.fromhex(
        "488b74241031db0fb60684c0740c6bdb0a8d5c03d048ffc6ebed6aff4889e731f631d241ba08000000b8800000000f055985c078e583f811"
        "74158d48ec83f90276d889df89c6b83e0000000f05ebcb6a00bfffffffff4889e6ba010000004531d2b83d0000000f055985c07ead39d875"
        "de0fb6fd83e17f74068db980000000b8e70000000f05"
    )
}
_BASE = 0x400000
_EM_X86_64 = 62


def program(code: bytes) -> bytes:
    """A static ELF executable: its header, one readable and executable segment, the code (elf(5))."""
    headers = 64 + 56
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = struct.pack("<HHIQQQIHHHHHH", 2, _EM_X86_64, 1, _BASE + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = headers + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 4096)
    return identity + elf + segment + code


def run_init(run: Callable[[], NoReturn], *, tty: bool) -> NoReturn:
    """Fork; the child calls `run` (which never returns), the parent is the init."""
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)  # matters only with the host's pid namespace
    signal.pthread_sigmask(signal.SIG_BLOCK, _CATCHABLE)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        if tty:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())  # SIGTTOU is blocked here, so a background process may do this
        run()
    sc.close_range(0)  # the streams end when the program's own copies are closed
    sc.set_name(b"init")
    _become_program(child)
    os._exit(_supervise(child))


def _become_program(child: int) -> None:
    """Execute the static init; returns only if that is impossible."""
    code = CODE.get(os.uname().machine)
    if code is None:
        return
    try:
        memfd = os.memfd_create("init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | sc.MFD_EXEC)
        os.write(memfd, program(code))
        fcntl.fcntl(memfd, sc.F_ADD_SEALS, sc.F_SEAL_ALL)
        os.execve(memfd, [b"/sbin/init", b"%d" % child], {})  # noqa: S606 - no shell is meant
    except OSError:
        sc.close_range(0)


def _supervise(child: int) -> int:
    while True:
        number = signal.sigwait(_CATCHABLE)
        if number == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                return code
        elif number not in _NOT_FORWARDED:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass  # it has just ended: SIGCHLD is pending


def _reap(child: int) -> int | None:
    """Take every process that has ended; the exit code of `child` once it is among them (128 + n for signal n)."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                code = 128 - code
