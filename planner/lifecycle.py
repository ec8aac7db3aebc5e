"""Plans that need no stack file: down, stop, start and restart of what exists, ordered by what its labels say.

In comes observed state, out goes a plan. What depends on something stops before it and starts after it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pystack.model.desired import Dependency
from pystack.model.errors import NotFound
from pystack.model.observed import ContainerView, ObservedStack
from pystack.model.plan import (
    Plan,
    PlanOptions,
    RemoveContainer,
    RemoveNetwork,
    RemoveVolume,
    RestartContainer,
    StartContainer,
    StopContainer,
    WaitFor,
)
from pystack.planner import labels
from pystack.planner.diff import is_running, is_settled, meets, not_running
from pystack.planner.order import Draft, dependency_order
from pystack.planner.survey import Survey


def _dependencies(survey: Survey) -> dict[str, tuple[Dependency, ...]]:
    """By service, what any of its containers says that it depends on."""
    found: dict[str, dict[str, Dependency]] = {}
    for name, views in sorted(survey.by_service.items()):
        known = found.setdefault(name, {})
        for view in views:
            for item in labels.dependencies_of(view.spec.labels):
                known[item.service] = item
    return {name: tuple(known.values()) for name, known in found.items()}


def _dependants(needs: dict[str, tuple[Dependency, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, items in needs.items():
        for item in items:
            found.setdefault(item.service, []).append(name)
    return found


def _draft_stops(
    draft: Draft, survey: Survey, chosen: Iterable[ContainerView], timeout: int | None, cause: str
) -> None:
    """A stop for each that runs, after those of its dependants; one-offs first, since nothing waits for them."""
    chosen = list(chosen)
    dependants = _dependants(_dependencies(survey))
    by_service: dict[str, list[str]] = {}
    oneoffs: dict[str, list[str]] = {}
    for view in chosen:
        if labels.is_oneoff(view):
            for item in labels.dependencies_of(view.spec.labels):
                oneoffs.setdefault(item.service, []).append(f"stop:{view.id}")
        else:
            by_service.setdefault(labels.service_of(view), []).append(f"stop:{view.id}")
    for view in chosen:
        if not is_running(view):
            continue
        name = labels.service_of(view)
        first = [] if labels.is_oneoff(view) else [*oneoffs.get(name, ())]
        if not labels.is_oneoff(view):
            first += [key for other in dependants.get(name, ()) for key in by_service.get(other, ())]
        draft.add(
            f"stop:{view.id}",
            StopContainer(resource=f"Container {view.name}", cause=cause, container=view.id, timeout=timeout),
            first,
        )


def plan_down(observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()) -> Plan:
    """Stop and remove the stack's containers and networks, with `volumes` also its volumes; or only some services."""
    survey, draft = Survey(observed), Draft()
    chosen: list[ContainerView] = []
    orphans: list[ContainerView] = []
    for view in survey.containers:
        name = labels.service_of(view)
        if targets and (name not in targets or labels.is_oneoff(view)):
            continue
        known = options.known is None or name in options.known or options.remove_orphans
        (chosen if known or labels.is_oneoff(view) else orphans).append(view)
    if orphans:
        draft.warnings.append(
            f"stack {survey.name} has containers of services that its file does not name, which stay: "
            f"{', '.join(view.name for view in orphans)}; --remove-orphans removes them"
        )
    _draft_stops(draft, survey, chosen, options.timeout, "down")
    removed = [
        draft.add(
            f"remove:{view.id}",
            RemoveContainer(
                resource=f"Container {view.name}",
                cause="down",
                container=view.id,
                volumes=options.volumes,
                force=True,
            ),
            [f"stop:{view.id}"],
        )
        for view in chosen
    ]
    if not targets:
        _draft_resources(draft, survey, options, chosen, removed, blocked=bool(orphans))
    return draft.finish()


def _draft_resources(
    draft: Draft,
    survey: Survey,
    options: PlanOptions,
    chosen: list[ContainerView],
    removed: list[str],
    *,
    blocked: bool,
) -> None:
    """Networks after the containers on them, volumes after all containers. `blocked`: orphans may still use them."""
    for network in survey.owned_networks():
        users = [
            f"remove:{view.id}" for view in chosen if any(e.network == network.name for e in view.endpoints)
        ]
        draft.add(
            f"unnetwork:{network.name}",
            RemoveNetwork(
                resource=f"Network {network.name}", cause="down", best_effort=blocked, network=network.id
            ),
            users,
        )
    for volume in survey.owned_volumes() if options.volumes else ():
        draft.add(
            f"unvolume:{volume.name}",
            RemoveVolume(
                resource=f"Volume {volume.name}",
                cause="down --volumes",
                best_effort=blocked,
                volume=volume.name,
            ),
            removed,
        )


def _choose(survey: Survey, targets: tuple[str, ...], verb: str) -> dict[str, list[ContainerView]]:
    """The containers of the services meant, by service. Raises NotFound when there is none."""
    for name in targets:
        if not survey.by_service.get(name):
            raise NotFound(
                f"cannot {verb} {name}: it has no container in stack {survey.name}",
                hint=f"pystack up -d {name}",
            )
    if not survey.by_service:
        raise NotFound(f"cannot {verb} stack {survey.name}: it has no container", hint="pystack up -d")
    return {
        name: views for name, views in sorted(survey.by_service.items()) if not targets or name in targets
    }


def plan_stop(observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()) -> Plan:
    """Stop what runs, dependants first."""
    survey, draft = Survey(observed), Draft()
    known = [name for name in targets if not survey.by_service.get(name)]
    draft.warnings += [f"service {name} has no container" for name in known]
    chosen = [
        view
        for name, views in sorted(survey.by_service.items())
        for view in views
        if not targets or name in targets
    ]
    _draft_stops(draft, survey, chosen, options.timeout, "stop")
    return draft.finish()


class _Starts:
    """Starts or restarts in dependency order, with the waits that `depends_on` asks for."""

    def __init__(self, survey: Survey, chosen: dict[str, list[ContainerView]]) -> None:
        self.survey, self.chosen = survey, chosen
        self.draft = Draft()
        self.needs = _dependencies(survey)
        self.awaited = {
            item.service
            for items in self.needs.values()
            for item in items
            if item.condition == "service_completed_successfully"
        }

    def gate(self, name: str) -> list[str]:
        keys = []
        for item in self.needs.get(name, ()):
            keys += [f"start:{view.id}" for view in self.chosen.get(item.service, ())]
            if item.condition != "service_started":
                keys.append(self._wait(item))
        return keys

    def _wait(self, item: Dependency) -> str:
        key = f"wait:{item.service}:{item.condition}"
        views = [
            view
            for view in self.survey.by_service.get(item.service, ())
            if f"start:{view.id}" in self.draft or not meets(view, item.condition)
        ]
        if key not in self.draft and views:
            resource = f"Container {views[0].name}" if len(views) == 1 else f"Service {item.service}"
            self.draft.add(
                key,
                WaitFor(
                    resource=resource,
                    cause="a service depends on it",
                    service=item.service,
                    condition=item.condition,
                    containers=tuple(view.id for view in views),
                ),
                [f"start:{view.id}" for view in views],
            )
        return key


def _in_order(needs: dict[str, tuple[Dependency, ...]], chosen: Iterable[str]) -> list[str]:
    chosen = set(chosen)
    return dependency_order({name: [item.service for item in needs.get(name, ())] for name in chosen})


def plan_start(observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()) -> Plan:
    """Start what does not run, dependencies first. A one-shot that has done its work starts only when it is named."""
    del options
    survey = Survey(observed)
    starts = _Starts(survey, _choose(survey, targets, "start"))
    for name in _in_order(starts.needs, starts.chosen):
        for view in starts.chosen[name]:
            named = name in targets and not is_running(view)
            if named or not is_settled(view, awaited=name in starts.awaited):
                starts.draft.add(
                    f"start:{view.id}",
                    StartContainer(
                        resource=f"Container {view.name}", cause=not_running(view), container=view.id
                    ),
                    starts.gate(name),
                )
    return starts.draft.finish()


def plan_restart(observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()) -> Plan:
    """Restart the services meant, and what depends on them with `restart: true`, dependencies first."""
    survey = Survey(observed)
    chosen = _choose(survey, targets, "restart")
    starts = _Starts(survey, chosen)
    causes = dict.fromkeys(chosen, "restart")
    for name in _in_order(starts.needs, survey.by_service):
        moved = [
            item.service for item in starts.needs.get(name, ()) if item.restart and item.service in causes
        ]
        if moved and name not in causes:
            causes[name] = f"dependency {moved[0]} is restarted"
            chosen[name] = survey.by_service[name]
    for name in _in_order(starts.needs, chosen):
        for view in chosen[name]:
            done = not is_running(view) and is_settled(view, awaited=name in starts.awaited)
            if name in targets or not done:
                starts.draft.add(
                    f"start:{view.id}",
                    RestartContainer(
                        resource=f"Container {view.name}",
                        cause=causes[name],
                        container=view.id,
                        timeout=options.timeout,
                    ),
                    starts.gate(name),
                )
    return starts.draft.finish()
