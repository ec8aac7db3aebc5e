"""Capability names and masks: what a container may do, by Docker's rules.

In: cap_add and cap_drop of a request. Out: bit masks (bit n = capability n) for the bundle. Linux numbers from
capabilities(7); the default set is Docker's (moby `daemon/pkg/oci/caps`). Pure but for the running kernel's last
capability, which is read once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TypedDict

from pystack.model.errors import InvalidInput


class CapabilitySets(TypedDict):
    """As `engine.runtime.bundle.Capabilities`."""

    bounding: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int


#: Position = number in <linux/capability.h>.
NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
_BITS = {name: 1 << number for number, name in enumerate(NAMES)}

_DEFAULT_NAMES = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
#: Docker's 14: 0xa80425fb.
DEFAULT = sum(_BITS[name] for name in _DEFAULT_NAMES.split())


@functools.cache
def last_capability() -> int:
    """Number of the running kernel's last capability."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def full_set() -> int:
    """Every capability of the running kernel, those without a name here included: what "ALL" and privileged mean."""
    return (1 << (last_capability() + 1)) - 1


def bit(name: str) -> int:
    """Mask of one name, in any case, with or without CAP_. InvalidInput when there is no such capability here."""
    mask = _BITS.get(name.upper().removeprefix("CAP_"), 0) & full_set()
    if not mask:
        raise InvalidInput(
            f'unknown capability: "CAP_{name.upper().removeprefix("CAP_")}"',
            hint="capabilities(7) lists the names; ALL means every one of them",
        )
    return mask


def names(mask: int) -> list[str]:
    """The names in a mask, CAP_ in front, by number."""
    return [f"CAP_{name}" for name, value in _BITS.items() if mask & value]


def effective_set(privileged: bool, add: Iterable[str], drop: Iterable[str]) -> int:
    """The container's capabilities. Raises InvalidInput for an unknown name, privileged or not.

    Docker's order: `add: ALL` starts from all and takes away `drop`; else `drop: ALL` leaves exactly `add`; else the
    default without `drop`, then with `add` (a name in both is kept).
    """
    added = {name.upper() for name in add}
    dropped = {name.upper() for name in drop}
    add_mask = sum({_listed_bit("CapAdd", name) for name in added if not _is_all(name)})
    drop_mask = sum({_listed_bit("CapDrop", name) for name in dropped if not _is_all(name)})
    if privileged:
        return full_set()
    if any(map(_is_all, added)):
        return full_set() & ~drop_mask
    if any(map(_is_all, dropped)):
        return add_mask
    return (DEFAULT & full_set() & ~drop_mask) | add_mask


def _listed_bit(field: str, name: str) -> int:
    try:
        return bit(name)
    except InvalidInput as error:
        raise InvalidInput(f"invalid {field}: {error}", hint=error.hint) from error


def _is_all(name: str) -> bool:
    return name in {"ALL", "CAP_ALL"}


def masks(mask: int) -> CapabilitySets:
    """The five sets for a bundle. Inheritable and ambient stay empty whatever is added (CVE-2022-24769)."""
    return {"bounding": mask, "permitted": mask, "effective": mask, "inheritable": 0, "ambient": 0}
