"""The plan: what has to be done to a stack, as data. A DAG of operations, each one engine call with its cause.

`planner` makes it from desired and observed state, `reconciler.execute` carries it out, `pystack plan` prints it.
Containers are named by id where they exist already and by the name that an earlier operation of the plan gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pystack.model.container import ContainerSpec, NetworkSpec, VolumeSpec

#: What a `WaitFor` waits for: the conditions of `depends_on`, and that of `up --wait`.
WaitCondition = Literal[
    "service_started", "service_healthy", "service_completed_successfully", "running_or_healthy"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One engine call. `resource` is what a user reads ("Container shop-web-1"), `cause` says why in words.

    The failure of a `best_effort` operation is reported as a warning and holds nothing up.
    """

    resource: str
    cause: str
    best_effort: bool = False

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def changes(self) -> bool:
        """Whether it alters anything; waiting and making sure of an image do not."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateNetwork(Operation):
    spec: NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNetwork(Operation):
    network: str  # id


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolume(Operation):
    spec: VolumeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveVolume(Operation):
    volume: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureImage(Operation):
    reference: str

    @property
    def changes(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateContainer(Operation):
    """`network_mode`, `ipc_mode` and `pid_mode` of the spec may be `container:<name>` of one created earlier in the plan."""

    name: str
    spec: ContainerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StartContainer(Operation):
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopContainer(Operation):
    container: str
    timeout: int | None = None  # seconds until SIGKILL; None: the container's own


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartContainer(Operation):
    container: str
    timeout: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveContainer(Operation):
    container: str
    volumes: bool = False  # its anonymous volumes, too
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameContainer(Operation):
    container: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFor(Operation):
    """Wait until every one of `containers` (ids or names) meets the condition. `timeout` in seconds, None: no limit."""

    service: str
    condition: WaitCondition
    containers: tuple[str, ...]
    timeout: float | None = None

    @property
    def changes(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A node of the plan: `needs` are the ids of the steps that must have succeeded before."""

    id: int
    operation: Operation
    needs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in an order in which they could be carried out one by one; ids count from 1."""

    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> int:
        """How many operations alter something."""
        return sum(step.operation.changes for step in self.steps)

    def render(self) -> str:
        """One line per step: `[1,2] -> #3 Container shop-web-1, StartContainer, not there`."""
        return "\n".join(
            f"[{','.join(map(str, step.needs))}] -> #{step.id} {step.operation.resource}, "
            f"{step.operation.kind}, {step.operation.cause}"
            for step in self.steps
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """How to plan. The first group is for `up`, the second for `down`, the third for both."""

    force_recreate: bool = False
    no_recreate: bool = False
    always_recreate_deps: bool = False
    no_deps: bool = False
    renew_anon_volumes: bool = False
    wait: bool = False
    wait_timeout: float | None = None  # seconds
    scale: Mapping[str, int] = field(default_factory=dict)

    volumes: bool = False  # remove named and anonymous volumes

    remove_orphans: bool = False
    timeout: int | None = None  # seconds to stop before SIGKILL
    #: Services that are no orphans although they are not desired: the file's disabled ones; for `down`, all of the file's.
    #: None: nothing is known of the file, so nothing is an orphan.
    known: tuple[str, ...] | None = None
