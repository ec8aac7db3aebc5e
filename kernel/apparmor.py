"""AppArmor: is it on, is a profile loaded, and what the child writes to get it.

In: securityfs. Out: facts and a string. Loading a profile is the host's business (apparmor.d(5)): the engine uses
`docker-default` when it is there.
"""

from __future__ import annotations

import functools

DEFAULT_PROFILE = "docker-default"


@functools.cache
def enabled() -> bool:
    """Whether the kernel enforces AppArmor."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            return file.read().startswith("Y")
    except FileNotFoundError:
        return False


def loaded_profiles() -> set[str]:
    """Names of the loaded profiles; empty when AppArmor is off or securityfs is not mounted."""
    try:
        with open("/sys/kernel/security/apparmor/profiles", encoding="utf-8") as file:
            return {line.rpartition(" (")[0] for line in file}
    except FileNotFoundError:
        return set()


def default_profile() -> str:
    """The profile of a container that names none: "" when the host has none loaded."""
    return DEFAULT_PROFILE if enabled() and DEFAULT_PROFILE in loaded_profiles() else ""


def exec_attribute(profile: str) -> bytes:
    """What a process writes to /proc/self/attr/apparmor/exec (or attr/exec) so that its next execve is confined."""
    return b"exec " + profile.encode()
