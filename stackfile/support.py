"""Attributes of the specification that the engine does not carry out yet: said, never silently ignored.

In: the document and the enabled services. Out: an error at each attribute that would change what runs, a warning where it
only concerns later operations. The next release shortens these tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, child, is_null

_REFUSED = ["annotations", "blkio_config", "build", "cgroup", "cgroup_parent", "cpu_count", "cpu_percent", "cpu_rt_period", "cpu_rt_runtime", "credential_spec", "develop", "external_links", "gpus", "isolation", "links", "mac_address", "models", "oom_score_adj", "platform", "post_start", "pre_start", "pre_stop", "provider", "pull_refresh_after", "runtime", "storage_opt", "use_api_socket", "userns_mode", "uts", "volumes_from"]
_DEPLOY_WARNED = ("endpoint_mode", "labels", "placement", "rollback_config", "update_config")
_JOIN_REFUSED = ("driver_opts", "gw_priority", "interface_name", "link_local_ips")
_WARNED = ("attach",)


def check_support(document: Node, enabled: Iterable[str], reporter: Reporter) -> None:
    """Reports what the enabled services ask for and the engine cannot do yet."""
    if not is_null(child(document, "models")):
        _report(document, ("models",), reporter)
    for name in enabled:
        path = ("services", name)
        for attribute in _REFUSED:
            _report(document, (*path, attribute), reporter)
        for attribute in _WARNED:
            _report(document, (*path, attribute), reporter, warn=True)
        for attribute in _DEPLOY_WARNED:
            _report(document, (*path, "deploy", attribute), reporter, warn=True)
        _deploy(document, path, reporter)
        joined = child(document, *path, "networks")
        for network in joined.items if isinstance(joined, Mapping) else ():
            for attribute in _JOIN_REFUSED:
                _report(document, (*path, "networks", network, attribute), reporter)


def _deploy(document: Node, path: tuple[str, ...], reporter: Reporter) -> None:
    mode = child(document, *path, "deploy", "mode")
    if isinstance(mode, Scalar) and mode.value not in (None, "replicated"):
        text = ".".join((*path, "deploy.mode"))
        reporter.error(
            mode, "unsupported", f"{text} {mode.value} is not supported yet", path=(*path, "deploy", "mode")
        )
    for last in ("devices", "generic_resources"):
        _report(document, (*path, "deploy", "resources", "reservations", last), reporter)
    for last in ("delay", "window"):
        _report(document, (*path, "deploy", "restart_policy", last), reporter, warn=True)


def _report(document: Node, path: tuple[str, ...], reporter: Reporter, *, warn: bool = False) -> None:
    parent = child(document, *path[:-1])
    if not isinstance(parent, Mapping) or is_null(parent.items.get(path[-1])):
        return
    key = parent.keys[path[-1]]
    if warn:
        reporter.warn(
            key, "unsupported", f"{'.'.join(path)} is not carried out yet and has no effect", path=path
        )
    else:
        reporter.error(key, "unsupported", f"{'.'.join(path)} is not supported yet", path=path)
