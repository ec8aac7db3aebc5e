"""Thin wrappers of the Linux system calls that the standard library lacks: ints, bytes and fds in, ints out, or OSError.

Each wrapper bears the C name. Prototypes are declared once, here; errno becomes an OSError that carries the path or
the thing. Standard library only: the launcher, the shim and the container's set-up run on this module.
Sources: the man pages of section 2, `include/uapi/linux/{mount,openat2,sched,prctl,seccomp,keyctl,capability}.h`.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Callable

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 4096, 8192, 16384, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME, MS_NOATIME, MS_NODIRATIME = 1 << 21, 1 << 24, 1024, 2048
MNT_DETACH = 2

CLONE_FS = 0x200
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, CLONE_PARENT, CLONE_INTO_CGROUP = 0x1000, 0x8000, 0x200000000

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x8000, 0x100
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 1, 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_NODIRATIME = 0x70, 0x10, 0x20, 0x80

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME, PR_CAPBSET_READ = 1, 4, 8, 15, 23
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 36, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4

SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1, 4
KEYCTL_JOIN_SESSION_KEYRING = 1
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 1, 2, 0x10
F_ADD_SEALS, F_SEAL_ALL = 1033, 0x1 | 0x2 | 0x4 | 0x8
MSG_CMSG_CLOEXEC = 0x40000000
TIOCGPTPEER, TIOCSPTLCK = 0x5441, 0x40045431
PROC_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, CGROUP2_SUPER_MAGIC = 0x9FA0, 0x1CD1, 0x63677270

#: System call numbers where x86_64 differs from the generic table (aarch64, riscv64); the rest are the same everywhere.
_X86_64 = {"pivot_root": 155, "capget": 125, "capset": 126, "setgroups": 116, "setresuid": 117, "setresgid": 119,
           "keyctl": 250, "seccomp": 317, "sethostname": 170, "setdomainname": 171,
           "rt_sigaction": 13, "rt_sigtimedwait": 128, "clone": 56, "setfsuid": 122, "setfsgid": 123}  # fmt: skip
_GENERIC = {"pivot_root": 41, "capget": 90, "capset": 91, "setgroups": 159, "setresuid": 147, "setresgid": 149,
            "keyctl": 219, "seccomp": 277, "sethostname": 161, "setdomainname": 162,
            "rt_sigaction": 134, "rt_sigtimedwait": 137, "clone": 220, "setfsuid": 151, "setfsgid": 152}  # fmt: skip
_COMMON = {"pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
           "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "mount_setattr": 442}  # fmt: skip
NUMBERS = {**(_X86_64 if os.uname().machine == "x86_64" else _GENERIC), **_COMMON}

libc = ctypes.CDLL(None, use_errno=True)


class OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class MountAttr(ctypes.Structure):
    """`struct mount_attr` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class CloneArgs(ctypes.Structure):
    """`struct clone_args` of clone3(2), the 88-byte version that has `cgroup` (Linux 5.7)."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack",
            "stack_size", "tls", "set_tid", "set_tid_size", "cgroup",
        )
    )  # fmt: skip


class Statfs(ctypes.Structure):
    """`struct statfs`: only its first field is of interest; the rest is room (120 bytes in all)."""

    _fields_ = (("f_type", c_long), ("rest", c_long * 15))


class SockFprog(ctypes.Structure):
    """`struct sock_fprog`: a classic BPF program of `len` eight-byte instructions."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", c_char_p))


def _libc(name: str, *argtypes: type) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)((name, libc))


def _syscall(*argtypes: type) -> Callable[..., int]:
    return ctypes.CFUNCTYPE(c_long, c_long, *argtypes, use_errno=True)(("syscall", libc))


_mount = _libc("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _libc("umount2", c_char_p, c_int)
_unshare = _libc("unshare", c_int)
_setns = _libc("setns", c_int, c_int)
_prctl = _libc("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_name = _libc("prctl", c_int, c_char_p)
_fstatfs = _libc("fstatfs", c_int, ctypes.POINTER(Statfs))
_path2 = _syscall(c_char_p, c_char_p)
_clone = _syscall(c_size_t, c_size_t, c_size_t, c_size_t, c_size_t)
_clone3 = _syscall(ctypes.POINTER(CloneArgs), c_size_t)
_openat2 = _syscall(c_int, c_char_p, ctypes.POINTER(OpenHow), c_size_t)
_open_tree = _syscall(c_int, c_char_p, c_uint)
_move_mount = _syscall(c_int, c_char_p, c_int, c_char_p, c_uint)
_mount_setattr = _syscall(c_int, c_char_p, c_uint, ctypes.POINTER(MountAttr), c_size_t)
_fsopen = _syscall(c_char_p, c_uint)
_fsconfig = _syscall(c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _syscall(c_int, c_uint, c_uint)
_close_range = _syscall(c_uint, c_uint, c_uint)
_capset = _syscall(c_char_p, c_char_p)
_capget = _syscall(c_void_p, c_void_p)
_setfs = _syscall(c_uint)
_seccomp = _syscall(c_uint, c_uint, ctypes.POINTER(SockFprog))
_setgroups = _syscall(c_size_t, c_void_p)
_setres = _syscall(c_uint, c_uint, c_uint)
_rt_sigaction = _syscall(c_int, c_char_p, c_char_p, c_size_t)
_keyctl = _syscall(c_int, c_char_p)
_setname = _syscall(c_char_p, c_size_t)


def _check(result: int, thing: bytes | str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        name = thing.decode(errors="replace") if isinstance(thing, bytes) else thing
        raise OSError(number, os.strerror(number), name)
    return result


def mount(
    source: bytes | None, target: bytes, fstype: bytes | None, flags: int = 0, data: bytes | None = None
) -> None:
    _check(_mount(source, target, fstype, flags, data), target)


def umount2(target: bytes, flags: int = 0) -> None:
    _check(_umount2(target, flags), target)


def unshare(flags: int) -> None:
    _check(_unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """`fd` is a namespace or a pidfd; with a pidfd `flags` names all the namespaces to join (Linux 5.8)."""
    _check(_setns(fd, flags), "setns")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    return _check(_prctl(option, arg2, arg3, arg4, arg5), f"prctl {option}")


def set_name(name: bytes) -> None:
    """PR_SET_NAME: the name of this thread in /proc, at most 15 bytes."""
    _check(_prctl_name(PR_SET_NAME, name[:15]), "prctl PR_SET_NAME")


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _check(_path2(NUMBERS["pivot_root"], new_root, put_old), new_root)


def clone3(flags: int, *, exit_signal: int = 17, cgroup: int = -1) -> int:
    """fork(2) with namespaces: returns twice. `cgroup` is the fd of a v2 cgroup to be born into, -1 for none.

    Only for single-threaded processes: the child goes on with a copy of the caller's stack and Python state.
    """
    args = CloneArgs(flags=flags, exit_signal=exit_signal)
    if cgroup >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    return _check(_clone3(NUMBERS["clone3"], ctypes.byref(args), ctypes.sizeof(args)), "clone3")


def fork_sibling() -> int:
    """fork(2) of a child of the caller's own parent. By clone(2): container filters answer ENOSYS to clone3.

    Only for single-threaded processes, as `clone3`.
    """
    return _check(_clone(NUMBERS["clone"], CLONE_PARENT, 0, 0, 0, 0), "clone")


def openat2(dirfd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _check(_openat2(NUMBERS["openat2"], dirfd, path, ctypes.byref(how), ctypes.sizeof(how)), path)


def open_tree(dirfd: int, path: bytes, flags: int) -> int:
    """A mount object fd (with OPEN_TREE_CLONE: a detached bind mount). An empty path means `dirfd` itself."""
    if not path:
        flags |= AT_EMPTY_PATH
    return _check(_open_tree(NUMBERS["open_tree"], dirfd, path, flags | OPEN_TREE_CLOEXEC), path)


def move_mount(mount_fd: int, target_fd: int, target: bytes = b"") -> None:
    """Attach the detached mount `mount_fd` at `target` (empty: at the very object that `target_fd` is)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    _check(_move_mount(NUMBERS["move_mount"], mount_fd, b"", target_fd, target, flags), target)


def mount_setattr(
    fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False, userns: int = 0
) -> None:
    """Change the mount that `fd` is the root of. Flags that are not named stay as they are, locked ones, too."""
    attr = MountAttr(set_, clear, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        _mount_setattr(NUMBERS["mount_setattr"], fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)),
        "mount_setattr",
    )


def fsopen(fstype: bytes) -> int:
    return _check(_fsopen(NUMBERS["fsopen"], fstype, FSOPEN_CLOEXEC), fstype)


def fsconfig(fd: int, command: int, key: bytes | None = None, value: bytes | None = None) -> None:
    """`value` of FSCONFIG_SET_STRING: at most 255 bytes (fs/fsopen.c)."""
    _check(_fsconfig(NUMBERS["fsconfig"], fd, command, key, value, 0), key or b"create")


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the file system that `fd` (fsopen) configured."""
    return _check(_fsmount(NUMBERS["fsmount"], fd, FSMOUNT_CLOEXEC, attributes), "fsmount")


def fstatfs_type(fd: int) -> int:
    """`f_type` of fstatfs(2): the magic number of the file system that `fd` is on."""
    found = Statfs()
    _check(_fstatfs(fd, ctypes.byref(found)), "fstatfs")
    return int(found.f_type)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    if first <= last:
        _check(_close_range(NUMBERS["close_range"], first, last, 0), "close_range")


def capset(*, effective: int, permitted: int, inheritable: int) -> None:
    """The calling thread's sets as bit masks (`_LINUX_CAPABILITY_VERSION_3`)."""
    header = (0x20080522).to_bytes(4, "little") + bytes(4)
    low = b"".join((mask & 0xFFFFFFFF).to_bytes(4, "little") for mask in (effective, permitted, inheritable))
    high = b"".join((mask >> 32).to_bytes(4, "little") for mask in (effective, permitted, inheritable))
    _check(_capset(NUMBERS["capset"], header, low + high), "capset")


def capget() -> tuple[int, int]:
    """The calling thread's effective and permitted sets as bit masks."""
    header = ctypes.create_string_buffer((0x20080522).to_bytes(4, "little") + bytes(4), 8)
    data = (c_uint * 6)()
    _check(_capget(NUMBERS["capget"], ctypes.addressof(header), ctypes.addressof(data)), "capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32


def setfsuid(uid: int) -> None:
    """The id that files are made and opened with. It reports no errors: what is in force afterwards tells."""
    _setfs(NUMBERS["setfsuid"], uid)
    if _setfs(NUMBERS["setfsuid"], 0xFFFFFFFF) != uid:
        raise OSError(1, os.strerror(1), f"setfsuid {uid}")


def setfsgid(gid: int) -> None:
    _setfs(NUMBERS["setfsgid"], gid)
    if _setfs(NUMBERS["setfsgid"], 0xFFFFFFFF) != gid:
        raise OSError(1, os.strerror(1), f"setfsgid {gid}")


def seccomp_filter(program: bytes) -> None:
    """Install a BPF filter for good. Without no_new_privs it needs CAP_SYS_ADMIN."""
    prog = SockFprog(len(program) // 8, program)
    flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW
    _check(_seccomp(NUMBERS["seccomp"], SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(prog)), "seccomp")


def setgroups(groups: list[int]) -> None:
    gids = (c_uint * len(groups))(*groups)
    _check(_setgroups(NUMBERS["setgroups"], len(groups), ctypes.addressof(gids)), "setgroups")


def setresgid(gid: int) -> None:
    """Real, effective and saved. The raw call: glibc's would signal threads that a cloned process does not have."""
    _check(_setres(NUMBERS["setresgid"], gid, gid, gid), f"setresgid {gid}")


def setresuid(uid: int) -> None:
    _check(_setres(NUMBERS["setresuid"], uid, uid, uid), f"setresuid {uid}")


def join_session_keyring(name: bytes) -> None:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): from here on the caller's session keyring is a new one called `name`."""
    _check(_keyctl(NUMBERS["keyctl"], KEYCTL_JOIN_SESSION_KEYRING, name), name)


def default_signal(number: int) -> None:
    """SIG_DFL, also for the signals that glibc keeps to itself (32, 33) and that posix_spawn(3) leaves ignored."""
    _check(_rt_sigaction(NUMBERS["rt_sigaction"], number, bytes(32), None, 8), f"rt_sigaction {number}")


def sethostname(name: bytes) -> None:
    _check(_setname(NUMBERS["sethostname"], name, len(name)), name)


def setdomainname(name: bytes) -> None:
    _check(_setname(NUMBERS["setdomainname"], name, len(name)), name)
