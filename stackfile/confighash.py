"""docker compose's hash of a service, from what `config` prints: sha256 of Go's JSON of it.

In: the canonical mapping. Out: service -> hexadecimal hash, as `docker compose config --hash` prints it. What may change
without a container being made anew is left out. Source: docker/compose `pkg/compose/hash.go`; the order of the keys is
that of compose-go's structs, as its output shows it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

_LEFT_OUT = frozenset({"build", "depends_on", "profiles", "pull_policy", "scale"})
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
#: The order of the keys, by path; `*` is a name, `[]` an entry. Mappings that are not here are sorted.
_ORDER: dict[str, tuple[str, ...]] = {
    "": (
        "annotations",
        "attach",
        "build",
        "develop",
        "blkio_config",
        "cap_add",
        "cap_drop",
        "cgroup_parent",
        "cgroup",
        "cpu_count",
        "cpu_percent",
        "cpu_period",
        "cpu_quota",
        "cpu_rt_period",
        "cpu_rt_runtime",
        "cpus",
        "cpuset",
        "cpu_shares",
        "command",
        "configs",
        "container_name",
        "credential_spec",
        "depends_on",
        "deploy",
        "device_cgroup_rules",
        "devices",
        "dns",
        "dns_opt",
        "dns_search",
        "domainname",
        "entrypoint",
        "provider",
        "environment",
        "expose",
        "external_links",
        "extra_hosts",
        "group_add",
        "gpus",
        "hostname",
        "healthcheck",
        "image",
        "init",
        "ipc",
        "isolation",
        "labels",
        "links",
        "logging",
        "mem_limit",
        "mem_reservation",
        "memswap_limit",
        "mem_swappiness",
        "mac_address",
        "models",
        "networks",
        "oom_kill_disable",
        "oom_score_adj",
        "pid",
        "pids_limit",
        "platform",
        "ports",
        "privileged",
        "pull_policy",
        "read_only",
        "restart",
        "runtime",
        "scale",
        "secrets",
        "security_opt",
        "shm_size",
        "stdin_open",
        "stop_grace_period",
        "stop_signal",
        "storage_opt",
        "sysctls",
        "tmpfs",
        "tty",
        "ulimits",
        "use_api_socket",
        "user",
        "userns_mode",
        "uts",
        "volumes",
        "volumes_from",
        "working_dir",
        "post_start",
        "pre_stop",
    ),
    ".develop.watch[]": ("path", "action", "target", "exec", "include", "ignore", "initial_sync"),
    ".develop.watch[].exec": ("command", "user", "privileged", "working_dir", "environment"),
    ".blkio_config": (
        "weight",
        "weight_device",
        "device_read_bps",
        "device_read_iops",
        "device_write_bps",
        "device_write_iops",
    ),
    ".configs[]": ("source", "target", "uid", "gid", "mode"),
    ".deploy": (
        "mode",
        "replicas",
        "labels",
        "update_config",
        "rollback_config",
        "resources",
        "restart_policy",
        "placement",
        "endpoint_mode",
    ),
    ".deploy.update_config": (
        "parallelism",
        "delay",
        "failure_action",
        "monitor",
        "max_failure_ratio",
        "order",
    ),
    ".deploy.rollback_config": (
        "parallelism",
        "delay",
        "failure_action",
        "monitor",
        "max_failure_ratio",
        "order",
    ),
    ".deploy.resources.reservations": ("cpus", "memory", "devices", "generic_resources"),
    ".deploy.resources.reservations.devices[]": ("capabilities", "driver", "device_ids", "count", "options"),
    ".deploy.placement": ("constraints", "preferences", "max_replicas_per_node"),
    ".devices[]": ("source", "target", "permissions"),
    ".provider": ("type", "options"),
    ".gpus[]": ("capabilities", "driver", "device_ids", "count", "options"),
    ".healthcheck": ("test", "timeout", "interval", "retries", "start_period", "start_interval", "disable"),
    ".ports[]": ("name", "mode", "host_ip", "target", "published", "protocol", "app_protocol"),
    ".secrets[]": ("source", "target", "uid", "gid", "mode"),
    ".ulimits.*": ("soft", "hard"),
    ".volumes[]": (
        "type",
        "source",
        "target",
        "read_only",
        "consistency",
        "bind",
        "volume",
        "tmpfs",
        "image",
    ),
    ".volumes[].bind": ("selinux", "propagation", "create_host_path", "recursive"),
    ".volumes[].tmpfs": ("size", "mode"),
    ".post_start[]": ("command", "user", "privileged", "working_dir", "environment"),
    ".pre_stop[]": ("command", "user", "privileged", "working_dir", "environment"),
}


def hashes(config: dict[str, Any]) -> dict[str, str]:
    """The hash of each service of a canonical configuration."""
    return {name: _hash(service) for name, service in sorted((config.get("services") or {}).items())}


def _hash(service: dict[str, Any]) -> str:
    kept = {key: value for key, value in service.items() if key not in _LEFT_OUT}
    if kept.get("deploy"):
        kept["deploy"] = {key: value for key, value in kept["deploy"].items() if key != "replicas"}
    text = json.dumps(_ordered(kept, ""), separators=(",", ":"), ensure_ascii=False)
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return hashlib.sha256(text.encode()).hexdigest()


def _ordered(value: Any, path: str) -> Any:
    """The value with its mappings in Go's order and `$$` as the `$` that it stands for."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_ordered(item, path + "[]") for item in value]
    if not isinstance(value, dict):
        return value
    order = {key: index for index, key in enumerate(_ORDER.get(path, ()))}
    keys = sorted(value, key=lambda key: (order.get(key, len(order)), key))
    star = path if path in _NAMED else None
    return {
        key.replace("$$", "$"): _ordered(value[key], f"{path}.*" if star is not None else f"{path}.{key}")
        for key in keys
    }


#: Mappings whose keys are names.
_NAMED = frozenset({".networks", ".ulimits", ".depends_on", ".models"})
