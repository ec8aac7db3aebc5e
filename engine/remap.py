"""`userns-remap`: Docker's option and the host's /etc/subuid and /etc/subgid in, the ids of containers' users out.

Files keep the container's own ids on disk, so images, volumes and containers are shared with those that use the host's
ids, and the option may change at any time. docs/adr/0012-user-namespaces.md
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from pystack.model.container import ContainerSpec
from pystack.model.errors import EngineError, InvalidInput
from pystack.model.names import Instance

#: Whom "default" means, as with dockerd.
DEFAULT_USER = "dockremap"
Range = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """(first id inside, first on the host, count) of users and of groups. Id 0 inside is always mapped."""

    uid: tuple[Range, ...]
    gid: tuple[Range, ...]


def remapped(ids: IdMap | None, config: ContainerSpec) -> IdMap | None:
    """The ids of a container: None when they are the host's."""
    return None if config.userns_mode == "host" else ids


def check(ids: IdMap | None, config: ContainerSpec) -> None:
    """What a container with a user namespace of its own cannot have, in moby's words (verifyPlatformContainerSettings)."""
    if remapped(ids, config) is None:
        return
    if config.privileged:
        raise InvalidInput(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode",
            hint="--userns=host",
        )
    if config.network_mode == "host":
        raise InvalidInput(
            "cannot share the host's network namespace when user namespaces are enabled", hint="--userns=host"
        )
    if config.pid_mode == "host":
        raise InvalidInput(
            "cannot share the host PID namespace when user namespaces are enabled", hint="--userns=host"
        )


def parse(option: str, *, subuid: str = "/etc/subuid", subgid: str = "/etc/subgid") -> IdMap | None:
    """`default`, `user`, `uid`, `user:group` or `uid:gid`; "" is no mapping. InvalidInput with what is missing."""
    if not option:
        return None
    user, colon, group = option.partition(":")
    if user == "default" and not colon:
        user = DEFAULT_USER
    uid, name = _user(user, option)
    gid, group_name = _group(group, option) if colon else (_own_group(uid), name)
    return IdMap(
        uid=_ranges(subuid, {name, str(uid)}, "user"), gid=_ranges(subgid, {group_name, str(gid)}, "group")
    )


def _user(word: str, option: str) -> tuple[int, str]:
    try:
        entry = pwd.getpwuid(int(word)) if word.isdigit() else pwd.getpwnam(word)
    except KeyError:
        raise InvalidInput(
            f"cannot use userns-remap {option!r}: there is no user {word!r}",
            hint=f"useradd -r {word}, then give it ids in /etc/subuid and /etc/subgid",
        ) from None
    return entry.pw_uid, entry.pw_name


def _own_group(uid: int) -> int:
    return pwd.getpwuid(uid).pw_gid


def _group(word: str, option: str) -> tuple[int, str]:
    try:
        entry = grp.getgrgid(int(word)) if word.isdigit() else grp.getgrnam(word)
    except KeyError:
        raise InvalidInput(f"cannot use userns-remap {option!r}: there is no group {word!r}") from None
    return entry.gr_gid, entry.gr_name


def _ranges(path: str, owners: set[str], kind: str) -> tuple[Range, ...]:
    """The lines `name:start:count` of one owner, one after the other from id 0 on (subuid(5))."""
    try:
        with open(path, encoding="utf-8") as file:
            found = list(_parse(file, owners))
    except FileNotFoundError:
        found = []
    if not found:
        name = min(owners, key=str.isdigit)
        raise InvalidInput(
            f"cannot use userns-remap: {path} gives no ids to the {kind} {name}",
            hint=f"add a line like {name}:100000:65536",
        )
    return tuple(found)


def _parse(lines: Iterable[str], owners: set[str]) -> Iterable[Range]:
    inside = 0
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) != 3 or parts[0] not in owners or not (parts[1].isdigit() and parts[2].isdigit()):
            continue
        start, count = int(parts[1]), int(parts[2])
        if not start or not count or start + count > 1 << 32:
            raise InvalidInput(f"cannot use the range {line.strip()!r}: ids begin at 1 and end below 2^32")
        yield (inside, start, count)
        inside += count


def require_support(instance: Instance) -> None:
    """EngineError when this kernel, or the file system of the engine's files, cannot map ids. Once, at the start."""
    command = [sys.executable, "-P", "-m", "pystack.kernel.userns", instance.root, instance.run]
    environment = {
        key: value for key, value in os.environ.items() if key in {"PATH", "PYTHONPATH", "PYTHONHOME"}
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["?"]
        raise EngineError(
            f"cannot use userns-remap: {reason[0]}",
            hint="it needs Linux 6.3 and a root like ext4, xfs or btrfs; /proc/sys/user/max_user_namespaces above 0",
        )
