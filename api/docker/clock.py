"""Time as Docker words it: RFC 3339 texts and a clock go in, seconds, durations and `Status` lines come out.

Sources: docker/go-units `HumanDuration`, moby `container/state.go` String.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pystack.api.filters import instant_ns
from pystack.model.observed import NEVER, ContainerView
from pystack.model.states import ContainerState, Health


def unix_seconds(text: str) -> int:
    """Whole seconds since the epoch of an RFC 3339 text; 0 when it is none or "never"."""
    if not text or text == NEVER:
        return 0
    try:
        return instant_ns(text) // 10**9
    except ValueError:
        return 0


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, without zeros at the end; the year is 1 to 9999, as in Go's JSON."""
    seconds, rest = divmod(min(max(ns, -62135596800 * 10**9), 253402300799 * 10**9), 10**9)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text:0>19}" + (f".{rest:09}".rstrip("0") if rest else "") + "Z"


def human_duration(ns: int) -> str:
    """A duration as "3 seconds", "About a minute" or "2 weeks"."""
    seconds = ns // 10**9
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{seconds // 3600 // 24 // 365} years"


def _since(text: str, now_ns: int) -> str:
    try:
        return human_duration(max(0, now_ns - instant_ns(text)))
    except ValueError:
        return "Less than a second"


def status_line(view: ContainerView, now_ns: int) -> str:
    """The STATUS column of `docker ps`."""
    match view.state:
        case ContainerState.RUNNING:
            health = {
                Health.STARTING: " (health: starting)",
                Health.HEALTHY: " (healthy)",
                Health.UNHEALTHY: " (unhealthy)",
            }.get(view.health, "")
            return f"Up {_since(view.started_at, now_ns)}{health}"
        case ContainerState.PAUSED:
            return f"Up {_since(view.started_at, now_ns)} (Paused)"
        case ContainerState.RESTARTING:
            return f"Restarting ({view.exit_code}) {_since(view.finished_at, now_ns)} ago"
        case ContainerState.REMOVING:
            return "Removal In Progress"
        case ContainerState.DEAD:
            return "Dead"
        case ContainerState.CREATED:
            return "Created"
        case ContainerState.EXITED:
            if view.finished_at == NEVER:
                return "Created"
            return f"Exited ({view.exit_code}) {_since(view.finished_at, now_ns)} ago"
