"""Attributes of the specification that the engine does not carry out yet: said, never silently ignored.

In: the document and the enabled services. Out: an error at each attribute that would change what runs, a warning where it
only concerns later operations. The next release shortens these tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, child, entries, is_null

_REFUSED = [
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
    "develop",
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
]
_DEPLOY_WARNED = ("endpoint_mode", "labels", "placement", "rollback_config", "update_config")
_JOIN_REFUSED = ("driver_opts", "gw_priority", "interface_name", "link_local_ips")
_WARNED = ("attach",)


def check_support(document: Node, enabled: Iterable[str], reporter: Reporter) -> None:
    """Reports what the enabled services ask for and the engine cannot do yet."""
    _report(document, (), ("models",), reporter)
    for name in enabled:
        path: tuple[str, ...] = ("services", name)
        service = child(document, *path)
        _report(service, path, _REFUSED, reporter)
        _report(service, path, _WARNED, reporter, warn=True)
        if (deploy := child(service, "deploy")) is not None:
            _deploy(deploy, (*path, "deploy"), reporter)
        for network, joined in entries(child(service, "networks")):
            _report(joined, (*path, "networks", network), _JOIN_REFUSED, reporter)


def _deploy(deploy: Node, path: tuple[str, ...], reporter: Reporter) -> None:
    _report(deploy, path, _DEPLOY_WARNED, reporter, warn=True)
    mode = child(deploy, "mode")
    if isinstance(mode, Scalar) and mode.value not in (None, "replicated"):
        where = (*path, "mode")
        reporter.error(
            mode, "unsupported", f"{'.'.join(where)} {mode.value} is not supported yet", path=where
        )
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
        if key not in attributes or is_null(value):
            continue
        where = (*path, key)
        text = ".".join(where)
        if warn:
            reporter.warn(
                node.keys[key], "unsupported", f"{text} is not carried out yet and has no effect", path=where
            )
        else:
            reporter.error(node.keys[key], "unsupported", f"{text} is not supported yet", path=where)
