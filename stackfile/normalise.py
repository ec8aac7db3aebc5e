"""Validated parts -> `model.desired.Stack`: names resolved, defaults filled in, contents of secrets and configs read.

In: a `Resolved` stack file that the checks accept. Out: the Stack. What is not used by an enabled service is left out, as
docker compose does. Unreadable contents are reported with the mark of the attribute that names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from pystack.model.container import IpamPool
from pystack.model.desired import (
    Dependency,
    Service,
    ServiceNetwork,
    Stack,
    StackFileContent,
    StackNetwork,
    StackVolume,
)
from pystack.model.errors import InvalidInput, PystackError
from pystack.stackfile.containers import (
    file_references,
    healthcheck,
    log_config,
    mounts,
    port_bindings,
    replicas,
    resources,
    restart_policy,
)
from pystack.stackfile.document import Reporter, locate
from pystack.stackfile.interpolate import Lookup
from pystack.stackfile.resolved import Resolved
from pystack.stackfile.schema import ContentPart, NetworkPart, ServicePart, VolumePart
from pystack.stackfile.select import dependencies
from pystack.stackfile.source import Reader

#: Docker's cap for the content of a secret or config.
CONTENT_LIMIT = 500 * 1024


def normalise(resolved: Resolved, reader: Reader, lookup: Lookup, reporter: Reporter) -> Stack:
    """The desired state. Everything that cannot be read is in the reporter's findings."""
    parts, enabled = resolved.parts, resolved.enabled
    services = {name: _service(name, part, resolved, reader, reporter) for name, part in enabled.items()}
    networks = used_networks(enabled, parts.networks)
    volumes = used_volumes(enabled)
    return Stack(
        name=resolved.name,
        working_dir=resolved.working_dir,
        config_files=resolved.config_files,
        services=services,
        networks={k: _network(resolved.name, k, parts.networks.get(k) or NetworkPart()) for k in networks},
        volumes={k: _volume(resolved.name, k, parts.volumes[k]) for k in volumes if k in parts.volumes},
        secrets=_contents("secrets", resolved, reader, lookup, reporter),
        configs=_contents("configs", resolved, reader, lookup, reporter),
    )


def used_networks(enabled: Mapping[str, ServicePart], defined: Mapping[str, NetworkPart]) -> list[str]:
    """Keys of the networks that the services join, in the order of first use; `default` needs no definition."""
    found: dict[str, None] = {}
    for service in enabled.values():
        found.update({key: None for key in joined_networks(service) if key == "default" or key in defined})
    return list(found)


def joined_networks(service: ServicePart) -> list[str]:
    if service.network_mode:
        return []
    if service.provider and not service.networks:
        return []
    return list(service.networks or ("default",))


def used_volumes(enabled: Mapping[str, ServicePart]) -> list[str]:
    found: dict[str, None] = {}
    for service in enabled.values():
        found.update({v.source: None for v in service.volumes or () if v.type == "volume" and v.source})
    return list(found)


def used_contents(kind: Literal["secrets", "configs"], enabled: Mapping[str, ServicePart]) -> list[str]:
    found: dict[str, None] = {}
    for service in enabled.values():
        found.update({grant.source: None for grant in getattr(service, kind) or ()})
        if kind == "secrets" and service.build:
            found.update({grant.source: None for grant in service.build.secrets or ()})
    return list(found)


def _service(name: str, part: ServicePart, resolved: Resolved, reader: Reader, reporter: Reporter) -> Service:
    return Service(
        name=name,
        image=part.image or "",
        replicas=replicas(part),
        command=part.command,
        entrypoint=part.entrypoint,
        environment=resolved.environments.get(name, {}),
        ports=port_bindings(part),
        expose=_expose(part.expose or ()),
        mounts=mounts(part),
        networks=_joined(part),
        network_mode=part.network_mode or "",
        depends_on=_depends_on(part, resolved.enabled),
        healthcheck=healthcheck(part),
        restart=restart_policy(part),
        resources=resources(part),
        user=part.user or "",
        working_dir=part.working_dir or "",
        hostname=part.hostname or "",
        domainname=part.domainname or "",
        container_name=part.container_name or "",
        init=part.init,
        tty=bool(part.tty),
        stdin_open=bool(part.stdin_open),
        read_only=bool(part.read_only),
        privileged=bool(part.privileged),
        cap_add=part.cap_add or (),
        cap_drop=part.cap_drop or (),
        security_opt=_security_opt(name, part, resolved, reader, reporter),
        group_add=part.group_add or (),
        sysctls={key: value or "" for key, value in (part.sysctls or {}).items()},
        shm_size=part.shm_size or 0,
        ipc=part.ipc or "",
        pid=part.pid or "",
        uts=part.uts or "",
        cgroup=part.cgroup or "",
        cgroup_parent=part.cgroup_parent or "",
        userns_mode=part.userns_mode or "",
        oom_score_adj=part.oom_score_adj or 0,
        annotations={key: value or "" for key, value in (part.annotations or {}).items()},
        stop_signal=part.stop_signal or "",
        stop_grace_period=part.stop_grace_period,
        labels=resolved.labels.get(name, {}),
        extra_hosts=tuple(text.replace("=", ":", 1) for text in part.extra_hosts or ()),
        dns=part.dns or (),
        dns_search=part.dns_search or (),
        dns_options=part.dns_opt or (),
        files=file_references(part),
        log=log_config(part),
        pull_policy="missing" if part.pull_policy == "if_not_present" else part.pull_policy or "",
        profiles=part.profiles or (),
    )


def _expose(texts: Iterable[str]) -> tuple[str, ...]:
    """Each port on its own: `80`, `80-81/udp` -> `80/tcp`, `80/udp`, `81/udp`."""
    out: list[str] = []
    for text in texts:
        ports, _, protocol = text.partition("/")
        first, _, last = ports.partition("-")
        out += [f"{port}/{protocol or 'tcp'}" for port in range(int(first), int(last or first) + 1)]
    return tuple(dict.fromkeys(out))


def _joined(part: ServicePart) -> tuple[ServiceNetwork, ...]:
    """The networks in the order that Compose connects them: by falling priority."""
    out: list[ServiceNetwork] = []
    for key in joined_networks(part):
        options = (part.networks or {}).get(key)
        if options is None:
            out.append(ServiceNetwork(network=key))
            continue
        out.append(
            ServiceNetwork(
                network=key,
                aliases=options.aliases or (),
                ipv4_address=options.ipv4_address or "",
                ipv6_address=options.ipv6_address or "",
                mac_address=options.mac_address or "",
                priority=options.priority or 0,
                gateway_priority=options.gw_priority or 0,
            )
        )
    return tuple(sorted(out, key=lambda n: -n.priority))


def _depends_on(part: ServicePart, enabled: Mapping[str, ServicePart]) -> tuple[Dependency, ...]:
    """Dependencies on enabled services; an optional one that is not enabled is no dependency."""
    return tuple(
        Dependency(
            service=name,
            condition=cast('Literal["service_started"]', found.condition),
            restart=bool(found.restart),
            required=found.required,
        )
        for name, found in dependencies(part).items()
        if name in enabled
    )


def _security_opt(
    name: str, part: ServicePart, resolved: Resolved, reader: Reader, reporter: Reporter
) -> tuple[str, ...]:
    """Options as `key=value`; a seccomp profile's file is read here, as docker's client does."""
    out: list[str] = []
    for index, text in enumerate(part.security_opt or ()):
        key, separator, value = text.partition("=" if "=" in text else ":")
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            path = value if value.startswith("/") else f"{resolved.working_dir}/{value}"
            try:
                value = json.dumps(json.loads(reader.read_text(path)), separators=(",", ":"))
            except (PystackError, ValueError) as error:
                where = ("services", name, "security_opt", index)
                message = f"cannot use the seccomp profile {path}: {error}"
                reporter.error(locate(resolved.document, where), "bad-seccomp", message, path=where)
        out.append(f"{key}={value}" if separator else text)
    return tuple(out)


def resource_name(project: str, key: str, part: NetworkPart | VolumePart | ContentPart) -> str:
    """The name in the engine: `name`, else the key alone for an external one, else `<project>_<key>`."""
    return part.name or (key if part.external else f"{project}_{key}")


def _network(project: str, key: str, part: NetworkPart) -> StackNetwork:
    pools = part.ipam.config if part.ipam else None
    return StackNetwork(
        key=key,
        name=resource_name(project, key, part),
        external=bool(part.external),
        driver=part.driver or "bridge",
        internal=bool(part.internal),
        attachable=bool(part.attachable),
        enable_ipv6=bool(part.enable_ipv6),
        ipam_pools=tuple(
            IpamPool(
                subnet=pool.subnet or "",
                ip_range=pool.ip_range or "",
                gateway=pool.gateway or "",
                aux_addresses={k: v or "" for k, v in (pool.aux_addresses or {}).items()},
            )
            for pool in pools or ()
        ),
        options={k: v or "" for k, v in (part.driver_opts or {}).items()},
        labels={k: v or "" for k, v in (part.labels or {}).items()},
    )


def _volume(project: str, key: str, part: VolumePart) -> StackVolume:
    return StackVolume(
        key=key,
        name=resource_name(project, key, part),
        external=bool(part.external),
        driver=part.driver or "local",
        driver_options={k: v or "" for k, v in (part.driver_opts or {}).items()},
        labels={k: v or "" for k, v in (part.labels or {}).items()},
    )


def _contents(
    kind: Literal["secrets", "configs"],
    resolved: Resolved,
    reader: Reader,
    lookup: Lookup,
    reporter: Reporter,
) -> dict[str, StackFileContent]:
    out: dict[str, StackFileContent] = {}
    parts: Mapping[str, ContentPart] = getattr(resolved.parts, kind)
    for key in used_contents(kind, resolved.enabled):
        part = parts.get(key)
        if part is None:
            continue
        try:
            out[key] = StackFileContent(key=key, content=_content(f"{kind}.{key}", part, reader, lookup))
        except PystackError as error:
            attribute = next(
                (a for a in ("file", "environment", "content") if getattr(part, a, None) is not None), ""
            )
            path = (kind, key, attribute) if attribute else (kind, key)
            node = locate(resolved.document, path, key=not attribute)
            reporter.error(node, "no-content", error.message, path=path, help=error.hint or "")
    return out


def _content(where: str, part: ContentPart, reader: Reader, lookup: Lookup) -> bytes:
    if part.external or getattr(part, "driver", None):
        how = "external" if part.external else "made by a driver"
        raise InvalidInput(f"{where} is {how}, which is not supported", hint="set `file` or `environment`")
    if part.file is not None:
        return reader.read_bytes(part.file, CONTENT_LIMIT)
    if part.environment is not None:
        value = lookup(part.environment)
        if value is None:
            hint = f"set {part.environment} in the environment or in .env"
            raise InvalidInput(f"environment variable `{part.environment}` of {where} is not set", hint=hint)
        content = value.encode()
    else:
        content = (getattr(part, "content", None) or "").encode()
    if len(content) > CONTENT_LIMIT:
        raise InvalidInput(f"{where} is larger than {CONTENT_LIMIT:,} bytes")
    return content
