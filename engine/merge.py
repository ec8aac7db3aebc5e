"""A create request over its image's config: what the container will really be. Pure: spec and image config in, spec out.

The rules are moby's `daemon/commit.go` merge and `daemon/create.go`; `None` in the request lets the image show through.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pystack.model.container import ContainerSpec, Healthcheck, ImageConfig
from pystack.model.errors import InvalidInput

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM = 64 << 20
#: Labels by which stacks know their containers. Whoever builds an image must not hand its containers over to one.
_OWNERSHIP = "com.docker.compose."


def _key(entry: str) -> str:
    return entry.partition("=")[0]


def merge_env(asked: Iterable[str], image: Iterable[str]) -> tuple[str, ...]:
    """The request's entries, then the image's whose key the request does not have (a bare "K" counts: it removes K)."""
    own = tuple(asked)
    keys = {_key(e) for e in own}
    return own + tuple(e for e in image if _key(e) not in keys)


def merge_healthcheck(asked: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    """Field by field: what the request leaves empty or zero comes from the image."""
    if asked is None or image is None:
        return asked or image
    return Healthcheck(
        test=asked.test or image.test,
        interval=asked.interval or image.interval,
        timeout=asked.timeout or image.timeout,
        start_period=asked.start_period or image.start_period,
        start_interval=asked.start_interval or image.start_interval,
        retries=asked.retries or image.retries,
    )


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(first + second))


def merge(spec: ContainerSpec, image: ImageConfig, container_id: str) -> ContainerSpec:
    """The spec with the image's config and the engine's defaults in it. InvalidInput when nothing says what to run."""
    command, entrypoint = spec.command, spec.entrypoint
    if not entrypoint:
        if not command:
            command = image.command
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint == ("",):
        entrypoint = None
    if not entrypoint and not command:
        raise InvalidInput("no command specified", hint="the image has none: give one")
    hostname = spec.hostname
    if not hostname and spec.uts_mode != "host" and not spec.network_mode.startswith("container:"):
        hostname = container_id[:12] if spec.network_mode != "host" else ""
    return replace(
        spec,
        command=command,
        entrypoint=entrypoint,
        env=merge_env(spec.env, image.env),
        labels={k: v for k, v in image.labels.items() if not k.startswith(_OWNERSHIP)} | dict(spec.labels),
        exposed_ports=_union(
            spec.exposed_ports + tuple(f"{p.container_port}/{p.protocol}" for p in spec.ports),
            image.exposed_ports,
        ),
        volumes=_union(spec.volumes, image.volumes),
        user=spec.user or image.user,
        working_dir=spec.working_dir or image.working_dir,
        healthcheck=merge_healthcheck(spec.healthcheck, image.healthcheck),
        stop_signal=spec.stop_signal or image.stop_signal,
        hostname=hostname,
        shm_size=spec.shm_size or DEFAULT_SHM,
        network_mode="bridge" if spec.network_mode in {"", "default"} else spec.network_mode,
        ipc_mode=spec.ipc_mode or "private",
    )


def argv(config: ContainerSpec) -> list[str]:
    """Entrypoint and command of a merged spec: never empty."""
    return [*(config.entrypoint or ()), *(config.command or ())]


def process_env(config: ContainerSpec, extra: Iterable[str] = ()) -> list[str]:
    """Environment of PID 1: PATH, HOSTNAME and TERM unless given, then the spec's; later entries win, bare names remove.

    HOME is added in the container, where its passwd can be read.
    """
    values: dict[str, str] = {"PATH": DEFAULT_PATH}
    if config.hostname:
        values["HOSTNAME"] = config.hostname
    if config.tty:
        values["TERM"] = "xterm"
    for entry in (*config.env, *extra):
        key, equals, value = entry.partition("=")
        if equals:
            values[key] = value
        else:
            values.pop(key, None)
    return [f"{k}={v}" for k, v in values.items()]
