"""`run`'s short forms (`-v`, `-p`, `-e`, `--entrypoint`) as what the planner takes.

In come the texts of a request, out goes a `OneOff`. Raises InvalidInput for a text that cannot be read.
"""

from __future__ import annotations

import os
import secrets
import shlex
from typing import cast

from pystack.model.container import Mount, PortBinding, Protocol
from pystack.model.errors import InvalidInput
from pystack.planner.specs import OneOff
from pystack.stackfile.portsyntax import PortSyntaxError, parse_ports
from pystack.stackfile.volumesyntax import VolumeSyntaxError, parse_volume


def one_off(
    *,
    command: list[str] | None,
    entrypoint: str | None,
    env: list[str],
    environment: dict[str, str],
    user: str | None,
    workdir: str | None,
    volumes: list[str],
    publish: list[str],
    name: str,
    rm: bool,
    tty: bool,
    stdin: bool,
    use_aliases: bool,
    directory: str,
) -> OneOff:
    """`environment` is the caller's, for `-e KEY` without a value; paths are relative to `directory`."""
    return OneOff(
        slug=secrets.token_hex(6),
        name=name,
        command=None if command is None else tuple(command),
        entrypoint=None if entrypoint is None else tuple(shlex.split(entrypoint)),
        environment=tuple(_variable(item, environment) for item in env),
        user=user,
        working_dir=workdir,
        mounts=tuple(_mount(text, directory, environment.get("HOME", "")) for text in volumes),
        ports=tuple(port for text in publish for port in _ports(text)),
        remove=rm,
        tty=tty,
        stdin=stdin,
        use_aliases=use_aliases,
    )


def _variable(item: str, environment: dict[str, str]) -> str:
    return f"{item}={environment[item]}" if "=" not in item and item in environment else item


def _mount(text: str, directory: str, home: str) -> Mount:
    try:
        found, unknown = parse_volume(text)
    except VolumeSyntaxError as error:
        raise InvalidInput(f"cannot use volume {text!r}: {error}", hint=error.hint) from None
    if unknown:
        raise InvalidInput(f"cannot use volume {text!r}: {', '.join(unknown)} is no option that is known")
    bind = found["type"] == "bind"
    source = str(found.get("source", ""))
    if bind and source.split("/", 1)[0] == "~" and home:
        source = home + source[1:]
    block = cast("dict[str, object]", found["bind" if bind else "volume"])
    return Mount(
        type="bind" if bind else "volume",
        target=str(found["target"]),
        source=os.path.normpath(os.path.join(directory, source)) if bind else source,
        read_only=bool(found.get("read_only")),
        create_host_path=bind,
        propagation=str(block.get("propagation", "")),
        nocopy=bool(block.get("nocopy")),
    )


def _ports(text: str) -> list[PortBinding]:
    try:
        found = parse_ports(text)
    except PortSyntaxError as error:
        raise InvalidInput(f"cannot publish {text!r}: {error}", hint=error.hint) from None
    bindings = []
    for item in found:
        first, _, last = str(item.get("published", "")).partition("-")
        bindings.append(
            PortBinding(
                container_port=int(item["target"]),
                protocol=cast("Protocol", str(item["protocol"])),
                host_ip=str(item.get("host_ip", "")),
                host_port=int(first or 0),
                host_port_end=int(last or 0),
            )
        )
    return bindings
