"""The daemon's configuration: its JSON file and its flags go in, an engine's `Settings` and where to listen come out.

The file's keys are those of Docker's daemon.json, as far as this engine has what they set. Nothing in it is ignored: a
key that is unknown, or that is given as a flag, too, is an error that names it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pystack.api import jsons
from pystack.engine.bundles import parse_size
from pystack.model.container import LogConfig, Ulimit
from pystack.model.errors import EngineError, InvalidInput
from pystack.model.names import Instance
from pystack.model.settings import PLUGIN_DIRECTORIES, AddressPool, Settings

#: Read by the engine whose state is in its default place; every engine reads the one in its own root first.
SYSTEM_FILE = "/etc/pystack/daemon.json"
SYSTEM_ROOT = "/var/lib/pystack"
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the API listens besides the instance's own socket, and as whom. Changes need a new start."""

    hosts: tuple[str, ...] = ()
    group: str | None = None  # None: of `pystack` and `docker` the first that exists
    tls_verify: bool = False
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    settings: Settings = field(default_factory=Settings)
    listening: Listening = field(default_factory=Listening)


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-")
    )


class _UlimitPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    Name: str
    Hard: int
    Soft: int


class _PoolPart(_Part):
    base: str
    size: int = Field(ge=1, le=30)


class _File(_Part):
    """One field for each key, with Docker's name but for underscores."""

    hosts: list[str] = []
    group: str | None = None
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    debug: bool = False
    labels: list[str] = []
    live_restore: bool = True
    shutdown_timeout: int = Field(default=15, ge=-1)
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    default_ulimits: dict[str, _UlimitPart] = {}
    default_shm_size: str | int = 64 << 20
    default_address_pools: list[_PoolPart] = []
    init: bool = False
    no_new_privileges: bool = False
    userns_remap: str = ""
    dns: list[str] = []
    dns_search: list[str] = []
    dns_opts: list[str] = []
    authorization_plugins: list[str] = []
    plugin_directories: list[str] = list(PLUGIN_DIRECTORIES)


def file_of(instance: Instance) -> str:
    """The configuration file that applies when none is named; "" when there is none."""
    own = f"{instance.root}/daemon.json"
    if os.path.exists(own):
        return own
    return SYSTEM_FILE if instance.root == SYSTEM_ROOT and os.path.exists(SYSTEM_FILE) else ""


def load(path: str, flags: Mapping[str, Any]) -> Configuration:
    """The configuration of a file ("" = none) and of flags, whose names are the file's keys. InvalidInput, EngineError."""
    given = _read(path) if path else {}
    both = sorted(set(given) & set(flags))
    if both:
        raise InvalidInput(
            f"cannot configure the daemon: {', '.join(both)} given as a flag and in {path}",
            hint="say it in one place",
        )
    return _checked(path or "the flags", {**given, **flags})


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise EngineError(f"cannot read the configuration file {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise InvalidInput(f"cannot use the configuration file {path}: it is larger than 1 MiB")
    if not data.strip():
        return {}
    try:
        value = jsons.parse(data)
    except InvalidInput as error:
        raise InvalidInput(f"cannot use the configuration file {path}: {error.message}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"cannot use the configuration file {path}: it is not a JSON object")
    known = [name.replace("_", "-") for name in _File.model_fields]
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise InvalidInput(
                f"cannot use the configuration file {path}: unknown key {name[:60]!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}",
            )
    return value


def _checked(source: str, given: Mapping[str, Any]) -> Configuration:
    try:
        file = _File.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"cannot use {source}: {where}: {first['msg']}") from None
    if file.tls and not file.tlsverify:
        raise InvalidInput(
            f"cannot use {source}: tls without tlsverify would let anybody in",
            hint="set tlsverify with tlscacert, tlscert and tlskey",
        )
    _check_labels(file.labels)
    return Configuration(
        settings=_settings(file),
        listening=Listening(
            hosts=tuple(file.hosts),
            group=file.group,
            tls_verify=file.tlsverify,
            tls_ca=file.tlscacert,
            tls_certificate=file.tlscert,
            tls_key=file.tlskey,
        ),
    )


def _settings(file: _File) -> Settings:
    size = file.default_shm_size
    return Settings(
        debug=file.debug,
        labels=tuple(file.labels),
        live_restore=file.live_restore,
        shutdown_timeout=file.shutdown_timeout,
        log=LogConfig(driver=file.log_driver, options=file.log_opts),
        default_ulimits=tuple(
            Ulimit(name=_same(key, part.Name), soft=part.Soft, hard=part.Hard)
            for key, part in file.default_ulimits.items()
        ),
        default_shm_size=size if isinstance(size, int) else parse_size(size),
        default_address_pools=tuple(_pool(part) for part in file.default_address_pools),
        init=file.init,
        no_new_privileges=file.no_new_privileges,
        userns_remap=file.userns_remap,
        dns=tuple(file.dns),
        dns_search=tuple(file.dns_search),
        dns_options=tuple(file.dns_opts),
        authorization_plugins=tuple(dict.fromkeys(file.authorization_plugins)),
        plugin_directories=tuple(file.plugin_directories),
    )


def _same(key: str, name: str) -> str:
    if key != name:
        raise InvalidInput(f"cannot use default-ulimits: the entry {key!r} has the name {name!r}")
    return name


def _pool(part: _PoolPart) -> AddressPool:
    try:
        base = IPv4Network(part.base)
    except ValueError as error:
        raise InvalidInput(f"cannot use default-address-pools: {part.base}: {error}") from None
    if not base.prefixlen <= part.size <= 30:
        raise InvalidInput(
            f"cannot use default-address-pools: size {part.size} does not lie between {base.prefixlen} and 30"
        )
    return AddressPool(base=str(base), size=part.size)


def _check_labels(labels: list[str]) -> None:
    values: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not (key and equals):
            raise InvalidInput(f"cannot use the label {label[:60]!r}: it is not key=value")
        if values.setdefault(key, value) != value:
            raise InvalidInput(f"cannot use the labels: {key} has two values")
