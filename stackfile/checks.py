"""What the schema cannot say: references that must exist, values that must agree, circles.

In: the validated parts and the document for the marks. Out: findings. Source: Compose Specification and the consistency
errors of compose-go `loader/validate.go` and docker compose. Only enabled services are checked, as Compose does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pystack.stackfile.diagnostics import did_you_mean
from pystack.stackfile.document import Mapping as DocumentMapping
from pystack.stackfile.document import Node, Path, Reporter, child, is_null, locate
from pystack.stackfile.portsyntax import MAX_PORTS, PortSyntaxError, port_range
from pystack.stackfile.schema import ContentPart, Parts, ServicePart, ServiceVolume
from pystack.stackfile.select import dependencies

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")


@dataclass(slots=True)
class _Context:
    document: Node
    parts: Parts
    enabled: Mapping[str, ServicePart]
    reporter: Reporter

    def error(self, path: Path, code: str, message: str, hint: str = "", *, key: bool = False) -> None:
        self.reporter.error(locate(self.document, path, key=key), code, message, path=path, help=hint)


def check(document: Node, parts: Parts, enabled: Mapping[str, ServicePart], reporter: Reporter) -> None:
    """Reports every inconsistency of the enabled services and of what they use."""
    context = _Context(document, parts, enabled, reporter)
    for name, service in enabled.items():
        if reporter.full:
            return
        for one in _SERVICE_CHECKS:
            one(context, name, service)
    _contents(context, "secrets", parts.secrets)
    _contents(context, "configs", parts.configs)
    for kind, resources in (("networks", parts.networks), ("volumes", parts.volumes)):
        for key, resource in resources.items():
            given = resource.model_fields_set - {"external", "name", "extensions"}
            if resource.external and given:
                message = f"{kind}.{key} is external: {', '.join(sorted(given))} has no effect"
                reporter.warn(locate(document, (kind, key), key=True), "no-effect", message, path=(kind, key))
    _cycles(context)


def check_runnable(
    document: Node, parts: Parts, enabled: Mapping[str, ServicePart], reporter: Reporter
) -> None:
    """Reports words that Compose lets pass and the engine would refuse."""
    context = _Context(document, parts, enabled, reporter)
    for name, service in enabled.items():
        _words(context, name, service)
        _expose(context, name, service)


def _image(context: _Context, name: str, _service: ServicePart) -> None:
    node = child(context.document, "services", name)
    if isinstance(node, DocumentMapping) and not any(
        not is_null(node.items.get(k)) for k in ("image", "build", "provider", "extends")
    ):
        context.error(
            ("services", name),
            "no-image",
            f"service `{name}` has neither `image` nor `build`",
            "give it an `image`",
            key=True,
        )


def _names(context: _Context, name: str, service: ServicePart) -> None:
    if not _NAME.match(name):
        message = f"service name `{name}` may hold only letters, digits, `_`, `.` and `-`"
        context.error(("services", name), "bad-name", message, key=True)
    if service.container_name and not re.match(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z", service.container_name):
        message = (
            f"container name `{service.container_name}` must be two or more letters, digits, `_`, `.` or `-`"
        )
        context.error(("services", name, "container_name"), "bad-name", message)


def _networks(context: _Context, name: str, service: ServicePart) -> None:
    path = ("services", name, "networks")
    if service.networks and service.network_mode:
        message = f"service `{name}` sets both `networks` and `network_mode`"
        context.error(("services", name, "network_mode"), "conflict", message, "keep one of them", key=True)
    for network in service.networks or ():
        if network != "default":
            _defined(context, (*path, network), "network", context.parts.networks, key=network, service=name)


def _defined(
    context: _Context,
    path: Path,
    kind: str,
    known: Iterable[str],
    *,
    key: str,
    service: str,
    on_key: bool = True,
) -> None:
    section = f"{kind}s"
    if key in known or locate(context.document, (section, key)) is not locate(context.document, (section,)):
        return  # defined, if perhaps wrongly: that has its own error
    hint = did_you_mean(key, known) or f"define it at the top level, below `{section}`"
    message = f"service `{service}` uses {kind} `{key}`, which is not defined"
    context.error(path, f"undefined-{kind}", message, hint, key=on_key)


def _mounts(context: _Context, name: str, service: ServicePart) -> None:
    targets: dict[str, Path] = {}
    for index, volume in enumerate(service.volumes or ()):
        path: Path = ("services", name, "volumes", index)
        _target(context, path, volume.target, targets, name)
        if volume.type == "volume" and volume.source:
            _defined(
                context,
                (*path, "source"),
                "volume",
                context.parts.volumes,
                key=volume.source,
                service=name,
                on_key=False,
            )
        if volume.type == "bind" and not volume.source:
            context.error(path, "bad-volume", f"bind mount at {volume.target} needs a `source`")
        for block in ("bind", "volume", "tmpfs", "image"):
            if block != volume.type and getattr(volume, block) is not None and not _only_selinux(volume):
                node = locate(context.document, (*path, block), key=True)
                message = f"`{block}` has no effect on a mount of type {volume.type}"
                context.reporter.warn(node, "no-effect", message, path=(*path, block))
    for index, text in enumerate(service.tmpfs or ()):
        _target(context, ("services", name, "tmpfs", index), text.partition(":")[0], targets, name)


def _only_selinux(volume: ServiceVolume) -> bool:
    return volume.bind is not None and volume.bind.model_fields_set == {"selinux"}


def _target(context: _Context, path: Path, target: str, targets: dict[str, Path], service: str) -> None:
    clean = "/" + target.strip("/")
    if clean in targets:
        first = locate(context.document, targets[clean])
        message = f"service `{service}` mounts {target} twice"
        context.error(
            path, "duplicate-mount", message, f"first mounted in line {first.line} of {first.source.display}"
        )
    else:
        targets[clean] = path


def _granted(context: _Context, name: str, service: ServicePart) -> None:
    for kind, grants, known in (
        ("secret", service.secrets, context.parts.secrets),
        ("config", service.configs, context.parts.configs),
    ):
        for index, grant in enumerate(grants or ()):
            path: Path = ("services", name, f"{kind}s", index, "source")
            _defined(context, path, kind, known, key=grant.source, service=name, on_key=False)
            for field in ("uid", "gid"):
                value = getattr(grant, field)
                if value is not None and not value.isdigit():
                    message = f"{field} must be a number, not the text `{value}`"
                    context.error((*path[:-1], field), "wrong-type", message)


def _dependencies(context: _Context, name: str, service: ServicePart) -> None:
    for other, dependency in dependencies(service).items():
        if other in context.enabled or not dependency.required:
            continue
        path = _dependency_path(name, service, other)
        disabled = context.parts.services.get(other)
        if disabled is not None:
            profiles = ", ".join(f"`{p}`" for p in disabled.profiles or ())
            message = f"service `{name}` depends on `{other}`, which is enabled only with profile {profiles}"
            context.error(
                path,
                "disabled-service",
                message,
                f"add --profile {(disabled.profiles or ('',))[0]}",
                key=True,
            )
        elif locate(context.document, ("services", other)) is locate(context.document, ("services",)):
            hint = did_you_mean(other, context.parts.services)
            message = f"service `{name}` depends on `{other}`, which is not defined"
            context.error(path, "undefined-service", message, hint, key=True)


def _dependency_path(name: str, service: ServicePart, other: str) -> Path:
    """Where the service says that it depends on the other one."""
    if other in (service.depends_on or {}):
        return ("services", name, "depends_on", other)
    for attribute in ("network_mode", "ipc", "pid", "uts", "cgroup"):
        if getattr(service, attribute) == f"service:{other}":
            return ("services", name, attribute)
    return ("services", name, "links" if service.links else "volumes_from")


def _models(context: _Context, name: str, service: ServicePart) -> None:
    for model in service.models or ():
        path: Path = ("services", name, "models", model)
        _defined(context, path, "model", context.parts.models, key=model, service=name)


def _develop(context: _Context, name: str, service: ServicePart) -> None:
    for index, trigger in enumerate((service.develop.watch if service.develop else None) or ()):
        if not trigger.target and trigger.action not in ("rebuild", "restart"):
            path: Path = ("services", name, "develop", "watch", index)
            message = f"`{trigger.action}` needs a `target`: where the files go in the container"
            context.error((*path, "action"), "missing-key", message)


def _devices(context: _Context, name: str, service: ServicePart) -> None:
    resources = service.deploy.resources if service.deploy else None
    reserved = (resources.reservations.devices if resources and resources.reservations else None) or ()
    where: Path = ("services", name, "deploy", "resources", "reservations", "devices")
    for path, devices in ((("services", name, "gpus"), service.gpus or ()), (where, reserved)):
        for index, device in enumerate(devices):
            if device.count is not None and device.device_ids:
                message = "`count` and `device_ids` exclude each other"
                context.error((*path, index, "device_ids"), "conflict", message, "keep one of them", key=True)


def _healthcheck(context: _Context, name: str, service: ServicePart) -> None:
    health = service.healthcheck
    if health is None or not health.test:
        return
    path: Path = ("services", name, "healthcheck", "test")
    kind, words = health.test[0], health.test[1:]
    if kind not in ("NONE", "CMD", "CMD-SHELL"):
        hint = f'write ["CMD", "{kind}", …]'
        context.error(
            (*path, 0),
            "bad-healthcheck",
            f"healthcheck test must begin with CMD, CMD-SHELL or NONE, not `{kind}`",
            hint,
        )
    elif kind != "NONE" and not words:
        context.error(path, "bad-healthcheck", f"healthcheck test {kind} names no command")


def _twins(context: _Context, name: str, service: ServicePart) -> None:
    """Attributes that say the same as one below `deploy`; both given, they must agree."""
    deploy = service.deploy
    resources = deploy.resources if deploy else None
    pairs: list[tuple[str, float | None, str, float | None]] = []
    if deploy and deploy.replicas is not None:
        pairs.append(("scale", service.scale, "deploy.replicas", deploy.replicas))
    if resources and (limits := resources.limits):
        pairs += [
            ("mem_limit", service.mem_limit, "deploy.resources.limits.memory", limits.memory),
            ("cpus", service.cpus, "deploy.resources.limits.cpus", limits.cpus),
            ("pids_limit", service.pids_limit, "deploy.resources.limits.pids", limits.pids),
        ]
    if resources and (reserved := resources.reservations):
        pairs.append(
            (
                "mem_reservation",
                service.mem_reservation,
                "deploy.resources.reservations.memory",
                reserved.memory,
            )
        )
    for here, value, there, twin in pairs:
        if value is not None and value != twin:
            message = f"service `{name}` sets `{here}` and `{there}` to different values"
            context.error(("services", name, here), "conflict", message, "keep one of them", key=True)


def _replicas(context: _Context, name: str, service: ServicePart) -> None:
    where: Path = ("services", name, "scale")
    count = service.scale
    if count is None and service.deploy:
        where, count = ("services", name, "deploy", "replicas"), service.deploy.replicas
    if count is None:
        return
    if count < 0:
        context.error(where, "bad-scale", f"service `{name}` cannot have {count} containers")
    elif count > 1 and service.container_name:
        message = (
            f"service `{name}` sets `container_name` and {count} containers; a name belongs to one container"
        )
        context.error(
            ("services", name, "container_name"), "conflict", message, "remove container_name", key=True
        )


def _ports(context: _Context, name: str, service: ServicePart) -> None:
    for index, port in enumerate(service.ports or ()):
        path: Path = ("services", name, "ports", index)
        if not 1 <= port.target <= 65535:
            context.error(
                (*path, "target"), "bad-port", f"container port must be from 1 to 65535, not {port.target}"
            )
        if port.published:
            try:
                port_range(port.published, "published port")
            except PortSyntaxError as error:
                context.error((*path, "published"), "bad-port", str(error))


def _expose(context: _Context, name: str, service: ServicePart) -> None:
    total = 0
    for index, text in enumerate(service.expose or ()):
        if not re.match(r"\d+(-\d+)?(/(tcp|udp|sctp))?\Z", text):
            context.error(
                ("services", name, "expose", index),
                "bad-port",
                f"cannot read `{text}` as a container port",
                'write "80" or "53/udp"',
            )
            continue
        first, _, last = text.partition("/")[0].partition("-")
        total += max(0, int(last or first) - int(first)) + 1 if len(text) < 20 else MAX_PORTS + 1
        if total > MAX_PORTS:
            message = f"service `{name}` exposes more than {MAX_PORTS:,} ports"
            context.error(("services", name, "expose", index), "too-many-ports", message)
            return


def _words(context: _Context, name: str, service: ServicePart) -> None:
    restart = service.restart
    if restart and not re.match(r"(no|always|unless-stopped|on-failure(:\d+)?)\Z", restart):
        hint = (
            did_you_mean(restart, ("no", "always", "unless-stopped", "on-failure"))
            or "write no, always, unless-stopped, on-failure or on-failure:3"
        )
        context.error(
            ("services", name, "restart"), "bad-restart", f"restart policy `{restart}` is not known", hint
        )
    policy = service.pull_policy
    known = ("always", "never", "missing", "if_not_present", "build", "daily", "weekly", "refresh")
    if policy and policy not in known and not policy.startswith("every_"):
        context.error(
            ("services", name, "pull_policy"),
            "bad-pull-policy",
            f"pull policy `{policy}` is not known",
            did_you_mean(policy, known),
        )
    for label in service.labels or ():
        if label.startswith("com.docker.compose."):
            message = f"label `{label}` is reserved"
            context.error(("services", name, "labels", label), "reserved-label", message, key=True)


def _contents(context: _Context, kind: str, contents: Mapping[str, ContentPart]) -> None:
    ways = ("file", "environment") if kind == "secrets" else ("file", "environment", "content")
    for key, part in contents.items():
        given = [way for way in ("file", "environment", "content") if getattr(part, way, None) is not None]
        path: Path = (kind, key)
        if part.external:
            if given:
                context.error(
                    path, "external", f"{kind}.{key} is external and cannot set {given[0]} as well", key=True
                )
        elif len(given) != 1:
            choice = " or ".join(f"`{way}`" for way in ways)
            what = "sets " + " and ".join(f"`{g}`" for g in given) if given else "says nothing of its content"
            context.error(path, "bad-content", f"{kind}.{key} {what}", f"set {choice}", key=True)


def _cycles(context: _Context) -> None:
    """Reports each circle of dependencies once, by its members in order."""
    state: dict[str, int] = {}  # 1: on the trail, 2: done
    trail: list[str] = []

    def visit(first: str) -> None:
        pending: list[tuple[str, Iterator[str]]] = []

        def enter(name: str) -> None:
            state[name] = 1
            trail.append(name)
            pending.append((name, iter(dependencies(context.enabled[name]))))

        enter(first)
        while pending:
            name, others = pending[-1]
            other = next(others, None)
            if other is None:
                state[name] = 2
                trail.pop()
                pending.pop()
            elif state.get(other) == 1:
                circle = [*trail[trail.index(other) :], other]
                path = _dependency_path(name, context.enabled[name], other)
                message = "services depend on each other in a circle: " + " -> ".join(circle)
                context.error(path, "dependency-cycle", message, key=True)
            elif other in context.enabled and other not in state:
                enter(other)

    for name in context.enabled:
        if name not in state:
            visit(name)


_SERVICE_CHECKS = (
    _image,
    _names,
    _networks,
    _mounts,
    _granted,
    _dependencies,
    _models,
    _develop,
    _devices,
    _healthcheck,
    _twins,
    _replicas,
    _ports,
)
