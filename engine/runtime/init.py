"""Our own init for `init: true`: PID 1 forks the program, hands signals on, reaps orphans, exits as the program did.

It is confined exactly as the program is before it forks (same user, capabilities, seccomp filter), holds no descriptor
at all, and is not dumpable. See docs/adr/0004-init.md for why it is a frozen Python and what that costs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pystack.kernel import syscalls as sc

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from typing import NoReturn

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


def run_init(run: Callable[[], NoReturn], *, tty: bool) -> NoReturn:
    """Fork; the child calls `run` (which never returns), the parent is the init."""
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)  # matters only with the host's pid namespace
    signal.pthread_sigmask(signal.SIG_BLOCK, _CATCHABLE)
    child = os.fork()
    if child == 0:
        if tty:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())  # SIGTTOU is blocked here, so a background process may do this
        run()
    sc.close_range(0)  # the streams end when the program's own copies are closed
    sc.set_name(b"init")
    os._exit(_supervise(child))


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
