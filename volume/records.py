"""What is kept about a volume, and the grammar and driver options of volumes. Pure: text in, records out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pystack.model.errors import InvalidInput, NotFound, Unsupported

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
DRIVER = "local"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_NAME_MAX = 255
_BIND_OPTIONS = {"bind", "rbind", "rw", "defaults"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    """One volume. `created` is RFC 3339; `device` is the host path of a volume that is a bind, "" otherwise."""

    name: str
    created: str
    labels: Mapping[str, str]
    options: Mapping[str, str]
    device: str = ""

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS_LABEL in self.labels

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


def from_json(text: str) -> VolumeRecord:
    return VolumeRecord(**json.loads(text))


def check_name(name: str) -> None:
    """InvalidInput, in Docker's words, for what cannot name a volume."""
    if not _NAME.match(name) or len(name) > _NAME_MAX:
        raise InvalidInput(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def check_driver(driver: str) -> None:
    if driver not in {"", DRIVER}:
        raise NotFound(
            f'error looking up volume plugin {driver}: plugin "{driver}" not found',
            hint="the driver here is local",
        )


def device_of(name: str, options: Mapping[str, str]) -> str:
    """The host path behind `type: none, o: bind, device: /path`; "" without options. Others are refused, with the reason."""
    unknown = next((key for key in options if key not in {"type", "o", "device"}), None)
    if unknown is not None:
        raise InvalidInput(
            f'create {name}: invalid option: "{unknown}"', hint="the local driver has type, o and device"
        )
    if not options:
        return ""
    kind, device = options.get("type", ""), options.get("device", "")
    flags = {flag for flag in options.get("o", "").split(",") if flag}
    if not flags & {"bind", "rbind"} and kind != "bind":
        raise Unsupported(
            f"cannot create volume {name} of type {kind or 'unknown'}: the local driver here knows only o=bind",
            hint="for memory use a tmpfs mount; mount a network file system on the host and bind it",
        )
    if flags - _BIND_OPTIONS:
        raise Unsupported(
            f"cannot create volume {name} with o={options['o']}: only bind and rbind are known here"
        )
    if not device.startswith("/"):
        raise InvalidInput(
            f'create {name}: missing device in volume options, it is an absolute path: "{device}"'
        )
    return device
