"""What a create request does not say and the engine's settings do: a spec and settings in, a spec out. Pure.

Docker's rules: `daemon/create.go`, `daemon/logs.go` mergeAndVerifyLogConfig, `daemon/daemon_unix.go` setUlimits.
"""

from __future__ import annotations

from dataclasses import replace

from pystack.model.container import ContainerSpec, LogConfig
from pystack.model.settings import Settings


def with_defaults(spec: ContainerSpec, settings: Settings) -> ContainerSpec:
    """The spec with defaults where it is silent. What the request says is never changed."""
    given = {limit.name for limit in spec.resources.ulimits}
    missing = tuple(limit for limit in settings.default_ulimits if limit.name not in given)
    options = spec.security_opt
    if settings.no_new_privileges and not any(o.startswith("no-new-privileges") for o in options):
        options = (*options, "no-new-privileges")
    return replace(
        spec,
        log=_log(spec.log, settings.log),
        shm_size=spec.shm_size or settings.default_shm_size,
        init=settings.init or None if spec.init is None else spec.init,
        security_opt=options,
        dns=spec.dns or settings.dns,
        dns_search=spec.dns_search or settings.dns_search,
        dns_options=spec.dns_options or settings.dns_options,
        resources=replace(spec.resources, ulimits=spec.resources.ulimits + missing)
        if missing
        else spec.resources,
    )


def _log(asked: LogConfig, default: LogConfig) -> LogConfig:
    """The default's options belong to its driver: another driver does not get them."""
    driver = asked.driver or default.driver
    options = {**default.options, **asked.options} if driver == default.driver else asked.options
    return LogConfig(driver=driver, options=options)
