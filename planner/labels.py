"""The labels that tie containers, networks and volumes to their stack: Docker Compose's own, so that its tools see it.

In come services and stacks, out go labels; and back: what the labels of an observed container say. The set is that of
docker/compose `pkg/api/labels.go`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pystack import __version__
from pystack.model.desired import Dependency, Service, Stack
from pystack.model.observed import ContainerView

PREFIX = "com.docker.compose."
PROJECT = PREFIX + "project"
SERVICE = PREFIX + "service"
CONFIG_HASH = PREFIX + "config-hash"
NUMBER = PREFIX + "container-number"
NETWORK = PREFIX + "network"
VOLUME = PREFIX + "volume"
WORKING_DIR = PREFIX + "project.working_dir"
CONFIG_FILES = PREFIX + "project.config_files"
ONEOFF = PREFIX + "oneoff"
SLUG = PREFIX + "slug"
IMAGE = PREFIX + "image"
DEPENDS_ON = PREFIX + "depends_on"
REPLACE = PREFIX + "replace"
VERSION = PREFIX + "version"

_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")


def of_project(stack: Stack) -> dict[str, str]:
    return {PROJECT: stack.name, VERSION: __version__}


def of_container(
    stack: Stack, service: Service, number: int, *, config_hash: str, depends_on: tuple[Dependency, ...]
) -> dict[str, str]:
    """The user's labels and compose's. `depends_on` includes the implied ones."""
    return {
        **service.labels,
        **of_project(stack),
        SERVICE: service.name,
        CONFIG_HASH: config_hash,
        NUMBER: str(number),
        ONEOFF: "False",
        WORKING_DIR: stack.working_dir,
        CONFIG_FILES: ",".join(stack.config_files),
        DEPENDS_ON: ",".join(f"{d.service}:{d.condition}:{str(d.restart).lower()}" for d in depends_on),
    }


def dependencies_of(labels: Mapping[str, str]) -> tuple[Dependency, ...]:
    """What a container's label says that its service depends on; parts that cannot be read are left out."""
    found = []
    for part in filter(None, labels.get(DEPENDS_ON, "").split(",")):
        name, _, rest = part.partition(":")
        condition, _, restart = rest.partition(":")
        for known in _CONDITIONS:
            if condition in ("", known):
                found.append(Dependency(service=name, condition=known, restart=restart == "true"))  # type: ignore[arg-type]
                break
    return tuple(found)


def service_of(view: ContainerView) -> str:
    return view.spec.labels.get(SERVICE, "")


def number_of(view: ContainerView) -> int:
    """The replica's number, 0 when the label does not say."""
    text = view.spec.labels.get(NUMBER, "")
    return int(text) if text.isdecimal() else 0


def is_oneoff(view: ContainerView) -> bool:
    return view.spec.labels.get(ONEOFF, "").lower() == "true"
