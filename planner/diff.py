"""What is to become of each container of a service: keep, start, create, recreate … and why.

In come the desired service, the observed containers and what happens to the networks and services around them; out come
`Slot`s, one per replica. No operation is made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pystack.model.container import ContainerSpec
from pystack.model.desired import Service
from pystack.model.names import ID, short_id
from pystack.model.observed import ContainerView
from pystack.model.states import ContainerState, Health
from pystack.planner import labels
from pystack.planner.explain import differences, sentence
from pystack.planner.hashing import comparable, plain

#: A replacement that an interrupted recreate has left behind: the old one's short id, "_", the name.
_TEMPORARY = re.compile(r"[0-9a-f]{12}_(.+)\Z")
_RUNNING = frozenset({ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING})
_GOING = frozenset({ContainerState.REMOVING, ContainerState.DEAD})


class Action(StrEnum):
    KEEP = "keep"
    START = "start"
    CREATE = "create"
    RECREATE = "recreate"  # a new one under a temporary name takes the current one's place
    ADOPT = "adopt"  # a recreate was interrupted: its replacement is there already
    BOUNCE = "bounce"  # stop before, start after something that it depends on with `restart: true`


@dataclass(slots=True, kw_only=True)
class Slot:
    """One replica. `current` holds the place now, `replacement` is what an interrupted recreate made."""

    number: int
    name: str
    action: Action
    cause: str = ""
    current: ContainerView | None = None
    replacement: ContainerView | None = None
    leftovers: tuple[ContainerView, ...] = ()
    coupled: bool = (
        False  # stops before what it depends on stops, instead of when its own replacement may start
    )

    @property
    def replaced(self) -> bool:
        return self.action in (Action.RECREATE, Action.ADOPT)

    @property
    def starts(self) -> bool:
        return self.action is not Action.KEEP

    @property
    def ref(self) -> str:
        """What names the container once the plan is done: an id that exists, or the name it will have."""
        kept = self.action in (Action.KEEP, Action.START, Action.BOUNCE)
        return self.current.id if kept and self.current else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFact:
    """What a network will be: its id now ("" when it is to be made) and whether it is made anew."""

    name: str
    id: str
    recreated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One service as its containers should be."""

    service: Service
    config_hash: str
    document: Mapping[str, Any]
    make_spec: Callable[
        [], ContainerSpec
    ]  # of replica 1; only asked for when it matters, since it costs most
    image_id: str  # "" when the image is not here
    networks: tuple[NetworkFact, ...] = ()
    #: service whose namespace is shared -> id of its container, "" when that one is replaced or not there
    parents: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # hash -> document, from history
    force: bool = False
    no_recreate: bool = False


def is_running(view: ContainerView) -> bool:
    return view.state in _RUNNING


def is_settled(view: ContainerView, *, awaited: bool) -> bool:
    """Whether a container of an up stack needs no start: it runs, or it is a one-shot that has done its work.

    `awaited`: some service waits for its end with service_completed_successfully.
    """
    if is_running(view):
        return True
    one_shot = awaited or view.spec.restart.name in ("no", "on-failure")
    return (
        view.state is ContainerState.EXITED and view.exit_code == 0 and one_shot and not view.manually_stopped
    )


def meets(view: ContainerView, condition: str) -> bool:
    """Whether an observed container meets a condition of `depends_on` or `up --wait`."""
    running = view.state is ContainerState.RUNNING
    match condition:
        case "service_healthy":
            return running and view.health is Health.HEALTHY
        case "service_completed_successfully":
            return view.state is ContainerState.EXITED and view.exit_code == 0
        case "running_or_healthy":
            return running and view.health in (Health.NONE, Health.HEALTHY)
        case _:
            return is_running(view)


def divergence(view: ContainerView, wanted: Wanted) -> str:
    """Why the container cannot stay as it is, "" when it can."""
    return (
        _configuration(view, wanted)
        or _image(view, wanted)
        or _networks(view, wanted)
        or _namespaces(view, wanted)
    )


def _configuration(view: ContainerView, wanted: Wanted) -> str:
    recorded = view.spec.labels.get(labels.CONFIG_HASH, "")
    if recorded == wanted.config_hash:
        return ""
    told = wanted.recorded.get(recorded)
    found = differences(told, wanted.document) if told else spec_differences(view.spec, wanted.make_spec())
    # a hash of another version says nothing: then only what really differs counts
    return sentence(found) or ("configuration changed" if comparable(recorded) else "")


def _image(view: ContainerView, wanted: Wanted) -> str:
    if not wanted.image_id or view.image_id == wanted.image_id:
        return ""
    return f"image {wanted.service.image} changed {short_id(view.image_id)} -> {short_id(wanted.image_id)}"


def _networks(view: ContainerView, wanted: Wanted) -> str:
    joined = {item.network: item for item in view.endpoints}
    for fact in wanted.networks:
        endpoint = joined.get(fact.name)
        if fact.recreated:
            return f"network {fact.name} is recreated"
        if endpoint is None:
            if is_running(view):
                return f"not connected to network {fact.name}"
        elif endpoint.network_id and endpoint.network_id != fact.id:
            return f"network {fact.name} was recreated"
    return ""


def _namespaces(view: ContainerView, wanted: Wanted) -> str:
    service, spec = wanted.service, view.spec
    for desired, actual in (
        (service.network_mode, spec.network_mode),
        (service.ipc, spec.ipc_mode),
        (service.pid, spec.pid_mode),
    ):
        if desired.startswith("service:"):
            parent = desired.removeprefix("service:")
            if actual != f"container:{wanted.parents[parent]}":
                return f"container of service {parent} is recreated"
    return ""


#: Attributes that neither an image nor the engine fills in: what is not desired must not be there.
_EXACT = frozenset(
    {"ports", "resources", "cap_add", "cap_drop", "privileged", "read_only_rootfs", "restart", "files"}
    | {"sysctls", "security_opt", "extra_hosts", "dns", "tty", "open_stdin"}
)
#: Attributes to which an image or the engine adds: what is desired must be among them.
_SUBSET = frozenset({"env", "exposed_ports"})


def spec_differences(old: ContainerSpec, new: ContainerSpec) -> list[str]:
    """Phrases for what differs between a recorded spec, merged with its image's config, and the one desired."""
    before, after = plain(old), plain(new)
    left: dict[str, Any] = {}
    right: dict[str, Any] = {}
    for attribute in sorted((before.keys() & _EXACT) | after.keys()):
        name, was, will = attribute, before.get(attribute), after.get(attribute)
        if name == "labels":
            will = {key: item for key, item in will.items() if not key.startswith(labels.PREFIX)}
            was = {key: item for key, item in (was or {}).items() if key in will}
        elif name == "env":
            was, will = _variables(was or []), _variables(will)
            was = {key: item for key, item in was.items() if key in will}
            name = "environment"
        elif name in _SUBSET:
            was = [item for item in was or [] if item in will]
        elif name == "mounts":
            was = [item for item in was or [] if not ID.match(item.get("source", ""))]
        elif name in ("endpoints", "network_mode"):
            continue  # told by the networks themselves
        left[name], right[name] = was, will
    return differences(left, right)


def _variables(items: list[str]) -> dict[str, str | None]:
    return {key: value if equals else None for key, equals, value in (item.partition("=") for item in items)}


def is_temporary(view: ContainerView, name: str) -> bool:
    found = _TEMPORARY.match(view.name)
    return found is not None and found[1] == name


def decide(number: int, name: str, views: list[ContainerView], wanted: Wanted, *, awaited: bool) -> Slot:
    """What becomes of one replica, given all containers that bear its number. `awaited`: see `is_settled`."""
    going = tuple(view for view in views if view.state in _GOING)
    here = sorted(
        (view for view in views if view.state not in _GOING),
        key=lambda view: (is_temporary(view, name), view.name),
    )
    if not here:
        return Slot(number=number, name=name, action=Action.CREATE, cause="not there", leftovers=going)
    best, *others = here
    leftovers = (*others, *going)
    causes = {view.id: "recreate is forced" if wanted.force else divergence(view, wanted) for view in here}
    current = [view for view in here if not causes[view.id]]
    if is_temporary(best, name) and (best in current or wanted.no_recreate):
        cause = "an interrupted recreate goes on"
        return Slot(
            number=number, name=name, action=Action.ADOPT, cause=cause, replacement=best, leftovers=leftovers
        )
    if best in current or wanted.no_recreate:
        settled = is_settled(best, awaited=awaited)
        return Slot(
            number=number,
            name=name,
            action=Action.KEEP if settled else Action.START,
            cause="" if settled else not_running(best),
            current=best,
            leftovers=leftovers,
        )
    if current:
        return Slot(
            number=number,
            name=name,
            action=Action.ADOPT,
            cause=causes[best.id],
            current=best,
            replacement=current[0],
            leftovers=tuple(view for view in leftovers if view is not current[0]),
        )
    return Slot(
        number=number,
        name=name,
        action=Action.RECREATE,
        cause=causes[best.id],
        current=best,
        leftovers=leftovers,
    )


def not_running(view: ContainerView) -> str:
    if view.state is ContainerState.EXITED:
        return f"not running: exited ({view.exit_code})"
    return "not started yet" if view.state is ContainerState.CREATED else f"not running: {view.state}"
