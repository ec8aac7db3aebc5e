"""A container's process between clone and execve: a bundle or a process in, a running program (or a report) out.

Set-up is a list of `Step`s; an error names the step. The line to the shim (`sync`, a SEQPACKET socket) carries

    child → shim   {"pty": true} + master fd · {"ready": true, "warnings": […]} just before execve · {"error", "exit_code"}
                   {"pid"}: an exec has handed over to the process that it made in the container's pid namespace
    shim → child   {"go": true}, when the network is wired; the end of the stream means: give up

and ends by close-on-exec, which tells the shim that the program runs. Standard library only; nothing is imported here
after the namespaces are entered.
"""

from __future__ import annotations

import _socket as socket  # without the enumerations of `socket`: what the launcher loads, every fork carries
import fcntl
import os
import stat
import termios

from pystack.engine.runtime import confine, wire
from pystack.engine.runtime.init import run_init
from pystack.engine.runtime.rootfs import RootBuilder, open_null_at, open_slave
from pystack.engine.runtime.users import Identity, UserError
from pystack.kernel import mounts, userns
from pystack.kernel import syscalls as sc
from pystack.kernel.cgroup_entry import enter, is_v2
from pystack.kernel.failpoints import failpoint
from pystack.kernel.process import write_self

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from pystack.engine.runtime.bundle import Bundle, Process
else:
    import _signal as signal  # without the enumerations of `signal`, for the sake of small forks

#: CLONE_NEWPID changes nothing for the caller: its children are born inside.
JOIN_FLAGS = (
    sc.CLONE_NEWNS
    | sc.CLONE_NEWNET
    | sc.CLONE_NEWIPC
    | sc.CLONE_NEWUTS
    | sc.CLONE_NEWCGROUP
    | sc.CLONE_NEWPID
)


class Step:
    """One operation of the set-up: what it is for, and how to do it."""

    __slots__ = ("_execute", "_purpose")

    def __init__(self, purpose: str, execute: Callable[[], None]) -> None:
        self._purpose = purpose
        self._execute = execute

    def describe(self) -> str:
        return self._purpose

    def execute(self) -> None:
        self._execute()


class Streams:
    """The fds of a process' stdin, stdout and stderr; -1 where /dev/null of the container or the terminal stands in."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int = -1, stdout: int = -1, stderr: int = -1) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def all(self) -> list[int]:
        return [fd for fd in (self.stdin, self.stdout, self.stderr) if fd >= 0]


class Child:
    """What PID 1 and an exec have in common: the line to the shim, the process, the way to its program."""

    def __init__(
        self, process: Process, sync: socket.socket, streams: Streams, cgroups: Sequence[str]
    ) -> None:
        self.process = process
        self.sync = sync
        self.streams = streams
        self.cgroups = cgroups
        self.warnings: list[str] = []
        self.root = -1
        self.limited = False  # the limits are set already
        self.identity = Identity(0, 0, [0], b"/")

    def run(self, steps: Sequence[Step], finish: Callable[[], NoReturn]) -> NoReturn:
        """Carry out the steps and go on to the program. Never returns: the caller's stack is the shim's."""
        purpose = "start"
        try:
            for step in steps:
                purpose = step.describe()
                step.execute()
            purpose = "start the program"
            finish()
        except (confine.ExecError, UserError) as error:
            self.fail(str(error), error.exit_code if isinstance(error, confine.ExecError) else 126)
        except OSError as error:
            where = f" {error.filename}" if isinstance(error.filename, str) else ""
            self.fail(f"cannot {purpose}:{where} {error.strerror or error}", 125)
        except BaseException as error:  # a fault of ours: it must reach the user, not the shim's stack
            self.fail(f"cannot {purpose}: {error!r}", 125)
        finally:
            os._exit(125)

    def fail(self, message: str, exit_code: int) -> None:
        """Report, and stay until the shim has taken note: before that it opens this process' namespaces."""
        self.report(message, exit_code)
        try:
            while wire.receive(self.sync):
                pass
        except (wire.Closed, OSError):
            return

    def report(self, message: str, exit_code: int) -> None:
        try:
            wire.send(self.sync, {"error": message, "exit_code": exit_code})
        except OSError:
            pass  # the shim is gone; so are we

    def enter_cgroups(self) -> None:
        """v1: one by one. v2: it was born there."""
        for directory in self.cgroups:
            if not is_v2(directory):
                enter(directory)
        failpoint("child.cgroups.joined")

    def set_host_attributes(self) -> None:
        """What is set through the host's procfs, before the container's can be in the way."""
        try:
            write_self("oom_score_adj", str(self.process["oom_score_adj"]))
        except PermissionError:
            score = self.process["oom_score_adj"]
            self.warnings.append(f"cannot set oom_score_adj to {score}: CAP_SYS_RESOURCE is missing")
        if self.process["apparmor"]:
            write_self("attr/apparmor/exec", f"exec {self.process['apparmor']}")

    def join_keyring(self, container_id: str) -> None:
        try:
            sc.join_session_keyring(b"_ses." + container_id.encode())
        except OSError as error:
            if error.errno not in {38, 122}:  # ENOSYS: no keyrings; EDQUOT: no room for a new one
                raise
            self.warnings.append(f"cannot make a session keyring: {error.strerror}")

    def resolve_user(self) -> None:
        self.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.identity = confine.resolve_identity(self.root, self.process)

    def enter_user_namespace(self, user: int, uid_map: Sequence[Sequence[int]], *, own_mounts: bool) -> None:
        """The end of the host's rights: what needs them comes before, everything else of `start` after.

        `user` is the namespace or a pidfd. With `own_mounts` the mount namespace becomes one that belongs to it, so that
        every mount is locked and only a capability in the container, if it has one, changes them.
        """
        confine.own_stdio(self.streams.all(), userns.to_host(uid_map, self.identity.uid))
        self.warnings += confine.set_rlimits(self.process)
        self.limited = True
        userns.enter(user)
        if own_mounts:
            sc.unshare(sc.CLONE_NEWNS)
            os.close(self.root)
            self.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(user)

    def use_terminal(self, slave: int) -> None:
        """`slave` becomes the controlling terminal and all three streams; the caller leads a session of its own."""
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        self.streams = Streams(slave, slave, slave)

    def start(self, *, init: bool, outside: bool = False) -> NoReturn:
        """Everything from here on happens inside, in the order of `confine`; ends in execve.

        `outside`: this process is not in the container's pid namespace yet. It goes there as the last step.
        """
        os.umask(0o022)
        null = -1
        if -1 in {self.streams.stdin, self.streams.stdout, self.streams.stderr}:
            null = self._open_null()
        stdin, stdout, stderr = (
            fd if fd >= 0 else null for fd in (self.streams.stdin, self.streams.stdout, self.streams.stderr)
        )
        env = confine.environment(self.process, self.identity)
        if not self.limited:
            self.warnings += confine.set_rlimits(self.process)
        confine.enter_directory(self.root, self.process["cwd"])
        confine.wire_stdio(stdin, stdout, stderr, self.sync.detach())
        sync = self.sync = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=confine.SYNC_FD)
        confine.confine(self.process, self.identity)
        if outside:
            self._be_born_inside()

        def program() -> NoReturn:
            confine.reset_signals()
            sc.prctl(sc.PR_SET_PDEATHSIG, 0 if init else signal.SIGKILL)
            wire.send(sync, {"ready": True, "warnings": self.warnings})
            failpoint("child.exec.ready")
            try:
                confine.run_program(self.process["argv"], env)
            except confine.ExecError as error:
                self.report(str(error), error.exit_code)
                os._exit(error.exit_code)

        if init:
            sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
            run_init(program, tty=self.process["tty"])
        program()

    def _be_born_inside(self) -> None:
        """Go on as a child of the shim in the container's pid namespace.

        What the container can see it may be able to trace (CAP_SYS_PTRACE) or look through (/proc/<pid>/root): so it
        sees this process only with the container's own root, rights and filter (CVE-2016-9962).
        """
        sc.prctl(sc.PR_SET_DUMPABLE, 0)  # a change of user may have set it (fs.suid_dumpable)
        read, write = os.pipe()
        pid = sc.fork_sibling()
        if pid:
            wire.send(self.sync, {"pid": pid})
            self.sync.close()  # its end must tell the shim that the program runs, however late this process ends
            os.write(write, b"1")
            os._exit(0)
        os.close(write)
        if not os.read(read, 1):  # it was killed before the shim could learn of this process
            os._exit(125)
        os.close(read)
        failpoint("child.exec.inside")
        os.setsid()
        if self.process["tty"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _open_null(self) -> int:
        dev = mounts.open_in_root(self.root, b"/dev", os.O_PATH | os.O_DIRECTORY)
        try:
            return open_null_at(dev, os.O_RDWR)
        finally:
            os.close(dev)


def _name_host(bundle: Bundle) -> None:
    if bundle["hostname"]:
        sc.sethostname(os.fsencode(bundle["hostname"]))
    if bundle["domainname"]:
        sc.setdomainname(os.fsencode(bundle["domainname"]))


def run_first_process(
    bundle: Bundle, sync: socket.socket, streams: Streams, namespaces: dict[str, int], unshare: int
) -> NoReturn:
    """PID 1, right after clone. `namespaces`: fds to join by kind; `unshare`: what to leave once in the cgroups."""
    process = bundle["process"]
    child = Child(process, sync, streams, bundle["cgroups"])
    user, shm = namespaces.pop("user", -1), namespaces.pop("shm", -1)
    build = RootBuilder(bundle, user)

    def prepare() -> None:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        os.umask(0)
        kept = [fd for fd in (user, shm) if fd >= 0]
        close_others([sync.fileno(), *streams.all(), *namespaces.values(), *kept])

    def take_shm() -> None:
        if shm >= 0:
            build.take_shm(shm)
            os.close(shm)

    def join() -> None:
        for fd in namespaces.values():
            sc.setns(fd, 0)
        if unshare:
            sc.unshare(unshare)

    def map_files() -> None:
        build.map_files()
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)  # other ids took it away

    def enter_user_namespace() -> None:
        if user >= 0:
            child.enter_user_namespace(user, bundle["uid_map"], own_mounts=True)

    def terminal() -> None:
        if process["tty"]:
            master = build.open_terminal(*process["console_size"])
            wire.send(sync, {"pty": True}, [master])
            os.close(master)
            child.use_terminal(build.console)

    def wait_for_go() -> None:
        try:
            wire.receive(sync)
        except wire.Closed:
            os._exit(125)

    steps = [
        Step("prepare the process", prepare),
        Step("enter the cgroups", child.enter_cgroups),
        Step("open the sources of the mounts", build.take_sources),
        Step("open /dev/shm of the other container", take_shm),
        Step("join the namespaces", join),
        Step("set process attributes", child.set_host_attributes),
        Step("make a session keyring", lambda: child.join_keyring(bundle["id"])),
        Step("set the host name", lambda: _name_host(bundle)),
        Step("leave the host's mounts", build.leave_host),
        Step("map the ids of files", map_files),
        Step("mount images", build.make_overlays),
        Step("mount the root file system", build.mount_root),
        Step("mount /proc", build.mount_proc),
        Step("mount /sys", build.mount_sys),
        Step("mount /sys/fs/cgroup", build.mount_cgroup),
        Step("make /dev", build.mount_dev),
        Step("make the terminal", terminal),
        Step("mount", build.mount_user_mounts),
        Step("make the working directory", build.make_cwd),
        Step("mask paths", build.mask_paths),
        Step("make paths read-only", build.protect_paths),
        Step("enter the root file system", build.pivot),
        Step("resolve the user", child.resolve_user),
        Step("enter the user namespace", enter_user_namespace),
        Step("wait for the network", wait_for_go),
    ]
    child.run(steps, lambda: child.start(init=bundle["init"]))


def run_exec(
    process: Process,
    *,
    container_id: str,
    cgroups: Sequence[str],
    pidfd: int,
    sync: socket.socket,
    streams: Streams,
    uid_map: Sequence[Sequence[int]] = (),
) -> NoReturn:
    """An exec, right after clone from the shim, in the host's namespaces. It enters the pid namespace when it is confined.

    `uid_map` is empty in the host's user namespace.
    """
    child = Child(process, sync, streams, cgroups)

    def prepare() -> None:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        close_others([pidfd, sync.fileno(), *streams.all()])

    def join() -> None:
        sc.setns(pidfd, JOIN_FLAGS)

    def enter_user_namespace() -> None:
        if uid_map:
            child.enter_user_namespace(pidfd, uid_map, own_mounts=False)
        else:
            os.close(pidfd)

    def terminal() -> None:
        if not process["tty"]:
            return
        master = mounts.open_in_root(child.root, b"/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        if os.fstat(master).st_rdev != os.makedev(5, 2) or sc.fstatfs_type(master) != sc.DEVPTS_SUPER_MAGIC:
            raise OSError(1, "is not a pseudo-terminal multiplexer", "/dev/pts/ptmx")
        slave = open_slave(master, *process["console_size"])
        wire.send(sync, {"pty": True}, [master])
        os.close(master)
        child.streams = Streams(slave, slave, slave)

    def replace_null() -> None:
        """The host's /dev/null must not be chowned or held by the container (runc #3674)."""
        for stream in ("stdin", "stdout", "stderr"):
            fd = getattr(child.streams, stream)
            if fd >= 0 and stat.S_ISCHR(os.fstat(fd).st_mode) and os.fstat(fd).st_rdev == os.makedev(1, 3):
                setattr(child.streams, stream, -1)

    steps = [
        Step("prepare the process", prepare),
        Step("enter the cgroups", child.enter_cgroups),
        Step("set process attributes", child.set_host_attributes),
        Step("enter the container", join),
        Step("join the session keyring", lambda: child.join_keyring(container_id)),
        Step("resolve the user", child.resolve_user),
        Step("make the terminal", terminal),
        Step("take the standard streams", replace_null),
        Step("enter the user namespace", enter_user_namespace),
    ]
    child.run(steps, lambda: child.start(init=False, outside=True))


def close_others(keep: Sequence[int]) -> None:
    """Close every fd from 3 on that is not in `keep`."""
    first = 3
    for fd in sorted(keep):
        if fd >= first:
            sc.close_range(first, fd - 1)
            first = fd + 1
    sc.close_range(first)
