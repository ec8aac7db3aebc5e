"""Bind mounts: a mount in, the host path that is its source out, checked or made."""

from __future__ import annotations

import os

from pystack.kernel.failpoints import failpoint
from pystack.kernel.host import propagation_of
from pystack.model.container import Mount
from pystack.model.errors import EngineError, InvalidInput


def prepare(mount: Mount) -> str:
    """The source of a bind mount, absolute. InvalidInput, in Docker's words, when it is not there.

    With `create_host_path` a missing source becomes a directory of root's (mode 0755), with its parents.
    """
    source = mount.source
    if not source.startswith("/") or "\0" in source:
        raise InvalidInput(
            f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
        )
    source = os.path.normpath(source)
    try:
        if not os.path.exists(source):
            if not mount.create_host_path:
                raise InvalidInput(
                    f'invalid mount config for type "bind": bind source path does not exist: {source}',
                    hint="make it, or let it be made: create_host_path: true, or the short syntax",
                )
            _make(source)
    except OSError as error:
        raise EngineError(
            f"error while creating mount source path '{source}': mkdir {error.filename}: {error.strerror}"
        ) from error
    return source


def check_propagation(source: str, propagation: str) -> None:
    """InvalidInput, in Docker's words, where the host's mount does not propagate as the container is to share it."""
    wanted = {"shared": {"shared"}, "slave": {"shared", "master"}}.get(propagation.removeprefix("r"))
    if wanted is None:
        return
    point, has = propagation_of(source)
    if not wanted & has:
        kind = "shared mount" if wanted == {"shared"} else "shared or slave mount"
        raise InvalidInput(f"path {source} is mounted on {point} but it is not a {kind}")


def _make(path: str) -> None:
    """As mkdir -p, with exactly 0755 whatever the umask. A dangling link in the way is an error (FileExistsError)."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for place in reversed(missing):
        os.mkdir(place)
        os.chmod(place, 0o755)  # noqa: S103 - as Docker makes them
        failpoint("volume.bind.made")
