"""Which services are enabled, and what each depends on.

In: the validated services, the chosen profiles and the explicit targets. Out: the enabled services in file order. Rules:
Compose Specification 15-profiles; a target enables itself, whatever its profiles, and activates them for its dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pystack.stackfile.schema import DependsOn, ServicePart


def enabled(
    services: Mapping[str, ServicePart], profiles: Iterable[str], targets: Iterable[str]
) -> dict[str, ServicePart]:
    """The services that the profiles and the targets enable."""
    chosen = set(profiles)
    named = {name for name in targets if name in services}
    for name in named:
        chosen.update(services[name].profiles or ())
    return {
        name: service
        for name, service in services.items()
        if not service.profiles or name in named or "*" in chosen or chosen.intersection(service.profiles)
    }


def dependencies(service: ServicePart) -> dict[str, DependsOn]:
    """What the service depends on: `depends_on`, and the services whose namespaces or volumes it shares."""
    found = {name: value or DependsOn() for name, value in (service.depends_on or {}).items()}
    for mode in (service.network_mode, service.ipc, service.pid, service.uts, service.cgroup):
        if mode and mode.startswith("service:"):
            found.setdefault(mode.removeprefix("service:"), DependsOn(restart=True))
    for link in service.links or ():
        found.setdefault(link.partition(":")[0], DependsOn(restart=True))
    for source in service.volumes_from or ():
        if not source.startswith("container:"):
            found.setdefault(source.partition(":")[0], DependsOn(restart=False))
    return found
