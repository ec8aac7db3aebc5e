"""States of a container, the moves allowed between them, and Docker's words for them."""

from __future__ import annotations

from enum import StrEnum

from pystack.model.errors import Conflict


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


_S = ContainerState
#: From each state, the states that may follow. `restarting` is an exited container that waits for its back-off.
ALLOWED: dict[ContainerState, frozenset[ContainerState]] = {
    _S.CREATED: frozenset({_S.RUNNING, _S.EXITED, _S.REMOVING}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.EXITED, _S.RESTARTING, _S.REMOVING}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.EXITED, _S.RESTARTING, _S.REMOVING}),
    _S.RESTARTING: frozenset({_S.RUNNING, _S.EXITED, _S.REMOVING}),
    _S.EXITED: frozenset({_S.RUNNING, _S.RESTARTING, _S.REMOVING}),
    _S.REMOVING: frozenset({_S.DEAD}),
    _S.DEAD: frozenset({_S.REMOVING}),
}


def transition(current: ContainerState, target: ContainerState, name: str) -> ContainerState:
    """Return `target` if the move is allowed. Raises Conflict naming the container and both states."""
    if target not in ALLOWED[current]:
        raise Conflict(f"cannot move container {name} from {current} to {target}")
    return target


class Health(StrEnum):
    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
