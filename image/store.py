"""Where images are on disk: blobs in an OCI layout, layers unpacked for overlayfs. Names in, paths and files out.

    <root>/images/oci-layout, blobs/sha256/<hex>   content; which image needs what is in the documents
    <root>/images/ingest/<random>/                 archives being read; emptied at open
    <root>/layers/<5 characters>/                  one unpacked layer; short, so that 125 fit into one page of mount data
    <root>/layers/tmp-<random>/                    a layer being unpacked; removed at open

Everything is below directories of mode 0700. What no record names is garbage: a crash leaves only that, and `collect`
removes it. Contents are made durable (syncfs) before a record names them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pystack.image.references import is_digest
from pystack.kernel import mountfd
from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import remove_tree
from pystack.model.errors import EngineError

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}\n'
_NAME_LENGTH = 5
#: Directories below `layers/` that are nobody's layer: see `snapshots`.
INIT_LAYER = "init-1"
EMPTY_LAYER = "empty"


class Store:
    """The image files of one engine. Synchronous; run long work (unpacking, collecting) in a worker thread."""

    def __init__(self, root: str) -> None:
        self.images = f"{root}/images"
        self.layers = f"{root}/layers"
        self._blobs = f"{self.images}/blobs/sha256"
        self._ingest = f"{self.images}/ingest"

    def open(self) -> None:
        for path in (self.images, f"{self.images}/blobs", self._blobs, self._ingest, self.layers):
            os.makedirs(path, 0o700, exist_ok=True)
            os.chmod(path, 0o700)
        layout = f"{self.images}/oci-layout"
        if not os.path.exists(layout):
            with open(layout, "w", encoding="ascii") as file:
                file.write(_LAYOUT)

    def blob(self, digest: str) -> str:
        """The path of a blob. A text that is not a digest never becomes a path."""
        if not is_digest(digest) or not digest.startswith("sha256:"):
            raise EngineError(f"cannot name a blob by {digest!r}")
        return f"{self._blobs}/{digest[7:]}"

    def has_blob(self, digest: str) -> bool:
        return os.path.exists(self.blob(digest))

    def layer(self, name: str) -> str:
        return f"{self.layers}/{name}"

    @contextmanager
    def ingest(self) -> Iterator[str]:
        """A directory for files on their way in, gone afterwards."""
        path = f"{self._ingest}/{os.urandom(8).hex()}"
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            remove_tree(path)

    def commit_blob(self, path: str, digest: str) -> None:
        """Take a file, whose digest the caller has verified, into the store."""
        os.rename(path, self.blob(digest))
        failpoint("image.blob.committed")

    @contextmanager
    def new_layer(self) -> Iterator[str]:
        """A directory to unpack into; gone afterwards unless `commit_layer` took it."""
        path = f"{self.layers}/tmp-{os.urandom(8).hex()}"
        os.mkdir(path, 0o700)
        # Whatever the umask: it is the container's "/" when the archive does not say otherwise.
        os.chmod(path, 0o755)  # noqa: S103 - below a directory of mode 0700
        try:
            yield path
        finally:
            remove_tree(path)

    def commit_layer(self, path: str, chain_id: str) -> str:
        """Give an unpacked layer its name, which is returned."""
        text = base64.b32encode(bytes.fromhex(chain_id[7:])).decode().lower()
        for start in range(len(text) - _NAME_LENGTH):
            name = text[start : start + _NAME_LENGTH]
            if name.isalnum() and not os.path.lexists(self.layer(name)):
                os.rename(path, self.layer(name))
                failpoint("image.layer.committed")
                return name
        raise EngineError(f"cannot find a free name for layer {chain_id}")

    def sync(self) -> None:
        """Everything written so far is on disk when this returns."""
        fd = os.open(self.layers, os.O_RDONLY | os.O_DIRECTORY)
        try:
            mountfd.syncfs(fd)
        finally:
            os.close(fd)
        failpoint("image.store.synced")

    def collect(self, blobs: Collection[str], layers: Collection[str]) -> None:
        """Remove every blob, layer directory and half-done ingest that is not among these digests and names."""
        for name in os.listdir(self._ingest):
            remove_tree(f"{self._ingest}/{name}")
        for name in os.listdir(self._blobs):
            if f"sha256:{name}" not in blobs:
                os.unlink(f"{self._blobs}/{name}")
                failpoint("image.blob.removed")
        for name in os.listdir(self.layers):
            if name not in layers and name not in {INIT_LAYER, EMPTY_LAYER}:
                self.remove_layer(name)

    def remove_layer(self, name: str) -> None:
        """Remove a layer's directory: renamed first, so that a name is never that of half a layer."""
        doomed = name if name.startswith("tmp-") else f"tmp-{os.urandom(8).hex()}"
        if doomed != name:
            try:
                os.rename(self.layer(name), self.layer(doomed))
            except FileNotFoundError:
                return
            failpoint("image.layer.doomed")
        remove_tree(self.layer(doomed))
        failpoint("image.layer.removed")
