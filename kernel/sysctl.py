"""Kernel settings below /proc/sys/net, in the calling thread's network namespace. Names are paths: "ipv4/ip_forward".

A write goes only to a file that is verified to be on procfs (CVE-2025-52881: a fake /proc redirects writes).
"""

from __future__ import annotations

import os

from pystack.kernel import syscalls


def _open(name: str, flags: int) -> int:
    path = f"/proc/sys/net/{name}"
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    if syscalls.fstatfs_type(fd) != syscalls.PROC_SUPER_MAGIC:
        os.close(fd)
        raise OSError(1, "is not on procfs", path)
    return fd


def read(name: str) -> str:
    """The value, stripped. FileNotFoundError when the kernel has no such setting."""
    fd = _open(name, os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


def write(name: str, value: str) -> None:
    """Set it. OSError with the path when the kernel refuses."""
    fd = _open(name, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(
            error.errno, f"cannot set to {value!r}: {error.strerror}", f"/proc/sys/net/{name}"
        ) from error
    finally:
        os.close(fd)


def write_if_known(name: str, value: str) -> bool:
    """Set it where the kernel has it (IPv6 or br_netfilter may be missing); whether it has."""
    try:
        write(name, value)
    except FileNotFoundError:
        return False
    return True


def replace(name: str, old: str, new: str) -> None:
    """Set it to `new` where it is `old` and the kernel has it: one file, opened once."""
    try:
        fd = _open(name, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if os.read(fd, 4096).decode().strip() == old:
            os.pwrite(fd, new.encode(), 0)  # anywhere else the kernel ignores it (sysctl_writes_strict)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot set to {new!r}: {error.strerror}", f"/proc/sys/net/{name}"
        ) from error
    finally:
        os.close(fd)


def get(name: str, default: str) -> str:
    """The value, or `default` where the kernel has no such setting."""
    try:
        return read(name)
    except FileNotFoundError:
        return default


def boot_id() -> str:
    """Changes with every boot of the machine (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
