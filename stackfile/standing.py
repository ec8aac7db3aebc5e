"""What becomes of each attribute of the specification: carried out, refused, or accepted and ignored; and why.

Two tables from a path (`*` for any name, `[]` for any entry) to the reason. `support` reports by them and docs/compose.md
is written from them, so that code and document cannot disagree. What stands in neither is carried out. Pure data.
"""

from __future__ import annotations

from typing import Literal

Standing = Literal["honoured", "refused", "ignored"]

_WINDOWS = "of Windows containers"
_NOT_YET = "the engine does not do it yet"

#: `up` ends with an error: what runs would not be what the file says.
REFUSED: dict[str, str] = {
    "models": "there is no model runner",
    "networks.*.ipam.driver": "only the engine's own, `default`",
    "configs.*.template_driver": _NOT_YET,
    "secrets.*.template_driver": _NOT_YET,
    "secrets.*.driver": "there are no secret drivers",
    "secrets.*.driver_opts": "there are no secret drivers",
    "services.*.build": _NOT_YET,
    "services.*.cpu_count": _WINDOWS,
    "services.*.cpu_percent": _WINDOWS,
    "services.*.cpu_rt_period": "the kernel must be built for it; no distribution's is",
    "services.*.cpu_rt_runtime": "the kernel must be built for it; no distribution's is",
    "services.*.credential_spec": _WINDOWS,
    "services.*.deploy.resources.reservations.devices": _NOT_YET,
    "services.*.deploy.resources.reservations.generic_resources": "only a cluster's scheduler counts them",
    "services.*.external_links": _NOT_YET,
    "services.*.gpus": _NOT_YET,
    "services.*.isolation": _WINDOWS,
    "services.*.links": _NOT_YET,
    "services.*.mac_address": "give it per network: `networks.<name>.mac_address`",
    "services.*.models": "there is no model runner",
    "services.*.networks.*.driver_opts": _NOT_YET,
    "services.*.networks.*.interface_name": _NOT_YET,
    "services.*.networks.*.link_local_ips": _NOT_YET,
    "services.*.platform": _NOT_YET,
    "services.*.post_start": _NOT_YET,
    "services.*.pre_start": _NOT_YET,
    "services.*.pre_stop": _NOT_YET,
    "services.*.provider": _NOT_YET,
    "services.*.pull_refresh_after": _NOT_YET,
    "services.*.runtime": "the engine is its own runtime",
    "services.*.storage_opt": _NOT_YET,
    "services.*.use_api_socket": _NOT_YET,
    "services.*.volumes[].image": _NOT_YET,
    "services.*.volumes_from": _NOT_YET,
}

#: `up` warns: it concerns later operations, or nothing on one host.
IGNORED: dict[str, str] = {
    "version": "obsolete in the specification, too",
    "networks.*.ipam.options": "the engine's address management has none; Compose drops them as well",
    "configs.*.labels": "a config is a file of its containers, not an object of the engine",
    "secrets.*.labels": "a secret is a file of its containers, not an object of the engine",
    "services.*.attach": "logs of all services are shown",
    "services.*.deploy.endpoint_mode": "one host has one way to reach a service",
    "services.*.deploy.labels": "there is no service object that could bear them; `labels` are the containers'",
    "services.*.deploy.placement": "there is one host",
    "services.*.deploy.resources.reservations.cpus": "there is one host, and no scheduler that reserves",
    "services.*.deploy.restart_policy.delay": _NOT_YET,
    "services.*.deploy.restart_policy.window": _NOT_YET,
    "services.*.deploy.rollback_config": _NOT_YET,
    "services.*.deploy.update_config": _NOT_YET,
    "services.*.develop": "it concerns `watch`, not what runs",
    "services.*.ports[].app_protocol": "a hint for other platforms",
    "services.*.ports[].name": "a name for people",
    "services.*.volumes[].bind.selinux": "the engine sets no SELinux labels",
    "services.*.volumes[].consistency": "for Docker Desktop; a Linux host's mounts are consistent",
}


def standing(path: str) -> Standing:
    """What becomes of the attribute at a path; what stands above it decides for what is below."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        above = ".".join(parts[:end])
        for known in (above, above.removesuffix("[]")):
            if known in REFUSED:
                return "refused"
            if known in IGNORED:
                return "ignored"
    return "honoured"


def reason(path: str) -> str:
    """Why the attribute is not carried out; "" when it is."""
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        above = ".".join(parts[:end])
        for known in (above, above.removesuffix("[]")):
            if known in REFUSED or known in IGNORED:
                return REFUSED.get(known) or IGNORED[known]
    return ""
