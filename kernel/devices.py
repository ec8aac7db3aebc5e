"""Devices of a container: the rules of the device cgroup, and the nodes that go into /dev.

In: a request's devices and rules, host device nodes. Out: `DeviceRule` lists for `kernel.cgroups` in the order in which
they are applied (the last rule that matches decides, default deny) and `DeviceNode` entries for the bundle.
Defaults: moby `daemon/pkg/oci/defaults.go` plus what runc always allows (`libcontainer/specconv`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from pystack.model.container import Device
from pystack.model.errors import InvalidInput, NotFound

ANY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """One rule. `type` "a" means both kinds; `major`/`minor` ANY (-1) mean all; `access` is a subset of "rwm"."""

    allow: bool
    type: Literal["a", "c", "b"]
    major: int = ANY
    minor: int = ANY
    access: str = "rwm"

    def v1_line(self) -> str:
        """The form that devices.allow and devices.deny take (kernel doc cgroup-v1/devices.rst)."""
        if self.type == "a":
            return "a"
        return f"{self.type} {_number(self.major)}:{_number(self.minor)} {self.access}"


class NodeEntry(TypedDict):
    """As `engine.runtime.bundle.DeviceNode`."""

    path: str
    type: Literal["c", "b"]
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


def _number(value: int) -> str:
    return "*" if value == ANY else str(value)


def _allow(major: int, minor: int, access: str = "rwm") -> DeviceRule:
    return DeviceRule(allow=True, type="c", major=major, minor=minor, access=access)


ALLOW_ALL = (DeviceRule(allow=True, type="a"),)

#: Deny all, then: mknod of anything, null random full tty zero urandom console, pts, ptmx, tun; fuse stays denied.
DEFAULT_RULES: tuple[DeviceRule, ...] = (
    DeviceRule(allow=False, type="a"),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    _allow(1, 3),
    _allow(1, 5),
    _allow(1, 7),
    _allow(1, 8),
    _allow(1, 9),
    _allow(5, 0),
    _allow(5, 1),
    _allow(5, 2),
    _allow(136, ANY),
    _allow(10, 200),
    DeviceRule(allow=False, type="c", major=10, minor=229),
)

_RULE = re.compile(r"(?P<type>[acb]) (?P<major>[0-9]+|\*):(?P<minor>[0-9]+|\*) (?P<access>[rwm]{1,3})")
_ACCESS = re.compile(r"(?!.*(.).*\1)[rwm]{1,3}")


def parse_rule(text: str) -> DeviceRule:
    """One `--device-cgroup-rule`, "c 1:3 rwm". InvalidInput in Docker's words when it is malformed."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidInput(f"invalid device cgroup rule format: '{text}'", hint='write it as "c 1:3 rwm"')
    kind: Literal["a", "c", "b"] = "a" if match["type"] == "a" else "c" if match["type"] == "c" else "b"
    major, minor = (ANY if match[part] == "*" else int(match[part]) for part in ("major", "minor"))
    access = "".join(letter for letter in "rwm" if letter in match["access"])
    return DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)


def host_device(device: Device) -> list[tuple[NodeEntry, DeviceRule]]:
    """Nodes and rules of one `--device`: a node, or every node below a directory. Links of the host are followed.

    Raises NotFound when there is nothing and InvalidInput when it is no device.
    """
    if not _ACCESS.fullmatch(device.cgroup_permissions):
        raise InvalidInput(f"invalid device mode: {device.cgroup_permissions}", hint='use letters of "rwm"')
    place = os.path.realpath(device.path_on_host)
    target = device.path_in_container or device.path_on_host
    if os.path.isdir(place):
        found = []
        for name in _nodes_below(place):
            inside = os.path.join(target, os.path.relpath(name, place))
            found.append(_entry(name, inside, device.cgroup_permissions))
        if found:
            return found
    return [_entry(place, target, device.cgroup_permissions)]


def _nodes_below(directory: str) -> list[str]:
    return sorted(
        path
        for base, _, files in os.walk(directory)
        for path in (os.path.join(base, name) for name in files)
        if _is_device(os.lstat(path).st_mode)
    )


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _entry(place: str, target: str, access: str) -> tuple[NodeEntry, DeviceRule]:
    try:
        info = os.stat(place)
    except OSError as error:
        raise NotFound(
            f'cannot add device "{place}": {error.strerror}', hint="name a device node of the host"
        ) from error
    if not _is_device(info.st_mode):
        raise InvalidInput(f'cannot add device "{place}": not a device node')
    kind: Literal["c", "b"] = "c" if stat.S_ISCHR(info.st_mode) else "b"
    major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    node: NodeEntry = {
        "path": target,
        "type": kind,
        "major": major,
        "minor": minor,
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }
    return node, DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)


def block_number(path: str) -> str:
    """MAJOR:MINOR of a block device of the host. NotFound when there is none, InvalidInput when it is something else."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise NotFound(
            f"cannot limit block device {path}: {error.strerror}", hint="name a block device of the host"
        ) from error
    if not stat.S_ISBLK(info.st_mode):
        raise InvalidInput(f"cannot limit {path}: not a block device")
    return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"


#: What a privileged container makes for itself below /dev, or must not share.
_PRIVATE_DEV = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx")


def all_host_nodes() -> list[NodeEntry]:
    """Every device node of the host's /dev, for a privileged container."""
    found = []
    for name in sorted(os.listdir("/dev")):
        if name in _PRIVATE_DEV:
            continue
        place = f"/dev/{name}"
        mode = os.lstat(place).st_mode
        nodes = _nodes_below(place) if stat.S_ISDIR(mode) else [place] if _is_device(mode) else []
        found += [_entry(node, node, "rwm")[0] for node in nodes]
    return found


def container_devices(
    privileged: bool, devices: Iterable[Device], rules: Iterable[str]
) -> tuple[list[NodeEntry], Sequence[DeviceRule]]:
    """(extra nodes, rules for the device cgroup) of a container. Errors as `host_device` and `parse_rule`."""
    parsed = [parse_rule(rule) for rule in rules]
    asked = [pair for device in devices for pair in host_device(device)]
    if privileged:
        own = {node["path"] for node, _ in asked}
        return [
            *(node for node in all_host_nodes() if node["path"] not in own),
            *(node for node, _ in asked),
        ], ALLOW_ALL
    return [node for node, _ in asked], [*DEFAULT_RULES, *(rule for _, rule in asked), *parsed]
