"""The planner's door: desired and observed state in, a plan out. Pure: no clock, no chance, no input or output.

`plan` is `up` (a desired stack) and `down` (None); `plan_run` is a one-off container; `planner.lifecycle` has stop, start
and restart. Raises InvalidInput and NotFound for a desired state that cannot be; everything else is a warning in the plan.
"""

from __future__ import annotations

from dataclasses import replace

from pystack.model.desired import Stack
from pystack.model.observed import ObservedStack
from pystack.model.plan import CreateContainer, Plan, PlanOptions
from pystack.planner.converge import Convergence
from pystack.planner.lifecycle import plan_down
from pystack.planner.selection import scaled, select
from pystack.planner.specs import OneOff, dependencies, namespace_parents, oneoff_spec


def plan(
    desired: Stack | None, observed: ObservedStack, options: PlanOptions, *, targets: tuple[str, ...] = ()
) -> Plan:
    """What brings the stack from observed to desired; None: what removes it. `targets` limit it to some services."""
    if desired is None:
        return plan_down(observed, options, targets=targets)
    stack = scaled(desired, sorted(options.scale.items()))
    services = select(stack, targets, no_deps=options.no_deps)
    run = Convergence(stack, observed, options, services=services, targets=targets)
    run.prepare()
    if options.wait:
        run.wait_at_the_end()
    return run.draft.finish()


def plan_run(
    stack: Stack, observed: ObservedStack, options: PlanOptions, *, service: str, chosen: OneOff
) -> Plan:
    """The plan of a one-off container: what its service depends on is brought up unless `no_deps`; then it is created.

    The last step creates the container; starting it is left to the client that attaches to it.
    """
    own = select(stack, (service,), no_deps=True)[service]
    needed = tuple(item.service for item in dependencies(own) if item.service in stack.services)
    services = select(stack, needed, no_deps=False) if needed and not options.no_deps else {}
    quiet = replace(options, known=None, scale={}, no_deps=False)
    run = Convergence(stack, observed, quiet, services=services, targets=needed, also={service: own})
    run.prepare()
    parents = {parent: run.parent_ref(parent) for parent in namespace_parents(own)}
    image_id = observed.images.get(own.image, "")
    name = chosen.container_name(stack, own)
    run.draft.add(
        "oneoff",
        CreateContainer(
            resource=f"Container {name}",
            cause="one-off",
            name=name,
            spec=oneoff_spec(stack, own, chosen, image_id=image_id, parents=parents),
        ),
        [*run.requirements(own), *run.renamed_parents(own), *run.gate(own)],
    )
    return run.draft.finish()
