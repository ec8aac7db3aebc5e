"""What is kept about images: records that go to and from the documents table as JSON, and the OCI config's parser.

In: the bytes of an image config (untrusted, OCI image-spec `config.md` and Docker's schema 2) or our own JSON. Out:
frozen records. An image's id is the digest of its config; a layer's is its chain id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pystack.image.references import is_digest
from pystack.model.container import Healthcheck, ImageConfig
from pystack.model.errors import InvalidInput

#: Documents larger than this are refused (cves.md C: unlimited JSON).
JSON_MAX = 8 << 20
LAYERS_MAX = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One unpacked layer. `directory` is its name below `layers/`; `size` is of the unpacked content, in bytes."""

    chain_id: str
    diff_id: str
    directory: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image. `config` is the config's JSON text as it came; `layers` are chain ids, lowest first; `blobs` the
    digests of the layers as they were stored. `binds` are (host path, target) read-only mounts of a synthetic image.
    """

    id: str
    config: str
    layers: tuple[str, ...]
    blobs: tuple[str, ...] = ()
    size: int = 0
    repo_digests: tuple[str, ...] = ()
    synthetic: str = ""
    key: str = ""  # synthetic: digest of the facts that it was made from
    binds: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUser:
    """A container that uses an image."""

    id: str
    name: str
    running: bool


def image_from_json(text: str) -> ImageRecord:
    raw = json.loads(text)
    for key in ("layers", "blobs", "repo_digests"):
        raw[key] = tuple(raw[key])
    raw["binds"] = tuple((source, target) for source, target in raw["binds"])
    return ImageRecord(**raw)


def layer_to_json(layer: LayerRecord) -> str:
    return json.dumps(asdict(layer), separators=(",", ":"))


def layer_from_json(text: str) -> LayerRecord:
    return LayerRecord(**json.loads(text))


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain id of each layer (OCI image-spec `config.md`, Layer ChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(
            diff_id
            if not chain
            else "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        )
    return tuple(chain)


# The OCI config


class _Health(BaseModel):
    Test: list[str] | None = None
    Interval: int = 0
    Timeout: int = 0
    StartPeriod: int = 0
    StartInterval: int = 0
    Retries: int = 0


class _Config(BaseModel):
    User: str = ""
    ExposedPorts: dict[str, Any] | None = None
    Env: list[str] | None = None
    Entrypoint: list[str] | None = None
    Cmd: list[str] | None = None
    Volumes: dict[str, Any] | None = None
    WorkingDir: str = ""
    Labels: dict[str, str] | None = None
    StopSignal: str = ""
    Healthcheck: _Health | None = None
    Shell: list[str] | None = None
    OnBuild: list[str] | None = None


class _RootFs(BaseModel):
    type: str = "layers"
    diff_ids: list[str] | None = None


class HistoryEntry(BaseModel):
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class OciImage(BaseModel):
    """An image config. Unknown fields are kept out; the text itself is what is stored."""

    model_config = ConfigDict(extra="ignore")
    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = "linux"
    comment: str = ""
    config: _Config | None = None
    rootfs: _RootFs = Field(default_factory=_RootFs)
    history: list[HistoryEntry] | None = None

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(self.rootfs.diff_ids or ())


def parse_config(data: bytes | str) -> OciImage:
    """The config of an image; InvalidInput when it is not one."""
    if len(data) > JSON_MAX:
        raise InvalidInput(f"cannot use an image config of more than {JSON_MAX} bytes")
    try:
        image = OciImage.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"cannot use the image config: {place}: {first['msg']}") from error
    if image.rootfs.type != "layers":
        raise InvalidInput(f"cannot use an image whose rootfs type is {image.rootfs.type!r}, only layers")
    bad = next((diff_id for diff_id in image.diff_ids if not is_digest(diff_id)), None)
    if bad is not None:
        raise InvalidInput(f"cannot use an image config with diff id {bad!r}")
    if len(image.diff_ids) > LAYERS_MAX:
        raise InvalidInput(
            f"cannot use an image of {len(image.diff_ids)} layers, {LAYERS_MAX} is the limit of overlayfs"
        )
    return image


def image_config(image: OciImage) -> ImageConfig:
    """The runtime part in the engine's words. Values are checked where they are used, not here."""
    config = image.config or _Config()
    health = config.Healthcheck
    return ImageConfig(
        user=config.User,
        exposed_ports=tuple(sorted(config.ExposedPorts or ())),
        env=tuple(config.Env or ()),
        entrypoint=None if config.Entrypoint is None else tuple(config.Entrypoint),
        command=None if config.Cmd is None else tuple(config.Cmd),
        volumes=tuple(sorted(config.Volumes or ())),
        working_dir=config.WorkingDir,
        labels=dict(config.Labels or {}),
        stop_signal=config.StopSignal,
        healthcheck=None if health is None else _healthcheck(health),
        shell=tuple(config.Shell or ()),
        on_build=tuple(config.OnBuild or ()),
    )


def _healthcheck(health: _Health) -> Healthcheck:
    return Healthcheck(
        test=tuple(health.Test or ()),
        interval=health.Interval,
        timeout=health.Timeout,
        start_period=health.StartPeriod,
        start_interval=health.StartInterval,
        retries=health.Retries,
    )


def parse_json(data: bytes, what: str) -> Any:
    """JSON of a manifest or index; InvalidInput names `what`."""
    if len(data) > JSON_MAX:
        raise InvalidInput(f"cannot read {what}: more than {JSON_MAX} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"cannot read {what}: it is not JSON") from error


def get(mapping: Any, key: str, kind: type, what: str) -> Any:
    """Field `key` of a JSON object, of this type; InvalidInput names `what`."""
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    if not isinstance(value, kind):
        raise InvalidInput(f"cannot read {what}: {key} is missing or of the wrong type")
    return value
