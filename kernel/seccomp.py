"""Seccomp: profiles in Docker's JSON form compiled to the kernel's BPF.

In: a profile (the built-in one or a user's), the container's final capability set, the kernel's version. Out: an array
of struct sock_filter, little endian, for seccomp(2); pure but for the two data files, which are read once.
Semantics: moby `profiles/seccomp` (which groups count), runc `libcontainer/seccomp` with libseccomp (what a rule means),
and runc's patch that answers ENOSYS to calls newer than the profile. Checked against libseccomp in tests.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pystack.kernel import seccomp_bpf
from pystack.kernel.capabilities import NAMES
from pystack.kernel.seccomp_bpf import Condition, Rule
from pystack.model.errors import InvalidInput

_KILL_PROCESS, _KILL_THREAD = 0x80000000, 0
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_EPERM, _ENOSYS = 1, 38
#: Action -> SECCOMP_RET_*; SCMP_ACT_NOTIFY needs a listener, which this engine has not.
_ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
#: Actions that let unknown calls through: there the profile's author has decided, and nothing is patched.
_PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

#: libseccomp's name -> (key of the number table, AUDIT_ARCH_*)
_ARCHES = {
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000003E),
    "SCMP_ARCH_X86": ("i386", 0x40000003),
    "SCMP_ARCH_X32": ("x32", 0xC000003E),
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC00000B7),
    "SCMP_ARCH_ARM": ("arm", 0x40000028),
}
#: uname -m -> (libseccomp's name, Go's name as in a profile's `arches`)
_MACHINES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}
_KEYS = {"names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes"}

#: i386 multiplexers: name -> (real call, first argument). A rule without arguments opens both ways (libseccomp does, too).
_SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt "
    "getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
_IPC = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
}
_IPC |= {"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24}
_MULTIPLEXED = {name: ("socketcall", number) for number, name in enumerate(_SOCKETCALL.split(), 1)}
_MULTIPLEXED |= {name: ("ipc", number) for name, number in _IPC.items()}

#: Calls whose first argument the kernel cuts to an int: "not 40" must hold for the lower half, or socket(1 << 32 | 40)
#: passes the filter as something else and still makes an AF_VSOCK socket (libseccomp's 64-bit comparison lets it).
_INT_FIRST = frozenset({"socket", "socketpair"})


def _data(name: str) -> Any:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return json.load(file)


@functools.cache
def numbers() -> Mapping[str, Mapping[str, int]]:
    """System call numbers by architecture (x86_64, i386, x32, aarch64, arm) and name."""
    found: dict[str, dict[str, int]] = _data("syscall-numbers.json")
    return found


@functools.cache
def default_profile() -> Mapping[str, Any]:
    """Docker's built-in profile. Do not change it: programs are cached."""
    found: dict[str, Any] = _data("seccomp-default.json")
    return found


def load_profile(text: str | bytes) -> dict[str, Any]:
    """A user's profile from its JSON text, checked. InvalidInput says what is wrong; unknown call names are ignored."""
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict):
        raise InvalidInput("Decoding seccomp profile failed: it is not a JSON object")
    _check(profile)
    return profile


def _check(profile: Mapping[str, Any]) -> None:
    _action(profile.get("defaultAction", ""), profile.get("defaultErrnoRet"))
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidInput(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either of them"
        )
    if profile.get("listenerPath") or profile.get("flags"):
        raise InvalidInput(
            "cannot use a seccomp profile with a listener or flags", hint="remove listenerPath and flags"
        )
    for group in profile.get("syscalls") or ():
        if not isinstance(group, dict) or not set(group) <= _KEYS:
            raise InvalidInput(f"cannot use the seccomp rule {str(group)[:80]}: unknown keys")
        if bool(group.get("name")) == bool(group.get("names")):
            raise InvalidInput("seccomp: use either 'name' or 'names' in a rule, not both and not neither")
        _action(group.get("action", ""), group.get("errnoRet"))
        for argument in group.get("args") or ():
            _condition(argument)


def _action(name: object, errno_ret: object) -> int:
    """SECCOMP_RET_* value. ERRNO and TRACE without a number use EPERM, as runc does."""
    value = _ACTIONS.get(name) if isinstance(name, str) else None
    if value is None:
        raise InvalidInput(f"invalid seccomp action: {name!r}", hint=f"use one of {', '.join(_ACTIONS)}")
    if value not in {_ERRNO, _TRACE}:
        return value
    number = _EPERM if errno_ret is None else errno_ret
    if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise InvalidInput(f"invalid seccomp errno: {number!r}")
    return value | number


def _condition(argument: object) -> Condition:
    if not isinstance(argument, dict) or argument.get("op") not in _OPERATORS:
        raise InvalidInput(
            f"invalid seccomp argument: {argument!r}", hint=f"op is one of {', '.join(sorted(_OPERATORS))}"
        )
    index, value, second = (argument.get(key, 0) for key in ("index", "value", "valueTwo"))
    if (
        not all(isinstance(number, int) and 0 <= number < 1 << 64 for number in (index, value, second))
        or index > 5
    ):
        raise InvalidInput(
            f"invalid seccomp argument: {argument!r}", hint="index is 0..5, values are 64-bit numbers"
        )
    return Condition(
        index=index, operator=argument["op"].removeprefix("SCMP_CMP_"), value=value, value_two=second
    )


def _conditions(group: Mapping[str, Any]) -> list[tuple[Condition, ...]]:
    """Alternatives, each a conjunction: conditions on one and the same argument become rules of their own, as in runc."""
    found = [_condition(argument) for argument in group.get("args") or ()]
    if len({condition.index for condition in found}) < len(found):
        return [(condition,) for condition in found]
    return [tuple(found)]


def _applies(
    group: Mapping[str, Any], capabilities: frozenset[str], kernel: tuple[int, int], arch: str
) -> bool:
    """Whether a group's includes and excludes match this container, host kernel and native architecture."""
    includes, excludes = group.get("includes") or {}, group.get("excludes") or {}
    if arch in (excludes.get("arches") or ()) or capabilities & set(excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    return capabilities >= set(includes.get("caps") or ())


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        raise InvalidInput(f"invalid seccomp minKernel: {text!r}", hint='write it as "4.8"') from None


def _architectures(profile: Mapping[str, Any], native: str) -> list[str]:
    """Libseccomp's names of the architectures to filter; others are refused with a kill."""
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            return [name for name in (native, *(entry.get("subArchitectures") or ())) if name in _ARCHES]
    listed = [name for name in profile.get("architectures") or () if name in _ARCHES]
    return listed or [native]


def _rules(
    groups: Iterable[Mapping[str, Any]], table: Mapping[str, int], default: int, multiplexed: bool
) -> dict[int, list[Rule]]:
    """Number -> rules in order. A rule that only repeats the default action is left out; that is what lets the default decide."""
    found: dict[int, list[Rule]] = {}
    for group in groups:
        action = _action(group["action"], group.get("errnoRet"))
        if action == default:
            continue
        alternatives = [Rule(action=action, conditions=conditions) for conditions in _conditions(group)]
        for name in group.get("names") or (group["name"],):
            number = table.get(name)
            if number is not None:
                rules = [_narrowed(rule) for rule in alternatives] if name in _INT_FIRST else alternatives
                found.setdefault(number, []).extend(rules)
            if multiplexed and name in _MULTIPLEXED and not group.get("args"):
                call, first = _MULTIPLEXED[name]
                condition = Condition(index=0, operator="EQ", value=first)
                found.setdefault(table[call], []).append(Rule(action=action, conditions=(condition,)))
    return found


def _narrowed(rule: Rule) -> Rule:
    conditions = (
        replace(c, narrow=True) if c.index == 0 and c.operator == "NE" else c for c in rule.conditions
    )
    return replace(rule, conditions=tuple(conditions))


def _newest(groups: Iterable[Mapping[str, Any]], table: Mapping[str, int]) -> int:
    """The largest number that the profile says anything about; -1 for none."""
    names = (name for group in groups for name in group.get("names") or (group["name"],))
    return max((table[name] for name in names if name in table), default=-1)


def compile_profile(
    profile: Mapping[str, Any],
    capabilities: int,
    kernel_version: tuple[int, int] | None = None,
    machine: str | None = None,
) -> bytes:
    """The BPF program of a profile for a container with these capabilities (its bounding set).

    `kernel_version` (major, minor) and `machine` (uname -m) default to this host's. Compiled programs are cached.
    Raises InvalidInput for a profile that cannot be used or compiles to more than the kernel's 4096 instructions.
    """
    kernel = kernel_version or _host_kernel()
    if profile is default_profile():
        return _cached("default", capabilities, kernel, machine or platform.machine())
    digest = hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()
    if digest not in _profiles:
        _check(profile)
        if len(_profiles) >= 64:
            _profiles.clear()
        _profiles[digest] = profile
    return _cached(digest, capabilities, kernel, machine or platform.machine())


_profiles: dict[str, Mapping[str, Any]] = {}


@functools.lru_cache(maxsize=128)
def _cached(digest: str, capabilities: int, kernel: tuple[int, int], machine: str) -> bytes:
    profile = default_profile() if digest == "default" else _profiles[digest]
    return _compile(profile, capabilities, kernel, machine)


@functools.cache
def _host_kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor.split("-")[0])))


def _compile(profile: Mapping[str, Any], capabilities: int, kernel: tuple[int, int], machine: str) -> bytes:
    if machine not in _MACHINES:
        raise InvalidInput(
            f"cannot make a seccomp filter for {machine}", hint="use --security-opt seccomp=unconfined"
        )
    native, go_arch = _MACHINES[machine]
    held = frozenset(f"CAP_{name}" for number, name in enumerate(NAMES) if capabilities >> number & 1)
    groups = [group for group in profile.get("syscalls") or () if _applies(group, held, kernel, go_arch)]
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    patched = profile["defaultAction"] not in _PERMISSIVE
    sections: dict[int, list[seccomp_bpf.Section]] = {}
    for name in _architectures(profile, native):
        key, audit = _ARCHES[name]
        table = numbers()[key]
        rules = _rules(groups, table, default, multiplexed=key == "i386")
        newest = _newest(groups, table)
        unknown = _ERRNO | _ENOSYS if patched and newest >= 0 else default
        section = seccomp_bpf.Section(
            rules=rules, default=default, newest=newest, unknown=unknown, x32=key == "x32"
        )
        sections.setdefault(audit, []).append(section)
    return seccomp_bpf.assemble(sections, bad_arch=_KILL_PROCESS)
