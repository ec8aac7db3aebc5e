"""`up`: the operations that bring a stack, or the chosen services and what they depend on, to what its file says.

In come desired and observed state, out goes a plan. First every replica's fate is decided, dependencies first; then the
operations are drafted: containers are made at once, and started when what they depend on is ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from pystack.model.desired import Dependency, Service, Stack
from pystack.model.errors import NotFound
from pystack.model.names import ID
from pystack.model.observed import ContainerView, ObservedStack
from pystack.model.plan import (
    CreateContainer,
    EnsureImage,
    PlanOptions,
    RemoveContainer,
    RemoveNetwork,
    RenameContainer,
    StartContainer,
    StopContainer,
    WaitCondition,
    WaitFor,
)
from pystack.planner import labels
from pystack.planner.diff import Action, Slot, Wanted, decide, is_running, is_settled, meets
from pystack.planner.hashing import digest, service_document
from pystack.planner.order import Draft, dependency_order
from pystack.planner.resources import Networks, plan_volumes
from pystack.planner.specs import (
    container_name,
    container_spec,
    dependencies,
    inherit_volumes,
    joined_networks,
    namespace_parents,
    stack_network,
)
from pystack.planner.survey import Survey


class Convergence:
    """One run of the planner: `services` are brought to what the stack says, for `also` only networks and volumes."""

    def __init__(
        self,
        stack: Stack,
        observed: ObservedStack,
        options: PlanOptions,
        *,
        services: Mapping[str, Service],
        targets: tuple[str, ...] = (),
        also: Mapping[str, Service] | None = None,
    ) -> None:
        self.stack = stack
        self.survey = Survey(observed)
        self.options = options
        self.targets = targets
        self.draft = Draft()
        self.services = services
        self.order = dependency_order(
            {name: [item.service for item in dependencies(service)] for name, service in services.items()}
        )
        joined = {**services, **(also or {})}
        self.orphans = self._find_orphans()
        movable = set() if options.no_recreate else set(services)
        if options.remove_orphans:
            movable |= {labels.service_of(view) for view in self.orphans}
        self.networks = Networks(stack, self.survey, self.draft, joined, movable)
        plan_volumes(stack, self.survey, self.draft, joined.values())
        self.awaited = {
            item.service
            for service in self.stack.services.values()
            for item in service.depends_on
            if item.condition == "service_completed_successfully"
        }
        self.slots: dict[str, list[Slot]] = {}
        self.extra: dict[str, list[ContainerView]] = {}
        self.wanted: dict[str, Wanted] = {}

    def prepare(self) -> None:
        """Draft everything but the wait at the end."""
        for name in self.order:
            self._decide(self.services[name])
        for name in self.order:
            for slot in self.slots[name]:
                self._emit(self.services[name], slot)
            for view in self.extra[name]:
                self._discard(view, f"scaled down to {self.services[name].replicas}")
        self._orphans()

    # -- what becomes of each replica

    def _force(self, name: str) -> bool:
        if self.targets and name not in self.targets:
            return self.options.always_recreate_deps
        return self.options.force_recreate

    def _decide(self, service: Service) -> None:
        name = service.name
        wanted = self.wanted[name] = self._want(service)
        numbered: dict[int, list[ContainerView]] = {}
        for view in self.survey.by_service.get(name, ()):
            number = labels.number_of(view)
            if number:
                numbered.setdefault(number, []).append(view)
            else:
                self.draft.warnings.append(f"container {view.name} bears no replica number: left alone")
        kept = sorted(numbered)[: service.replicas]
        self.extra[name] = [
            view for number in sorted(numbered) if number not in kept for view in numbered[number]
        ]
        fresh = [number for number in range(1, service.replicas + 1) if number not in kept]
        numbers = sorted(kept + fresh[: service.replicas - len(kept)])
        slots = self.slots[name] = [
            decide(
                number,
                container_name(self.stack, service, number),
                numbered.get(number, []),
                wanted,
                awaited=name in self.awaited,
            )
            for number in numbers
        ]
        if kept and len(kept) < service.replicas:
            for slot in slots:
                if slot.action is Action.CREATE:
                    slot.cause = f"scaled from {len(kept)} to {service.replicas}"
        self._couple(service)

    def _want(self, service: Service) -> Wanted:
        document = service_document(self.stack, service)
        config_hash = digest(document)
        image_id = self.survey.images.get(service.image, "")
        parents = {}
        for parent in namespace_parents(service):
            parents[parent] = self.parent_ref(parent)
        return Wanted(
            service=service,
            config_hash=config_hash,
            document=document,
            make_spec=partial(
                container_spec,
                self.stack,
                service,
                1,
                config_hash=config_hash,
                image_id=image_id,
                parents=parents,
            ),
            image_id=image_id,
            networks=self.networks.facts(service),
            parents={name: ref if ID.match(ref) else "" for name, ref in parents.items()},
            recorded=self.survey.recorded,
            force=self._force(service.name),
            no_recreate=self.options.no_recreate,
        )

    def parent_ref(self, parent: str) -> str:
        """Id or future name of the container of a service whose namespace is shared."""
        for slot in self.slots.get(parent, ()):
            return slot.ref
        for view in self.survey.by_service.get(parent, ()):
            return view.id
        raise NotFound(
            f"service {parent} has no container whose namespace could be shared", hint=f"pystack up {parent}"
        )

    def _couple(self, service: Service) -> None:
        """Containers that must be down while a network or something that they depend on is made anew."""
        shared = namespace_parents(service)
        for item in dependencies(service):
            moved = [
                slot
                for slot in self.slots.get(item.service, ())
                if slot.replaced
                or slot.action is Action.BOUNCE
                or (item.service in shared and slot.action is Action.START)
            ]
            if not (item.restart and moved):
                continue
            for slot in self.slots[service.name]:
                slot.coupled = True
                if slot.action is Action.KEEP and slot.current and is_running(slot.current):
                    slot.action = Action.BOUNCE
                    verb = "recreated" if moved[0].replaced else "restarted"
                    slot.cause = f"dependency {item.service} is {verb}"
        for slot in self.slots[service.name]:
            if slot.current and any(
                self.networks.is_recreated(item.network) for item in slot.current.endpoints
            ):
                slot.coupled = True

    # -- operations

    def _emit(self, service: Service, slot: Slot) -> None:
        resource = f"Container {slot.name}"
        gone = [self._discard(view, "left over from an interrupted recreate") for view in slot.leftovers]
        named = ""
        if slot.action in (Action.CREATE, Action.RECREATE):
            named = self._create(service, slot, gone)
        gate = self.gate(service) if slot.starts else []
        if slot.current and slot.action in (Action.RECREATE, Action.ADOPT, Action.BOUNCE):
            self._stop(slot.current, slot.cause, self._before_stop(service, slot, [*gate, named]))
        if slot.replaced:
            named = self._swap(slot, gone)
        if slot.starts:
            stopped = f"stop:{slot.current.id}" if slot.current else ""
            self.draft.add(
                f"start:{slot.name}",
                StartContainer(resource=resource, cause=slot.cause, container=slot.ref),
                [named, stopped, *gate, *self.renamed_parents(service)],
            )

    def _before_stop(self, service: Service, slot: Slot, ready: list[str]) -> list[str]:
        """What comes before the old container's stop: the stop of what depends on it, then its own replacement."""
        dependants = [
            f"stop:{other.current.id}"
            for name in self.order
            for other in self.slots[name]
            if other.coupled and other.current
            if any(item.service == service.name for item in dependencies(self.services[name]))
        ]
        return dependants if slot.coupled else [*dependants, *ready]

    def _create(self, service: Service, slot: Slot, gone: list[str]) -> str:
        """Draft the new container; a replacement gets a temporary name."""
        spec = self.wanted[service.name].make_spec()
        name = slot.name
        if slot.number != 1:
            spec = replace(spec, labels={**spec.labels, labels.NUMBER: str(slot.number)})
        if slot.action is Action.RECREATE and slot.current:
            name = f"{slot.current.id[:12]}_{slot.name}"
            spec = replace(spec, labels={**spec.labels, labels.REPLACE: slot.current.id})
            if not self.options.renew_anon_volumes:
                spec = inherit_volumes(spec, slot.current)
        return self.draft.add(
            f"create:{slot.name}",
            CreateContainer(resource=f"Container {slot.name}", cause=slot.cause, name=name, spec=spec),
            [*gone, *self.requirements(service), *self.renamed_parents(service)],
        )

    def requirements(self, service: Service) -> list[str]:
        """Keys of the image, networks and volumes that a new container needs."""
        key = f"image:{service.image}"
        missing = not self.survey.images.get(service.image)
        if (
            key not in self.draft
            and (missing or service.pull_policy == "always")
            and service.pull_policy != "never"
        ):
            self.draft.add(
                key,
                EnsureImage(
                    resource=f"Image {service.image}",
                    cause="not here" if missing else "pull_policy is always",
                    reference=service.image,
                ),
            )
        networks = [
            f"network:{stack_network(self.stack, item.network).name}" for item in joined_networks(service)
        ]
        volumes = [
            f"volume:{self.stack.volumes[mount.source].name}"
            for mount in service.mounts
            if mount.type == "volume" and mount.source
        ]
        return [key, *networks, *volumes]

    def renamed_parents(self, service: Service) -> list[str]:
        """Keys after which the containers whose namespaces are shared have their names."""
        return [
            key
            for parent in namespace_parents(service)
            for slot in (self.slots.get(parent) or [])[:1]
            for key in (f"create:{slot.name}", f"rename:{slot.name}")
        ]

    def _swap(self, slot: Slot, gone: list[str]) -> str:
        """Remove the old container and give its replacement its name; returns the key after which it has it."""
        removed = list(gone)
        if slot.current:
            removed.append(
                self._remove(
                    slot.current,
                    slot.cause,
                    volumes=self.options.renew_anon_volumes,
                    needs=[f"create:{slot.name}"],
                )
            )
        made = (
            slot.replacement.id
            if slot.replacement
            else f"{slot.current.id[:12]}_{slot.name}"
            if slot.current
            else ""
        )
        return self.draft.add(
            f"rename:{slot.name}",
            RenameContainer(
                resource=f"Container {slot.name}", cause=slot.cause, container=made, name=slot.name
            ),
            [*removed, f"create:{slot.name}"],
        )

    def gate(self, service: Service) -> list[str]:
        """Keys after which everything that the service depends on is as its `depends_on` demands."""
        keys = []
        for item in dependencies(service):
            slots = self.slots.get(item.service)
            if not slots:
                continue
            keys += [f"start:{slot.name}" for slot in slots]
            if item.condition != "service_started":
                keys.append(self._wait(item, item.condition))
        return keys

    def _wait(self, item: Dependency, condition: WaitCondition) -> str:
        key = f"wait:{item.service}:{condition}" + ("" if item.required else ":optional")
        slots = [
            slot
            for slot in self.slots[item.service]
            if slot.starts or (slot.current and not meets(slot.current, condition))
        ]
        if key in self.draft or not slots:
            return key
        resource = f"Container {slots[0].name}" if len(slots) == 1 else f"Service {item.service}"
        return self.draft.add(
            key,
            WaitFor(
                resource=resource,
                cause="a service depends on it",
                best_effort=not item.required,
                service=item.service,
                condition=condition,
                containers=tuple(slot.ref for slot in slots),
                timeout=self.options.wait_timeout if self.options.wait else None,
            ),
            [f"start:{slot.name}" for slot in slots],
        )

    def wait_at_the_end(self) -> None:
        """`up --wait`: every replica runs, is healthy if it can tell, or has done its one-shot work."""
        for name in self.targets or self.order:
            condition: WaitCondition = (
                "service_completed_successfully" if name in self.awaited else "running_or_healthy"
            )
            for slot in self.slots[name]:
                self._wait_slot(name, slot, condition)

    def _wait_slot(self, name: str, slot: Slot, condition: WaitCondition) -> None:
        if f"wait:{name}:{condition}" in self.draft or f"wait:{name}:service_healthy" in self.draft:
            return  # waited for already, with the same deadline
        if not slot.starts and slot.current:
            done = is_settled(slot.current, awaited=name in self.awaited) and not is_running(slot.current)
            if done or meets(slot.current, condition):
                return
        self.draft.add(
            f"ready:{slot.name}",
            WaitFor(
                resource=f"Container {slot.name}",
                cause="up --wait",
                service=name,
                condition=condition,
                containers=(slot.ref,),
                timeout=self.options.wait_timeout,
            ),
            [f"start:{slot.name}"],
        )

    def _stop(self, view: ContainerView, cause: str, needs: Iterable[str] = ()) -> str:
        key = f"stop:{view.id}"
        if is_running(view):
            operation = StopContainer(
                resource=f"Container {view.name}",
                cause=cause,
                container=view.id,
                timeout=self.options.timeout,
            )
            self.draft.add(key, operation, needs)
        return key

    def _remove(self, view: ContainerView, cause: str, *, volumes: bool, needs: Iterable[str] = ()) -> str:
        operation = RemoveContainer(
            resource=f"Container {view.name}", cause=cause, container=view.id, volumes=volumes, force=True
        )
        return self.draft.add(f"remove:{view.id}", operation, [f"stop:{view.id}", *needs])

    def _discard(self, view: ContainerView, cause: str) -> str:
        """Stop and remove a container that has no place any more."""
        self._stop(view, cause)
        return self._remove(view, cause, volumes=False)

    def _find_orphans(self) -> list[ContainerView]:
        """Containers of services that the file does not name."""
        if self.options.known is None:
            return []
        known = self.stack.services.keys() | set(self.options.known)
        return [
            view
            for name, views in sorted(self.survey.by_service.items())
            if name not in known
            for view in views
        ]

    def _orphans(self) -> None:
        if self.orphans and not self.options.remove_orphans:
            names = ", ".join(view.name for view in self.orphans)
            self.draft.warnings.append(
                f"stack {self.stack.name} has containers of services that its file does not name: {names}; "
                "--remove-orphans removes them"
            )
        if not self.options.remove_orphans:
            return
        for view in self.orphans:
            self._discard(view, "orphan: the file names no such service")
        if not self.targets:
            self._orphan_networks()

    def _orphan_networks(self) -> None:
        wanted = {stack_network(self.stack, key).name for key in (*self.stack.networks, "default")}
        removals = self.draft.removals()
        for view in self.survey.owned_networks():
            if view.name not in wanted:
                self.draft.add(
                    f"unnetwork:{view.name}",
                    RemoveNetwork(
                        resource=f"Network {view.name}",
                        cause="orphan: the file names no such network",
                        best_effort=True,
                        network=view.id,
                    ),
                    removals,
                )
