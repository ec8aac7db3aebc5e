"""Networks and volumes of a stack: which are there, made, made anew or taken as they are.

In come the stack and the survey; operations go into the draft, and facts about the networks come out for the services.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pystack.model.container import NetworkSpec
from pystack.model.desired import Service, Stack, StackVolume
from pystack.model.errors import NotFound
from pystack.model.observed import NetworkView, VolumeView
from pystack.model.plan import CreateNetwork, CreateVolume, RemoveNetwork
from pystack.planner import labels
from pystack.planner.diff import NetworkFact, is_running
from pystack.planner.explain import sentence, show
from pystack.planner.hashing import comparable
from pystack.planner.order import Draft
from pystack.planner.specs import joined_networks, network_spec, stack_network, volume_spec
from pystack.planner.survey import Survey


def network_difference(view: NetworkView, spec: NetworkSpec) -> str:
    """Why a network cannot stay as it is, "" when it can. Engines fill in subnets: they count only if the file gives any."""
    recorded = view.labels.get(labels.CONFIG_HASH, "")
    if recorded == spec.labels[labels.CONFIG_HASH]:
        return ""
    found = [
        f"{name}: {show('', getattr(view, name))} -> {show('', getattr(spec, name))}"
        for name in ("driver", "internal", "attachable", "enable_ipv6")
        if getattr(view, name) != getattr(spec, name)
    ]
    before, after = ([pool.subnet for pool in item.ipam_pools] for item in (view, spec))
    if after and before != after:
        found.append(f"ipam: {show('', before)} -> {show('', after)}")
    if any(view.options.get(key) != value for key, value in spec.options.items()):
        found.append("options changed")
    return sentence(found) or ("configuration changed" if comparable(recorded) else "")


class Networks:
    """The networks that the given services join. Only a network whose containers are all of `movable` services is made anew."""

    def __init__(
        self,
        stack: Stack,
        survey: Survey,
        draft: Draft,
        services: Mapping[str, Service],
        movable: Collection[str],
    ) -> None:
        self._stack, self._survey, self._draft = stack, survey, draft
        self._movable = movable
        self._recreated: dict[str, str] = {}  # name -> why
        self._names: dict[str, str] = {}  # key -> name
        for key in sorted(
            {item.network for service in services.values() for item in joined_networks(service)}
        ):
            self._decide(key)

    def _decide(self, key: str) -> None:
        network = stack_network(self._stack, key)
        name = self._names[key] = network.name
        view = self._survey.networks.get(name)
        if network.external:
            if view is None:
                raise NotFound(
                    f"network {name} is external, and is not there", hint=f"docker network create {name}"
                )
            return
        spec = network_spec(self._stack, network)
        if view is None:
            self._draft.add(
                f"network:{name}",
                CreateNetwork(resource=f"Network {name}", cause="not there", spec=spec),
            )
        elif not self._survey.owns(view):
            if not view.predefined:
                self._draft.warnings.append(
                    f"network {name} exists, but is not of stack {self._stack.name}: used as it is"
                )
        elif why := network_difference(view, spec):
            self._recreate(name, view, spec, why)

    def _recreate(self, name: str, view: NetworkView, spec: NetworkSpec, why: str) -> None:
        """Make it anew: everything of ours on it stops first and gets a new container after."""
        strangers = [
            item.name
            for item in self._survey.attached(name)
            if labels.is_oneoff(item) or labels.service_of(item) not in self._movable
        ]
        strangers += [
            other
            for key, other in sorted(view.container_names.items())
            if all(item.id != key for item in self._survey.containers)
        ]
        if strangers:
            self._draft.warnings.append(
                f"network {name} differs from the file ({why}), but {', '.join(strangers)} "
                f"{'uses' if len(strangers) == 1 else 'use'} it: left as it is"
            )
            return
        self._recreated[name] = why
        stops = [f"stop:{item.id}" for item in self._survey.attached(name) if is_running(item)]
        resource = f"Network {name}"
        removed = self._draft.add(
            f"unnetwork:{name}", RemoveNetwork(resource=resource, cause=why, network=view.id), stops
        )
        self._draft.add(f"network:{name}", CreateNetwork(resource=resource, cause=why, spec=spec), [removed])

    def is_recreated(self, name: str) -> bool:
        return name in self._recreated

    def facts(self, service: Service) -> tuple[NetworkFact, ...]:
        found = []
        for item in joined_networks(service):
            name = self._names[item.network]
            view = self._survey.networks.get(name)
            found.append(
                NetworkFact(name=name, id=view.id if view else "", recreated=self.is_recreated(name))
            )
        return tuple(found)


def plan_volumes(stack: Stack, survey: Survey, draft: Draft, services: Iterable[Service]) -> None:
    """Make the named volumes that are not there. One that differs is never made anew: its data would be lost."""
    keys = {
        mount.source
        for service in services
        for mount in service.mounts
        if mount.type == "volume" and mount.source
    }
    for key in sorted(keys & stack.volumes.keys()):
        volume = stack.volumes[key]
        view = survey.volumes.get(volume.name)
        if volume.external:
            if view is None:
                raise NotFound(
                    f"volume {volume.name} is external, and is not there",
                    hint=f"docker volume create {volume.name}",
                )
        elif view is None:
            draft.add(
                f"volume:{volume.name}",
                CreateVolume(
                    resource=f"Volume {volume.name}", cause="not there", spec=volume_spec(stack, volume)
                ),
            )
        else:
            _warn_of_volume(stack, survey, draft, volume, view)


def _warn_of_volume(
    stack: Stack, survey: Survey, draft: Draft, volume: StackVolume, view: VolumeView
) -> None:
    if not survey.owns(view):
        draft.warnings.append(f"volume {view.name} exists, but is not of stack {stack.name}: used as it is")
    elif view.driver != volume.driver or dict(view.options) != dict(volume.driver_options):
        draft.warnings.append(
            f"volume {view.name} differs from the file, and is used as it is, since a new one would be empty; "
            f"to make it anew, remove it: docker volume rm {view.name}"
        )
