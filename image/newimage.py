"""Images that are made here: from what a container has written (commit), and from a root file system's tar (import).

Records and trees in, an image record with its new layer out, the files in the store. The config is OCI's with Docker's
additions. Synchronous: runs in a worker thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pystack.image.compression import BUFFER, Reader, decompress, is_damage
from pystack.image.newlayer import NewLayer, Workshop, add_layer
from pystack.image.records import ImageRecord, LayerRecord, parse_config
from pystack.image.store import Store
from pystack.image.tarwrite import TarWriter, Write
from pystack.image.treetar import TreeTar
from pystack.kernel import roottree
from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import Root
from pystack.model.errors import InvalidInput

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
_IMPORT_MAX = 64 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a new image says of itself. `config` is the config object; `created` RFC 3339; `created_by` a command line."""

    config: Mapping[str, Any]
    created: str
    created_by: str = ""
    author: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    image: ImageRecord
    layers: tuple[LayerRecord, ...]


def native_platform() -> tuple[str, str]:
    """(architecture, variant) of this host, in OCI's words."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine), "v8" if machine == "aarch64" else ""


def commit(shop: Workshop, parent: ImageRecord, upper: str, about: About) -> Made:
    """`parent` with the content of an upper directory (a host path) as one more layer, or none when it is empty."""
    base = parse_config(parent.config)
    layer: NewLayer | None = None
    with Root.open_host(upper, no_xdev=True) as top:
        if next(iter(roottree.entries(top.fd)), None) is not None:

            def fill(write: Write) -> None:
                writer = TarWriter(write)
                TreeTar(writer).layer(top.fd, shop.check)
                writer.finish()

            layer = add_layer(shop, base.diff_ids, fill)
    document = json.loads(parent.config)
    history = [*(document.get("history") or ()), _history(about, empty=layer is None)]
    body = {
        key: document[key]
        for key in ("architecture", "variant", "os", "os.version", "os.features")
        if key in document
    }
    return _made(shop.store, parent, layer, body | _said(about, base.diff_ids, layer, history))


def import_root(shop: Workshop, reader: Reader, about: About, target: tuple[str, str]) -> Made:
    """An image of one layer: the tar (gzip, bzip2, xz, zstd or plain) that `reader` gives, for (architecture, variant)."""

    def fill(write: Write) -> None:
        total = 0
        try:
            _, plain = decompress(reader)
            while data := plain.read(BUFFER):
                shop.check()
                total += len(data)
                if total > _IMPORT_MAX:
                    raise InvalidInput(f"cannot import the archive: it is larger than {_IMPORT_MAX} bytes")
                write(data)
        except Exception as error:
            if is_damage(error):
                raise InvalidInput(
                    f"cannot decompress the archive: {error}", hint="it is damaged or cut"
                ) from error
            raise

    layer = add_layer(shop, (), fill)
    architecture, variant = target
    body = {"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
    nothing = ImageRecord(id="", config="", layers=())
    return _made(shop.store, nothing, layer, body | _said(about, (), layer, [_history(about, empty=False)]))


def _history(about: About, *, empty: bool) -> dict[str, Any]:
    said = {"created_by": about.created_by, "author": about.author, "comment": about.comment}
    entry: dict[str, Any] = {"created": about.created} | {key: value for key, value in said.items() if value}
    return entry | ({"empty_layer": True} if empty else {})


def _said(
    about: About, below: tuple[str, ...], layer: NewLayer | None, history: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "created": about.created,
        "author": about.author,
        "comment": about.comment,
        "config": {key: value for key, value in about.config.items() if value not in (None, "", {}, [])},
        "rootfs": {"type": "layers", "diff_ids": [*below, *([layer.record.diff_id] if layer else ())]},
        "history": history,
    }


def _made(store: Store, parent: ImageRecord, layer: NewLayer | None, document: Mapping[str, Any]) -> Made:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    parse_config(text)  # what is made here must be what is taken elsewhere
    data = text.encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with store.ingest() as place:
        with open(f"{place}/config", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        store.commit_blob(f"{place}/config", digest)
    failpoint("image.new.written")
    image = ImageRecord(
        id=digest,
        config=text,
        layers=(*parent.layers, *([layer.record.chain_id] if layer else ())),
        blobs=(*parent.blobs, *([layer.blob] if layer else ())),
        size=parent.size + (layer.record.size if layer else 0),
        synthetic=parent.synthetic,
        binds=parent.binds,
    )
    return Made(image=image, layers=() if layer is None or layer.known else (layer.record,))
