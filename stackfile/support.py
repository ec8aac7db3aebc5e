"""Attributes of the specification that the engine does not carry out yet: said, never silently ignored.

In: the document and the enabled services. Out: an error at each attribute that would change what runs, a warning where it
only concerns later operations. The next release shortens these tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, Sequence, child, entries, is_null

_REFUSED = frozenset(
    {
        "annotations",
        "blkio_config",
        "build",
        "cgroup",
        "cgroup_parent",
        "cpu_count",
        "cpu_percent",
        "cpu_rt_period",
        "cpu_rt_runtime",
        "credential_spec",
        "external_links",
        "gpus",
        "isolation",
        "links",
        "mac_address",
        "models",
        "oom_score_adj",
        "platform",
        "post_start",
        "pre_start",
        "pre_stop",
        "provider",
        "pull_refresh_after",
        "runtime",
        "storage_opt",
        "use_api_socket",
        "userns_mode",
        "uts",
        "volumes_from",
    }
)
_DEPLOY_WARNED = ("endpoint_mode", "labels", "placement", "rollback_config", "update_config")
_JOIN_REFUSED = ("driver_opts", "gw_priority", "interface_name", "link_local_ips")
_WARNED = ("attach", "develop")


def check_support(document: Node, enabled: Iterable[str], reporter: Reporter) -> None:
    """Reports what the enabled services ask for and the engine cannot do yet."""
    _report(document, (), ("models",), reporter)
    for key, network in entries(child(document, "networks")):
        _network(network, ("networks", key), reporter)
    for kind in ("secrets", "configs"):
        for key, content in entries(child(document, kind)):
            _report(content, (kind, key), ("template_driver",), reporter)
    for name in enabled:
        path: tuple[str, ...] = ("services", name)
        service = child(document, *path)
        _report(service, path, _REFUSED, reporter)
        _report(service, path, _WARNED, reporter, warn=True)
        _words(service, path, reporter)
        _targets(service, path, reporter)
        if (deploy := child(service, "deploy")) is not None:
            _deploy(deploy, (*path, "deploy"), reporter)
        for joined, options in entries(child(service, "networks")):
            _report(options, (*path, "networks", joined), _JOIN_REFUSED, reporter)


def _network(network: Node, path: tuple[str, ...], reporter: Reporter) -> None:
    ipv4, driver = child(network, "enable_ipv4"), child(network, "ipam", "driver")
    if isinstance(ipv4, Scalar) and str(ipv4.value).lower() in ("false", "no", "off"):
        _refuse(ipv4, (*path, "enable_ipv4"), reporter)
    if isinstance(driver, Scalar) and driver.value not in (None, "default"):
        _refuse(driver, (*path, "ipam", "driver"), reporter)
    _report(child(network, "ipam"), (*path, "ipam"), ("options",), reporter, warn=True)


def _words(service: Node | None, path: tuple[str, ...], reporter: Reporter) -> None:
    """Attributes some of whose values are carried out."""
    policy, volumes = child(service, "pull_policy"), child(service, "volumes")
    if isinstance(policy, Scalar) and re.match(r"build|daily|weekly|refresh|every_", str(policy.value)):
        _refuse(policy, (*path, "pull_policy"), reporter)
    for volume in volumes.items if isinstance(volumes, Sequence) else ():
        kind = child(volume, "type")
        if isinstance(kind, Scalar) and kind.value == "image":
            _refuse(kind, (*path, "volumes", "type"), reporter)


def _refuse(value: Scalar, path: tuple[str, ...], reporter: Reporter) -> None:
    reporter.error(value, "unsupported", f"{'.'.join(path)} `{value.value}` is not supported yet", path=path)


def _targets(service: Node | None, path: tuple[str, ...], reporter: Reporter) -> None:
    """Mount targets that no container can have. Compose lets them pass and the engine refuses them."""
    volumes, tmpfs = child(service, "volumes"), child(service, "tmpfs")
    targets = [child(v, "target") for v in volumes.items] if isinstance(volumes, Sequence) else []
    targets += tmpfs.items if isinstance(tmpfs, Sequence) else []
    for node in targets:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            continue
        target = node.value.partition(":")[0] if node.value.startswith("/") else node.value
        if not target.startswith("/"):
            drive = re.match(r"[A-Za-z]:", target)
            hint = "a one-letter volume name reads as a Windows drive; give it a longer name" if drive else ""
            message = f"mount target `{target}` must be an absolute path"
            reporter.error(node, "bad-volume", message, path=path, help=hint)
        elif target.strip("/") == "":
            reporter.error(node, "bad-volume", "a mount cannot cover the container's root `/`", path=path)


def _deploy(deploy: Node, path: tuple[str, ...], reporter: Reporter) -> None:
    _report(deploy, path, _DEPLOY_WARNED, reporter, warn=True)
    mode = child(deploy, "mode")
    if isinstance(mode, Scalar) and mode.value not in (None, "replicated"):
        _refuse(mode, (*path, "mode"), reporter)
    reserved = child(deploy, "resources", "reservations")
    _report(reserved, (*path, "resources", "reservations"), ("devices", "generic_resources"), reporter)
    _report(
        child(deploy, "restart_policy"), (*path, "restart_policy"), ("delay", "window"), reporter, warn=True
    )


def _report(
    node: Node | None,
    path: tuple[str, ...],
    attributes: Collection[str],
    reporter: Reporter,
    *,
    warn: bool = False,
) -> None:
    """Reports those of the attributes that the mapping has."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items.items():
        if (
            key not in attributes
            or is_null(value)
            or (isinstance(value, Scalar) and value.value in ("", False))
        ):
            continue
        where = (*path, key)
        text = ".".join(where)
        if warn:
            reporter.warn(
                node.keys[key], "unsupported", f"{text} is not carried out yet and has no effect", path=where
            )
        else:
            reporter.error(node.keys[key], "unsupported", f"{text} is not supported yet", path=where)
