"""The last steps of a process before its program: limits, identity, capabilities, seccomp, descriptors, execve.

PID 1 and every exec go through `confine` and `run_program`; there is no second way (CVE-2022-27650). Runs inside the
container's namespaces: nothing is imported here at run time, no codec, no host path. Order: reference runc
`finalizeNamespace`.
"""

from __future__ import annotations

import os
import resource
import stat
from binascii import a2b_base64

from pystack.engine.runtime import users
from pystack.kernel import mounts
from pystack.kernel import syscalls as sc

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from typing import NoReturn

    from pystack.engine.runtime.bundle import Process
else:
    import _signal as signal  # without the enumerations of `signal`, for the sake of small forks

_RLIMITS = ("cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
            "msgqueue", "nice", "rtprio", "rttime")  # fmt: skip
_INFINITY = resource.RLIM_INFINITY
_LAST_CAPABILITY = 63
#: Dispositions that this process changed or may have inherited as ignored; execve resets only caught signals.
_RESET = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD,
          signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXFSZ)  # fmt: skip
SYNC_FD = 3


class ExecError(Exception):
    """The program cannot be started: Docker's text, and its exit code 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def resolve_identity(root: int, process: Process) -> users.Identity:
    passwd = users.read_database(root, b"/etc/passwd")
    group = users.read_database(root, b"/etc/group")
    return users.resolve(passwd, group, process["user"], process["group_add"])


def enter_directory(root: int, cwd: str) -> None:
    """Change to `cwd` in the container; never through /proc/self/fd or to a place outside (CVE-2024-21626)."""
    try:
        fd = mounts.open_in_root(root, os.fsencode(cwd or "/"), os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = (error.strerror or "").lower()
        raise ExecError(f'chdir to cwd ("{cwd}") failed: {reason}', 127 if missing else 126) from error
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwd().startswith("/"):
        raise ExecError(f'chdir to cwd ("{cwd}") failed: it is outside the container', 126)


def set_rlimits(process: Process) -> list[str]:
    """Set the limits; where the kernel refuses to raise a hard one (no CAP_SYS_RESOURCE) keep to it and warn."""
    warnings = []
    for limit in process["rlimits"]:
        number = _RLIMITS.index(limit["name"])
        soft = _INFINITY if limit["soft"] < 0 else limit["soft"]
        hard = _INFINITY if limit["hard"] < 0 else limit["hard"]
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, PermissionError):
            _, possible = resource.getrlimit(number)
            soft = possible if soft == _INFINITY or (possible != _INFINITY and soft > possible) else soft
            resource.setrlimit(number, (soft, possible))
            warnings.append(
                f"cannot raise the hard limit of {limit['name']} to {limit['hard']}: kept at {possible}"
            )
    return warnings


def confine(process: Process, identity: users.Identity) -> None:
    """Become the container's user with the container's rights, for good. The caller still holds its own fds."""
    capabilities = process["capabilities"]
    no_new_privileges = process["no_new_privileges"]
    program = a2b_base64(process["seccomp"])
    own_stdio((0, 1, 2), identity.uid)
    if no_new_privileges:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    _drop_bounding(capabilities["bounding"])
    if program and not no_new_privileges:
        sc.seccomp_filter(program)  # needs CAP_SYS_ADMIN, which goes next
    sc.prctl(sc.PR_SET_KEEPCAPS, 1)
    sc.setgroups(identity.groups)
    sc.setresgid(identity.gid)
    sc.setresuid(identity.uid)
    sc.prctl(sc.PR_SET_KEEPCAPS, 0)
    ambient = capabilities["ambient"]
    keep = -1 if identity.uid == 0 else ambient
    sc.capset(
        effective=capabilities["effective"] & keep,
        permitted=capabilities["permitted"] & keep,
        inheritable=capabilities["inheritable"] | ambient,
    )
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in _bits(ambient):
        sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_RAISE, number)
    if program and no_new_privileges:
        sc.seccomp_filter(program)


def _bits(mask: int) -> list[int]:
    return [number for number in range(_LAST_CAPABILITY + 1) if mask >> number & 1]


def _drop_bounding(keep: int) -> None:
    try:
        for number in range(_LAST_CAPABILITY + 1):
            if keep >> number & 1 == 0:
                sc.prctl(sc.PR_CAPBSET_DROP, number)
    except OSError as error:
        if error.errno != 22:
            raise  # EINVAL: one past the last capability that this kernel knows


def own_stdio(fds: Sequence[int], uid: int) -> None:
    """Pipes and the terminal belong to the user, so that /dev/stdout can be opened again; devices never change."""
    for fd in fds:
        found = os.fstat(fd)
        is_terminal = stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in range(136, 144)
        if found.st_uid != uid and (stat.S_ISFIFO(found.st_mode) or is_terminal):
            os.fchown(fd, uid, -1)


def wire_stdio(stdin: int, stdout: int, stderr: int, sync: int) -> None:
    """Put the streams at 0, 1, 2 and the line to the shim at SYNC_FD, close-on-exec; close every other fd."""
    duplicates = [os.dup(fd) if fd < 4 else fd for fd in (stdin, stdout, stderr, sync)]
    while min(duplicates) < 4:
        duplicates = [os.dup(fd) if fd < 4 else fd for fd in duplicates]
    for number, fd in enumerate(duplicates):
        os.dup2(fd, number, inheritable=number != SYNC_FD)
    sc.close_range(SYNC_FD + 1)


def reset_signals() -> None:
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)


def environment(process: Process, identity: users.Identity) -> list[bytes]:
    env = [os.fsencode(item) for item in process["env"]]
    if not any(item.startswith(b"HOME=") for item in env):
        env.append(b"HOME=" + identity.home)
    return env


def run_program(argv: list[str], env: list[bytes]) -> NoReturn:
    """Start the program with the PATH of `env`, in the container. ExecError with Docker's texts and exit codes."""
    arguments = [os.fsencode(argument) for argument in argv]
    variables = dict(item.split(b"=", 1) for item in env if b"=" in item)
    name = arguments[0]
    if b"/" in name:
        raise _explain(name, _try_exec(name, arguments, variables))
    denied = False
    for directory in variables.get(b"PATH", b"").split(b":"):
        path = (directory or b".") + b"/" + name
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # a fraction of the price of an execve(2) that finds the same
        except OSError:
            pass  # execve says what it is
        error = _try_exec(path, arguments, variables)
        if not isinstance(error, FileNotFoundError | NotADirectoryError) or os.path.exists(path):
            if not isinstance(error, PermissionError):
                raise _explain(path, error)
            denied = denied or not os.path.isdir(path)
    if denied:
        raise ExecError(f'exec: "{argv[0]}": permission denied', 126)
    raise ExecError(f'exec: "{argv[0]}": executable file not found in $PATH', 127)


def _try_exec(path: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> OSError:
    try:
        os.execve(path, argv, env)  # noqa: S606 - this is what a container engine does
    except OSError as error:
        return error


def _explain(path: bytes, error: OSError) -> ExecError:
    name = path.decode(errors="replace")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if os.path.exists(path):  # the interpreter of a script, or of a dynamic program, is missing
            return ExecError(f"exec {name}: no such file or directory", 127)
        reason = "not a directory" if isinstance(error, NotADirectoryError) else "no such file or directory"
        return ExecError(f'exec: "{name}": stat {name}: {reason}', 127)
    if isinstance(error, PermissionError):
        reason = "is a directory" if os.path.isdir(path) else "permission denied"
        return ExecError(f'exec: "{name}": {reason}', 126)
    return ExecError(f"exec {name}: {(error.strerror or str(error)).lower()}", 126)
