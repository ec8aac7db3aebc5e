"""`docker save`: image records in, one tar out that is an OCI image layout and a docker-archive at the same time.

Each blob is in it once, however many images share it. Layers are written as they are stored; those in a compression that
OCI has no name for (bzip2, xz) are written as plain tars. Synchronous: runs in a worker thread.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pystack.image.compression import BUFFER, decompress, kind_of
from pystack.image.listing import epoch_seconds
from pystack.image.records import ImageRecord, OciImage, parse_config
from pystack.image.references import Reference
from pystack.image.store import Store
from pystack.image.tarstream import DIRECTORY, REGULAR
from pystack.image.tarwrite import TarWriter, Write
from pystack.model.errors import EngineError

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SUFFIXES = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One image and the names under which it shall be known."""

    image: ImageRecord
    tags: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    """A member below blobs/: `path` of a file to copy (decompressed if `plain`), or its `data`."""

    digest: str
    size: int
    media_type: str
    path: str = ""
    plain: bool = False
    data: bytes = b""
    mtime: int = 0

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(slots=True)
class _Archive:
    """What goes into one archive: blobs by digest, and the documents that name them."""

    blobs: dict[str, _Blob] = field(default_factory=dict)
    index: list[dict[str, Any]] = field(default_factory=list)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    repositories: dict[str, dict[str, str]] = field(default_factory=dict)


def save(store: Store, images: Sequence[Saved], write: Write, check: Callable[[], None]) -> None:
    """Write the archive. The blobs must not go away meanwhile."""
    archive = _Archive()
    for saved in images:
        _describe(store, saved, archive)
    tar = TarWriter(write)
    for name in ("blobs/", _BLOBS):
        tar.header(name.encode(), DIRECTORY, mode=0o755)
    for digest in sorted(archive.blobs):
        check()
        _write_blob(tar, archive.blobs[digest], check)
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": archive.index}
    documents: dict[str, Any] = {"index.json": index, "manifest.json": archive.manifest}
    documents["oci-layout"] = {"imageLayoutVersion": "1.0.0"}
    if archive.repositories:
        documents["repositories"] = archive.repositories
    for name, document in documents.items():
        data = _json(document)
        tar.header(name.encode(), REGULAR, size=len(data))
        tar.data(data)
    tar.finish()


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _data_blob(data: bytes, media_type: str, mtime: int = 0) -> _Blob:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return _Blob(digest=digest, size=len(data), media_type=media_type, data=data, mtime=mtime)


def _describe(store: Store, saved: Saved, archive: _Archive) -> None:
    config = parse_config(saved.image.config)
    mtime = epoch_seconds(config.created or "")
    body = _data_blob(saved.image.config.encode(), _CONFIG, mtime)
    layers = [
        _layer_blob(store, digest, diff_id, mtime)
        for digest, diff_id in zip(saved.image.blobs, config.diff_ids, strict=True)
    ]
    described = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": body.descriptor()}
    described["layers"] = [layer.descriptor() for layer in layers]
    manifest = _data_blob(_json(described), _MANIFEST)
    for blob in (body, *layers, manifest):
        archive.blobs.setdefault(blob.digest, blob)
    archive.index += [
        manifest.descriptor() | {"platform": _platform(config)} | notes for notes in _annotations(saved.tags)
    ]
    archive.manifest.append(
        {
            "Config": _BLOBS + body.digest[7:],
            "RepoTags": [tag.familiar for tag in saved.tags] or None,
            "Layers": [_BLOBS + layer.digest[7:] for layer in layers],
            "LayerSources": {
                diff_id: layer.descriptor() for diff_id, layer in zip(config.diff_ids, layers, strict=True)
            },
        }
    )
    for tag in saved.tags if layers else ():
        archive.repositories.setdefault(tag.familiar_name, {})[tag.tag] = layers[-1].digest[7:]


def _annotations(tags: Sequence[Reference]) -> list[dict[str, Any]]:
    """One entry of the index for each name; one without for an image that has none."""
    return [
        {
            "annotations": {
                "io.containerd.image.name": str(tag),
                "org.opencontainers.image.ref.name": tag.tag,
            }
        }
        for tag in tags
    ] or [{}]


def _platform(config: OciImage) -> Mapping[str, str]:
    found = {"architecture": config.architecture, "os": config.os}
    return found | ({"variant": config.variant} if config.variant else {})


def _layer_blob(store: Store, digest: str, diff_id: str, mtime: int) -> _Blob:
    path = store.blob(digest)
    try:
        with open(path, "rb", buffering=0) as file:
            kind = kind_of(file.read(8))
            if kind in _SUFFIXES:
                size = os.fstat(file.fileno()).st_size
                return _Blob(
                    digest=digest, size=size, media_type=_LAYER + _SUFFIXES[kind], path=path, mtime=mtime
                )
            file.seek(0)
            _, plain = decompress(file)
            size = 0
            while data := plain.read(BUFFER):
                size += len(data)
    except FileNotFoundError:
        raise EngineError(
            f"cannot save: the blob {digest} is not in the store", hint="load the image again"
        ) from None
    return _Blob(digest=diff_id, size=size, media_type=_LAYER, path=path, plain=True, mtime=mtime)


def _write_blob(tar: TarWriter, blob: _Blob, check: Callable[[], None]) -> None:
    tar.header((_BLOBS + blob.digest[7:]).encode(), REGULAR, size=blob.size, mtime=blob.mtime)
    if not blob.path:
        tar.data(blob.data)
        return
    with open(blob.path, "rb", buffering=0) as file:
        if not blob.plain:
            tar.content(file.fileno(), blob.size)
            return
        _, plain = decompress(file)
        while data := plain.read(BUFFER):
            check()
            tar.piece(data)
        tar.pad(blob.size)
