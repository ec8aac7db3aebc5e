"""Docker's filters of `docker ps`, `container prune` and the lists of networks and volumes. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from pystack.engine import clock
from pystack.engine.interface import Filters
from pystack.model.errors import InvalidInput
from pystack.model.observed import ContainerView
from pystack.model.states import ContainerState

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_until(text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since the epoch of "10m", "1h30m", Unix seconds or RFC 3339."""
    now = time.time_ns() if now_ns is None else now_ns
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 1e9)
    parts = _DURATION.findall(text)
    if parts and "".join(a + b for a, b in parts) == text:
        return now - int(sum(float(a) * _UNITS[b] for a, b in parts) * 1e9)
    return clock.parse_ns(text)


def one_until(filters: Filters) -> Sequence[str]:
    """The values of `until`, of which a prune takes one."""
    values = filters.get("until", ())
    if len(values) > 1:
        raise InvalidInput("more than one until filter specified")
    return values


def match_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Whether every "key" or "key=value" is there."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _status(view: ContainerView, wanted: str) -> bool:
    if wanted not in set(ContainerState):
        raise InvalidInput(f"invalid filter 'status={wanted}'")
    return view.state == wanted


def _name(view: ContainerView, wanted: str) -> bool:
    try:
        return re.search(wanted, view.name) is not None or re.search(wanted, f"/{view.name}") is not None
    except re.error:
        return wanted.removeprefix("/") == view.name


def _exited(view: ContainerView, wanted: str) -> bool:
    if not re.fullmatch(r"-?\d+", wanted):
        raise InvalidInput(f"invalid filter 'exited={wanted}'")
    return view.state in {ContainerState.EXITED, ContainerState.DEAD} and view.exit_code == int(wanted)


def _ancestor(view: ContainerView, wanted: str) -> bool:
    digest = view.image_id.removeprefix("sha256:")
    named = {view.image, view.image.removesuffix(":latest"), view.image.rpartition(":")[0]}
    return wanted in named or (len(wanted) >= 4 and digest.startswith(wanted.removeprefix("sha256:")))


def _volume(view: ContainerView, wanted: str) -> bool:
    return any(wanted in {m.name, m.destination} or (m.source and m.source == wanted) for m in view.mounts)


def _network(view: ContainerView, wanted: str) -> bool:
    return (
        any(wanted in {e.network, e.network_id} for e in view.endpoints) or view.spec.network_mode == wanted
    )


def _port(view: ContainerView, wanted: str, *, published: bool) -> bool:
    ports, _, protocol = wanted.partition("/")
    low, _, high = ports.partition("-")
    if not (low.isdecimal() and (not high or high.isdecimal())):
        raise InvalidInput(f"invalid port filter {wanted!r}")
    numbers = range(int(low), int(high or low) + 1)
    if published:
        return any(p.host_port in numbers and p.protocol == (protocol or "tcp") for p in view.ports)
    have = {p.partition("/")[::2] for p in view.spec.exposed_ports}
    return any((str(n), protocol or "tcp") in have for n in numbers)


_TESTS: dict[str, Callable[[ContainerView, str], bool]] = {
    "id": lambda view, wanted: view.id.startswith(wanted),
    "name": _name,
    "status": _status,
    "exited": _exited,
    "ancestor": _ancestor,
    "volume": _volume,
    "network": _network,
    "health": lambda view, wanted: view.health == wanted,
    "publish": lambda view, wanted: _port(view, wanted, published=True),
    "expose": lambda view, wanted: _port(view, wanted, published=False),
    "is-task": lambda _view, wanted: wanted.lower() in {"false", "0"},
    "isolation": lambda _view, _wanted: False,
}


def container_matches(view: ContainerView, filters: Filters | None) -> bool:
    """Any value of one key, all keys; labels must all be there. `before` and `since` are the caller's."""
    for key, values in (filters or {}).items():
        if not values or key in {"before", "since", "until"}:
            continue
        if key == "label":
            if not match_labels(view.spec.labels, values):
                return False
        elif key == "label!":
            if any(match_labels(view.spec.labels, [v]) for v in values):
                return False
        elif key not in _TESTS:
            raise InvalidInput(f"invalid filter '{key}'")
        elif not any(_TESTS[key](view, v) for v in values):
            return False
    return True
