"""The device program of a v2 cgroup: rules compiled to eBPF, loaded and attached by bpf(2).

In: `DeviceRule` lists. Out: a program (pure) and its attachment to a cgroup, which keeps it alive: nothing has to stay
open. See bpf(2) and the kernel's Documentation/admin-guide/cgroup-v2.rst, "Device controller".
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence

from pystack.kernel.devices import ANY, DeviceRule
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError

_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI, _REPLACE = 2, 4

#: bits of bpf_cgroup_dev_ctx.access_type: kind in the low half, access in the high half
_KIND = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result: int = _syscall(_SYS_BPF[platform.machine()], command, buffer, len(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    attributes_out = buffer.raw
    if command == _PROG_QUERY:
        return int(struct.unpack_from("<I", attributes_out, 24)[0])
    return result


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, offset, immediate)


_EXIT = _instruction(0x95)


def _verdict(allow: bool) -> bytes:
    return _instruction(0xB7, 0, immediate=int(allow)) + _EXIT


def _block(rule: DeviceRule) -> tuple[bytes, bool]:
    """(code of one rule, whether it always decides). r2 kind, r3 access, r4 major, r5 minor; a miss falls to the next block.

    An allowing rule needs all of what is asked; a denying one any of it, as in v1, where deny takes letters away.
    """
    checks: list[tuple[bytes, int, int, int, int]] = []  # code before, jump code, dst, src, immediate
    if rule.type != "a":
        checks.append((b"", 0x55, 2, 0, _KIND[rule.type]))
    bits = sum(_ACCESS[letter] for letter in rule.access)
    if bits != 7:
        masked = _instruction(0xBF, 1, 3) + _instruction(0x57, 1, immediate=bits)
        checks.append((masked, 0x5D, 1, 3, 0) if rule.allow else (masked, 0x15, 1, 0, 0))
    if rule.type != "a" and rule.major != ANY:
        checks.append((b"", 0x55, 4, 0, rule.major))
    if rule.type != "a" and rule.minor != ANY:
        checks.append((b"", 0x55, 5, 0, rule.minor))
    code = _verdict(rule.allow)
    for before, jump, dst, src, immediate in reversed(checks):
        code = before + _instruction(jump, dst, src, len(code) // 8, immediate) + code
    return code, not checks


def device_program(rules: Sequence[DeviceRule]) -> bytes:
    """The eBPF instructions that decide as the rules do: the last one that matches wins, default deny."""
    code = b"".join(
        (
            _instruction(0x61, 2, 1, 0),
            _instruction(0xBF, 3, 2),
            _instruction(0x57, 2, immediate=0xFFFF),
            _instruction(0x77, 3, immediate=16),
            _instruction(0x61, 4, 1, 4),
            _instruction(0x61, 5, 1, 8),
        )
    )
    for rule in reversed(rules):
        block, final = _block(rule)
        code += block
        if final:  # the verifier refuses code that cannot be reached
            return code
    return code + _verdict(False)


def _load(program: bytes) -> int:
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "<IIQQIIQII16s",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"pystack_devices",
    )
    return _bpf(_PROG_LOAD, attributes)


def attached(cgroup_fd: int) -> list[int]:
    """Ids of the device programs attached to this very cgroup."""
    ids = (ctypes.c_uint32 * 64)()
    count = _bpf(
        _PROG_QUERY,
        struct.pack("<IIIIQII", cgroup_fd, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64, 0),
    )
    return list(ids[:count])


def set_devices(cgroup: str, rules: Sequence[DeviceRule]) -> None:
    """Make the rules those of a v2 cgroup (its directory), in place of earlier ones and with no moment without any.

    Raises EngineError when the kernel refuses: a container must not run without its device rules.
    """
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(directory, device_program(rules))
        finally:
            os.close(directory)
    except OSError as error:
        hint = "the kernel needs CONFIG_CGROUP_BPF" if error.errno in {errno.EINVAL, errno.ENOSYS} else None
        raise EngineError(f"cannot set the device rules of {cgroup}: {error.strerror}", hint=hint) from error
    failpoint("cgroup.devices.attached")


def _replace(directory: int, program: bytes) -> None:
    old = [_bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", number, 0, 0)) for number in attached(directory)]
    try:
        new = _load(program)
        try:
            replaces = old[0] if len(old) == 1 else 0
            flags = _ALLOW_MULTI | (_REPLACE if replaces else 0)
            _bpf(_PROG_ATTACH, struct.pack("<IIIII", directory, new, _ATTACH_CGROUP_DEVICE, flags, replaces))
        finally:
            os.close(new)
        for fd in old if len(old) > 1 else ():
            _bpf(_PROG_DETACH, struct.pack("<III", directory, fd, _ATTACH_CGROUP_DEVICE))
    finally:
        for fd in old:
            os.close(fd)
