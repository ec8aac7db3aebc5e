"""What a driver adds to each entry: the tag, by Docker's template fields, and chosen labels and variables. Pure.

Source: moby daemon/logger/loginfo.go and loggerutils/log_tag.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pystack.model.errors import InvalidInput

_FIELD = re.compile(r"\{\{-?\s*\.([A-Za-z]+)\s*-?\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The container as drivers name it. `created` is RFC 3339."""

    id: str
    name: str
    image: str
    image_id: str
    created: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    env: tuple[str, ...]
    hostname: str = ""  # of the host


def _fields(subject: Subject) -> dict[str, str]:
    image_id = subject.image_id.removeprefix("sha256:")
    return {
        "ID": subject.id[:12],
        "FullID": subject.id,
        "ContainerID": subject.id,
        "Name": subject.name,
        "FullName": f"/{subject.name}",
        "ContainerName": f"/{subject.name}",
        "ImageID": image_id[:12],
        "ImageFullID": subject.image_id,
        "ContainerImageID": subject.image_id,
        "ImageName": subject.image,
        "ContainerImageName": subject.image,
        "ContainerEntrypoint": subject.command[0] if subject.command else "",
        "ContainerCreated": subject.created,
        "Command": " ".join(subject.command),
        "DaemonName": "docker",
        "Hostname": subject.hostname,
    }


def render_tag(template: str, subject: Subject) -> str:
    """InvalidInput for anything but plain fields."""
    fields = _fields(subject)

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InvalidInput(
                f"cannot read the log tag {template!r}: there is no field .{match[1]}",
                hint=f"one of .{', .'.join(sorted(fields))}",
            )
        return fields[match[1]]

    text = _FIELD.sub(value, template)
    if "{{" in _FIELD.sub("", template):
        raise InvalidInput(
            f"cannot read the log tag {template!r}: only plain fields are known",
            hint="write it like {{.Name}}",
        )
    return text


def extra_attributes(options: Mapping[str, str], subject: Subject) -> dict[str, str]:
    """Labels and variables that `labels`, `labels-regex`, `env` and `env-regex` choose."""
    env = dict(entry.partition("=")[::2] for entry in subject.env)
    found: dict[str, str] = {}
    for values, key in ((subject.labels, "labels"), (env, "env")):
        names = set(filter(None, options.get(key, "").split(",")))
        pattern = options.get(f"{key}-regex", "")
        found |= {n: v for n, v in values.items() if n in names or (pattern and re.search(pattern, n))}
    return found
