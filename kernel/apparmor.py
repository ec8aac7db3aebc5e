"""AppArmor: is it on, which profiles are loaded, and the engine's own, loaded at its start.

In: securityfs. Out: facts, and names for a bundle: the child writes one to /proc/self/attr/apparmor/exec. The kernel takes
compiled policy only, so loading needs `apparmor_parser` (Debian's package apparmor). Source: apparmor.d(5).
"""

from __future__ import annotations

import functools
import logging
import shutil
import subprocess

from pystack.model.errors import InvalidInput

log = logging.getLogger(__name__)

DEFAULT_PROFILE = "pystack-default"
#: A profile to the same end that dockerd may have loaded.
DOCKERS_PROFILE = "docker-default"
UNCONFINED = "unconfined"

#: What the other walls hold already, once more: no mounts, no writes to /proc but to its own processes and shared memory's
#: limits, none to /sys but cgroups; signals and traces within the profile only.
PROFILE = f"""
profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer={DEFAULT_PROFILE},
  ptrace (trace,read,tracedby,readby) peer={DEFAULT_PROFILE},
  deny mount,
  deny network alg,
  deny /proc/* w,
  deny /proc/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


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


def load_default() -> None:
    """Load the engine's profile where AppArmor is on; a host that cannot is told so in the log. Blocks: for a thread."""
    if not enabled() or DEFAULT_PROFILE in loaded_profiles():
        return
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if parser is None:
        log.warning(
            "containers have no AppArmor profile: there is no apparmor_parser; apt-get install apparmor"
        )
        return
    done = subprocess.run(
        [parser, "--skip-cache", "--replace"],
        input=PROFILE,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        log.warning("containers have no AppArmor profile: %s", done.stderr.strip()[-300:])


@functools.cache
def default_profile() -> str:
    """The profile of a container that names none: "" when the host has none loaded. Asked after `load_default`."""
    profiles = loaded_profiles() if enabled() else set()
    return next((name for name in (DEFAULT_PROFILE, DOCKERS_PROFILE) if name in profiles), "")


def choose(asked: str, *, privileged: bool) -> str:
    """The profile for a container's processes, "" for none. InvalidInput when the one asked for cannot be had."""
    if asked in {"", UNCONFINED}:
        return "" if asked or privileged else default_profile()
    if not enabled():
        raise InvalidInput(
            f"cannot use the AppArmor profile {asked!r}: AppArmor is not enabled on this host",
            hint="leave it out, or give apparmor=unconfined",
        )
    if asked not in loaded_profiles():
        raise InvalidInput(
            f"cannot use the AppArmor profile {asked!r}: it is not loaded", hint="apparmor_parser -r FILE"
        )
    return asked


def exec_attribute(profile: str) -> bytes:
    """What a process writes to /proc/self/attr/apparmor/exec (or attr/exec) so that its next execve is confined."""
    return b"exec " + profile.encode()
