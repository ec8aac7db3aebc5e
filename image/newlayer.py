"""A layer that is made here: whatever writes a tar in, its blob and its unpacked directory in the store out.

The tar is spooled, hashed on the way, and unpacked like one that was loaded: the same limits and the same checks. Its blob
is not compressed, so its digest is its diff id. Synchronous: runs in a worker thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pystack.image.records import LAYERS_MAX, LayerRecord, chain_ids
from pystack.image.store import Store
from pystack.image.tarstream import Limits, Source, TarReader
from pystack.image.tarwrite import Write
from pystack.image.unpack import DISK_RESERVE, unpack
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError, InvalidInput

_LIMITS = Limits()
_LOOK_EVERY = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where layers are made. `known` are those that are here, by chain id; `check` may end the work by raising."""

    store: Store
    known: Mapping[str, LayerRecord]
    check: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLayer:
    """`record` is of a layer that may have been here already (`known`); `blob` is the digest of its tar."""

    record: LayerRecord
    blob: str
    known: bool


class _Spool:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._digest = hashlib.sha256()
        self._unchecked = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.size += len(data)
        self._unchecked += len(data)
        if self._unchecked >= _LOOK_EVERY:
            self._unchecked = 0
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < DISK_RESERVE:
                raise EngineError(
                    "cannot make the layer: the disk is almost full",
                    hint="remove images or volumes that are not needed",
                )
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> str:
        os.close(self._fd)
        return "sha256:" + self._digest.hexdigest()


def add_layer(shop: Workshop, below: Sequence[str], fill: Callable[[Write], None]) -> NewLayer:
    """The layer whose tar `fill` writes, on top of the layers with the diff ids `below`."""
    store, known = shop.store, shop.known
    if len(below) >= LAYERS_MAX:
        raise InvalidInput(f"cannot make an image of more than {LAYERS_MAX} layers", hint="export and import")
    with store.ingest() as place:
        path = f"{place}/layer"
        spool = _Spool(path)
        try:
            fill(spool.write)
        finally:
            digest = spool.close()
        failpoint("image.layer.spooled")
        chain_id = chain_ids([*below, digest])[-1]
        record = known.get(chain_id)
        if record is None:
            with open(path, "rb", buffering=0) as file, store.new_layer() as directory:
                source = Source(file, "the layer", _LIMITS.bytes)
                size = unpack(TarReader(source, "the layer", _LIMITS), directory, shop.check)
                name = store.commit_layer(directory, chain_id)
            record = LayerRecord(chain_id=chain_id, diff_id=digest, directory=name, size=size)
        store.commit_blob(path, digest)
        store.sync()
    return NewLayer(record=record, blob=digest, known=chain_id in known)
