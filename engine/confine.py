"""Security options of a container: Docker's `--security-opt`, capabilities and path lists, as what a bundle carries.

The same `Confinement` is applied to PID 1, to every exec and to health probes: DESIGN §3, trap 5.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from functools import lru_cache

from pystack.engine.runtime.bundle import Capabilities
from pystack.kernel import apparmor, capabilities, process, seccomp
from pystack.model.container import ContainerSpec
from pystack.model.errors import InvalidInput

#: moby `daemon/pkg/oci/defaults.go`; thermal_throttle is added for each CPU that has it.
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """`--security-opt` after parsing. `seccomp` is "" for the default profile, "unconfined", or a profile's JSON."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    unmasked: bool = False
    writable_cgroups: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    capabilities: Capabilities
    seccomp: str  # base64 of the BPF program, "" = none
    no_new_privileges: bool
    apparmor: str


def _boolean(option: str, value: str) -> bool:
    words = {"": True, "true": True, "1": True, "false": False, "0": False}
    if value.lower() not in words:
        raise InvalidInput(f"invalid --security-opt: {option!r}", hint="give true or false")
    return words[value.lower()]


def parse_security_options(options: tuple[str, ...]) -> SecurityOptions:
    """InvalidInput for an option that Docker does not know, or that this host has nothing for (SELinux labels)."""
    nnp = unmasked = writable = False
    profile = lsm = ""
    for option in options:
        cut = min((i for i in (option.find("="), option.find(":")) if i >= 0), default=len(option))
        key, value = option[:cut], option[cut + 1 :]
        match key:
            case "no-new-privileges":
                nnp = _boolean(option, value)
            case "writable-cgroups":
                writable = _boolean(option, value)
            case "seccomp" if value:
                profile = "" if value == "builtin" else value
            case "apparmor" if value:
                lsm = value
            case "systempaths" if value == "unconfined":
                unmasked = True
            case "label" if value == "disable":
                pass
            case "label":
                raise InvalidInput(
                    f"cannot use --security-opt {option}: this engine does not label for SELinux",
                    hint="leave it out, or give label=disable",
                )
            case _:
                number = 2 if len(option) > cut else 1
                raise InvalidInput(f'invalid --security-opt {number}: "{option}"')
    return SecurityOptions(
        no_new_privileges=nnp,
        seccomp=profile,
        apparmor=lsm,
        unmasked=unmasked,
        writable_cgroups=writable,
    )


@lru_cache(maxsize=1)
def _available() -> int:
    """What this engine may hand on: capabilities outside its own bounding set cannot be had here (as moby `caps`)."""
    return int(process.status(os.getpid())["CapBnd"], 16)


@lru_cache(maxsize=64)
def _program(profile: str, mask: int) -> str:
    """Base64 of the compiled filter; `profile` "" is the default one. InvalidInput when it is not a profile."""
    if profile:
        try:
            document = json.loads(profile)
        except ValueError as error:
            raise InvalidInput(f"Decoding seccomp profile failed: {error}") from error
        if not isinstance(document, dict):
            raise InvalidInput("Decoding seccomp profile failed: it is not a JSON object")
    else:
        document = seccomp.default_profile()
    return base64.b64encode(seccomp.compile_profile(document, mask)).decode()


def confinement(config: ContainerSpec, *, privileged: bool | None = None) -> Confinement:
    """What to apply to a process of this container.

    `privileged` (exec --privileged) gives it every capability; the filter stays the container's, as with Docker's runc.
    """
    options = parse_security_options(config.security_opt)
    own = capabilities.effective_set(config.privileged, config.cap_add, config.cap_drop) & _available()
    mask = capabilities.full_set() & _available() if privileged else own
    unconfined = options.seccomp == "unconfined" or (config.privileged and not options.seccomp)
    return Confinement(
        capabilities=capabilities.masks(mask),
        seccomp="" if unconfined else _program(options.seccomp, own),
        no_new_privileges=options.no_new_privileges,
        apparmor=apparmor.choose(options.apparmor, privileged=config.privileged),
    )


@lru_cache(maxsize=1)
def _thermal_paths() -> tuple[str, ...]:
    return tuple(f"/sys/devices/system/cpu/cpu{n}/thermal_throttle" for n in range(os.cpu_count() or 1))


def path_lists(config: ContainerSpec) -> tuple[list[str], list[str]]:
    """Masked and read-only paths: none when privileged or unconfined, the request's own lists when it has them."""
    if config.privileged or parse_security_options(config.security_opt).unmasked:
        return [], []
    masked = config.masked_paths if config.masked_paths is not None else (*MASKED_PATHS, *_thermal_paths())
    readonly = config.readonly_paths if config.readonly_paths is not None else READONLY_PATHS
    return list(masked), list(readonly)
