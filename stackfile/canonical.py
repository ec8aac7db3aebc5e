"""A resolved stack file -> the mapping that `pystack config` prints, as `docker compose config --format json` does.

In: a `Resolved` or a `Loaded`. Out: dict, list and scalar values only. `$` is written `$$`, so that the output can be read
again; resources that no enabled service uses are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pystack.stackfile.document import Node, Scalar, child, plain
from pystack.stackfile.durations import format_duration
from pystack.stackfile.normalise import (
    joined_networks,
    resource_name,
    used_contents,
    used_networks,
    used_volumes,
)
from pystack.stackfile.resolved import Resolved
from pystack.stackfile.schema import (
    BuildPart,
    HookPart,
    NetworkPart,
    Part,
    RolloutPart,
    ServicePart,
    ServiceVolume,
    UlimitPart,
    WatchPart,
)
from pystack.stackfile.select import dependencies
from pystack.stackfile.validate import extensions


class _HasResolved(Protocol):
    @property
    def resolved(self) -> Resolved: ...


def to_canonical(loaded: Resolved | _HasResolved) -> dict[str, Any]:
    """The canonical form of the enabled services and of what they use."""
    resolved = loaded if isinstance(loaded, Resolved) else loaded.resolved
    if not resolved.view.interpolate:
        return _written(resolved)
    parts, chosen = resolved.parts, resolved.enabled
    out: dict[str, Any] = {"name": resolved.name}
    out["services"] = {name: _service(name, part, resolved) for name, part in sorted(chosen.items())}
    networks = {
        k: _network(resolved, k, parts.networks.get(k) or NetworkPart())
        for k in used_networks(chosen, parts.networks)
    }
    volumes = {
        k: _resource(resolved, k, parts.volumes[k]) for k in used_volumes(chosen) if k in parts.volumes
    }
    if networks:
        out["networks"] = networks
    if volumes:
        out["volumes"] = volumes
    for kind in ("secrets", "configs"):
        described = getattr(parts, kind)
        contents = {
            k: _resource(resolved, k, described[k]) for k in used_contents(kind, chosen) if k in described
        }
        if contents:
            out[kind] = contents
    out.update(extensions(resolved.document))
    if not resolved.view.normalize:
        _denormalise(out, resolved)
    escaped: dict[str, Any] = _escaped(out)
    return escaped


def _written(resolved: Resolved) -> dict[str, Any]:
    """The merged document in long form with its variables as they stand: what `--no-interpolate` prints."""
    document = plain(resolved.document)
    out: dict[str, Any] = {"name": resolved.name, **{k: v for k, v in document.items() if k != "version"}}
    if not resolved.view.normalize:
        return out
    for service in (out.get("services") or {}).values():
        if not service.get("networks") and not service.get("network_mode") and not service.get("provider"):
            service["networks"] = {"default": None}
            out["networks"] = {**(out.get("networks") or {})}
            out["networks"].setdefault("default", {})
        for other, how in (service.get("depends_on") or {}).items():
            service["depends_on"][other] = {"condition": "service_started", "required": True, **(how or {})}
        if service.get("build") and not service["build"].get("dockerfile_inline"):
            service["build"].setdefault("dockerfile", "Dockerfile")
    for kind in ("networks", "volumes", "secrets", "configs"):
        for key, value in (out.get(kind) or {}).items():
            own = {"name": key if (value or {}).get("external") else f"{resolved.name}_{key}"}
            out[kind][key] = {**own, **(value or {})}
    return out


def _denormalise(out: dict[str, Any], resolved: Resolved) -> None:
    """Takes away what only normalising adds: the default network, names of resources, the Dockerfile's name."""
    for name, service in out["services"].items():
        part = resolved.enabled[name]
        if not part.networks:
            service.pop("networks", None)
        if part.build and not part.build.dockerfile:
            service["build"].pop("dockerfile", None)
        implied = set(service.get("depends_on", ())) - set(part.depends_on or ())
        for other in implied:
            del service["depends_on"][other]
        if not service.get("depends_on"):
            service.pop("depends_on", None)
    for kind in ("networks", "volumes", "secrets", "configs"):
        for key, value in list(out.get(kind, {}).items()):
            part = getattr(resolved.parts, kind).get(key)
            if part is None:
                del out[kind][key]
            elif not part.name:
                value.pop("name")
    for kind in ("networks", "volumes"):
        if not out.get(kind):
            out.pop(kind, None)


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {str(_escaped(key)): _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, (list, tuple)) else value


#: Flags that Compose prints when they are false; the others only when they are true.
_FALSE_SHOWN = {"attach", "enable_ipv4", "enable_ipv6", "init", "required"}
#: Numbers and durations that Compose prints when they are 0; of a rollout only the counts.
_COUNTS = {"replicas", "retries", "scale", "max_attempts", "parallelism"}
_ZERO_SHOWN = {
    "delay",
    "interval",
    "start_interval",
    "start_period",
    "stop_grace_period",
    "timeout",
    "window",
}


def _dump(part: Part) -> dict[str, Any]:
    """The part's attributes as plain values, without what was not given or is empty, and without `x-` keys (as Compose)."""
    out: dict[str, Any] = {}
    shown = () if isinstance(part, RolloutPart) else _ZERO_SHOWN
    for key in type(part).model_fields:
        value = getattr(part, key)
        if key == "extensions" or value is None or value in ("", (), {}):
            continue
        if value is False:
            if key not in _FALSE_SHOWN:
                continue
        elif value == 0 and value is not True and key not in shown and key not in _COUNTS:
            continue
        form = _FORMS.get(key)
        out[key] = form(value) if form else _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return _dump(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _octal(value: int) -> str:
    return f"0{value:o}"


def _map(value: Mapping[str, str | None]) -> dict[str, str]:
    return {key: item or "" for key, item in value.items()}


#: Attributes that Compose prints in a form of their own, wherever they stand.
_FORMS: dict[str, Callable[[Any], Any]] = {
    "interval": format_duration,
    "start_interval": format_duration,
    "start_period": format_duration,
    "timeout": format_duration,
    "stop_grace_period": format_duration,
    "delay": format_duration,
    "monitor": format_duration,
    "window": format_duration,
    "memory": str,
    "mem_limit": str,
    "mem_reservation": str,
    "mem_swappiness": str,
    "memswap_limit": str,
    "shm_size": str,
    "mode": lambda value: _octal(value) if isinstance(value, int) else value,
    "labels": _map,
    "sysctls": _map,
    "annotations": _map,
    "options": _map,
    "driver_opts": _map,
    "size": str,
    "rate": str,
}


def _service(name: str, part: ServicePart, resolved: Resolved) -> dict[str, Any]:
    out = _dump(part)
    for dropped in ("env_file", "label_file", "extends", "pre_start", "pull_refresh_after"):
        out.pop(dropped, None)
    out["command"] = _words(part.command)
    out["entrypoint"] = _words(part.entrypoint)
    if not resolved.view.environment:
        if part.env_file:
            out["env_file"] = [{"required": True, **_dump(entry)} for entry in part.env_file]
    elif environment := resolved.environments.get(name):
        out["environment"] = dict(environment)
    if labels := resolved.labels.get(name):
        out["labels"] = dict(labels)
    if depends_on := dependencies(part):
        out["depends_on"] = {
            key: {
                "condition": d.condition,
                "required": d.required,
                **({"restart": True} if d.restart else {}),
            }
            for key, d in depends_on.items()
        }
    if joined := joined_networks(part):
        networks = part.networks or {}
        out["networks"] = {k: _dump(o) if (o := networks.get(k)) else None for k in joined}
    _extended_forms(part, out)
    if part.ulimits:
        out["ulimits"] = _ulimits(part.ulimits, child(resolved.document, "services", name))
    if part.volumes:
        out["volumes"] = [_volume(v) for v in part.volumes]
    for grant in out.get("secrets", ()):
        grant.setdefault("target", "/run/secrets/" + grant["source"])
    if part.pull_policy == "if_not_present":
        out["pull_policy"] = "missing"
    if part.build is not None:
        out["build"] = _build(name, part.build, resolved)
    if part.deploy:
        out["deploy"] = {"placement": {}, **out["deploy"]}
        if part.deploy.resources is None:
            out["deploy"]["resources"] = {}
    return out


def _extended_forms(part: ServicePart, out: dict[str, Any]) -> None:
    """Attributes that Compose prints with keys or defaults of its own."""
    if part.extra_hosts:
        out["extra_hosts"] = sorted(part.extra_hosts)
    if part.blkio_config:
        out["blkio_config"] = {
            key: [{k.capitalize(): v for k, v in item.items()} for item in value]
            if isinstance(value, list)
            else value
            for key, value in _dump(part.blkio_config).items()
        }
    if part.models:
        out["models"] = {key: None if used is None else _dump(used) for key, used in part.models.items()}
    if part.develop:
        watch = [_trigger(trigger) for trigger in part.develop.watch or ()]
        out["develop"] = {"watch": watch} if watch else {}
    for name in ("post_start", "pre_stop"):
        if hooks := getattr(part, name):
            out[name] = [_hook(hook) for hook in hooks]
    reserved = part.deploy and part.deploy.resources and part.deploy.resources.reservations
    for device in out["deploy"]["resources"]["reservations"].get("devices", ()) if reserved else ():
        if "device_ids" not in device:
            device.setdefault("count", -1)


def _hook(hook: HookPart) -> dict[str, Any]:
    return {"command": _words(hook.command), **_dump(hook)}


def _trigger(trigger: WatchPart) -> dict[str, Any]:
    return {**_dump(trigger), "exec": _hook(trigger.exec or HookPart())}


def _words(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _volume(volume: ServiceVolume) -> dict[str, Any]:
    out = _dump(volume)
    for block in ("bind", "volume", "tmpfs", "image"):
        options = getattr(volume, block)
        if options is not None:
            out[block] = _dump(options)
    if volume.tmpfs is not None and volume.tmpfs.mode:
        out["tmpfs"]["mode"] = volume.tmpfs.mode
    return out


def _build(name: str, build: BuildPart, resolved: Resolved) -> dict[str, Any]:
    """The build with its context and Dockerfile filled in; an argument without a value is not printed."""
    out = {"context": resolved.working_dir if resolved.view.paths else ".", **_dump(build)}
    if not build.dockerfile_inline:
        out.setdefault("dockerfile", "Dockerfile")
    if build.args:
        args = {k: resolved.variables.get(k) if v is None else v for k, v in build.args.items()}
        out["args"] = {key: value for key, value in args.items() if value is not None}
        if not out["args"]:
            del out["args"]
    if build.ssh:
        out["ssh"] = [f"{key}={value}" if value else key for key, value in sorted(build.ssh.items())]
    if build.ulimits:
        out["ulimits"] = _ulimits(build.ulimits, child(resolved.document, "services", name, "build"))
    return out


def _ulimits(limits: Mapping[str, UlimitPart], holder: Node | None) -> dict[str, Any]:
    """Each limit in the form in which it was written below the holder: one number, or soft and hard."""
    return {
        key: _limit(limit, single=isinstance(child(holder, "ulimits", key), Scalar))
        for key, limit in limits.items()
    }


def _limit(limit: UlimitPart, *, single: bool) -> int | dict[str, int]:
    if single and limit.soft:
        return limit.soft
    return {key: value for key, value in (("soft", limit.soft), ("hard", limit.hard)) if value}


def _resource(resolved: Resolved, key: str, part: Any) -> dict[str, Any]:
    out = _dump(part)
    out["name"] = resource_name(resolved.name, key, part)
    return out


def _network(resolved: Resolved, key: str, part: NetworkPart) -> dict[str, Any]:
    out = _resource(resolved, key, part)
    out.setdefault("ipam", {}).pop("options", None)  # compose-go keeps no IPAM options
    return out
