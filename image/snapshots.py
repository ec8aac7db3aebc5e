"""Root file systems of containers: an image and a container's directory in, the parts of an overlay mount out.

    lower  init layer, then the image's layers, topmost first      read-only, shared
    <container's directory>/u, w                                    upper and work, its own
    the empty layer                                                 mount point, in each container's own mount namespace

The init layer is the topmost read-only one and holds real directories and empty files where the engine mounts things: an
image that ships /etc/hosts or /proc as a link to elsewhere cannot be seen through it. Nothing here mounts anything in the
host's mount table. Synchronous: a few short system calls each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from pystack.image.records import ImageRecord
from pystack.image.store import EMPTY_LAYER, INIT_LAYER, Store
from pystack.kernel import mountfd
from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import remove_tree
from pystack.model.errors import Conflict

_INIT_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "proc", "sys", "etc")
_INIT_FILES = ("etc/resolv.conf", "etc/hosts", "etc/hostname", ".dockerenv", "dev/console")


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSnapshot:
    """What one container's root is made of. `binds` are (host path, target in the container), read-only, not recursive,
    to be mounted in this order on top of the overlay.
    """

    lower: list[str]
    upper: str
    work: str
    mountpoint: str
    binds: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What all containers of an image share. `mode`, `uid`, `gid` are those of the image's "/"."""

    lower: list[str]
    mode: int
    uid: int
    gid: int
    binds: tuple[tuple[str, str], ...]


class Snapshots:
    """Prepares, opens and removes roots. `find` gives the record of an image id, `layer` the directory of a chain id."""

    def __init__(
        self, root: str, store: Store, find: Callable[[str], ImageRecord], layer: Callable[[str], str]
    ) -> None:
        self._root = root
        self._store = store
        self._find = find
        self._layer = layer
        self._bases: dict[str, _Base] = {}

    def open(self) -> None:
        """Make the init layer and the empty one, if they are not there whole."""
        for name, fill in ((EMPTY_LAYER, _fill_nothing), (INIT_LAYER, _fill_init)):
            if not os.path.isdir(self._store.layer(name)):
                with self._store.new_layer() as place:
                    fill(place)
                    os.rename(place, self._store.layer(name))
                failpoint("snapshot.base.made")

    def directory(self, container_id: str) -> str:
        return f"{self._root}/containers/{container_id}"

    def prepare(self, container_id: str, image_id: str, directory: str = "") -> RootSnapshot:
        """The parts of a container's root; makes u and w in its directory, which exists. Repeating it is fine."""
        base = self._base(image_id)
        place = directory or self.directory(container_id)
        upper = f"{place}/u"
        try:
            os.mkdir(upper, 0o700)
            # The merged "/" takes its owner and mode from the upper directory.
            os.chown(upper, base.uid, base.gid)
            os.chmod(upper, base.mode)
        except FileExistsError:
            pass  # made by an earlier start: it holds the container's files
        try:
            os.mkdir(f"{place}/w", 0o700)
        except FileExistsError:
            pass
        failpoint("snapshot.prepared")
        binds = [bind for bind in base.binds if os.path.lexists(bind[1])] if base.binds else []
        return RootSnapshot(
            lower=list(base.lower),
            upper=upper,
            work=f"{place}/w",
            mountpoint=self._store.layer(EMPTY_LAYER),
            binds=binds,
        )

    def _base(self, image_id: str) -> _Base:
        base = self._bases.get(image_id)
        if base is None:
            image = self._find(image_id)
            layers = [self._store.layer(self._layer(chain_id)) for chain_id in reversed(image.layers)]
            info = os.stat(layers[0] if layers else self._store.layer(EMPTY_LAYER))
            base = self._bases[image_id] = _Base(
                lower=[self._store.layer(INIT_LAYER), *layers],
                mode=info.st_mode & 0o7777,
                uid=info.st_uid,
                gid=info.st_gid,
                binds=image.binds,
            )
        return base

    def layers(self, image_id: str) -> list[str]:
        """Directories of an image's own layers, topmost first; at least one. Conflict when it is more than layers."""
        base = self._base(image_id)
        if base.binds:
            raise Conflict("cannot mount this image into a container: parts of it are this host's own files")
        return base.lower[1:] or self._empty(1)

    def forget(self, image_id: str) -> None:
        """The image is gone, or was made anew."""
        self._bases.pop(image_id, None)

    def open_view(self, image_id: str, container_id: str = "", *, writable: bool = False) -> int:
        """A directory descriptor of an image's files, or of a container's, that no mount table shows. The caller closes it.

        Of a container it is read-only unless `writable`, which is only for one that does not run: two writable overlays
        must never share an upper directory. Read it through kernel.rootpath only. Binds of a synthetic image are not in it.
        """
        lower = self._base(image_id).lower
        if not container_id:
            return mountfd.overlay([*lower[1:], *self._empty(2)][: max(2, len(lower) - 1)])
        place = self.directory(container_id)
        if writable:
            return mountfd.overlay(lower, f"{place}/u", f"{place}/w")
        return mountfd.overlay([f"{place}/u", *lower])

    def open_lower(self, image_id: str) -> int:
        """A read-only descriptor of what a container of this image finds before it has changed anything."""
        lower = self._base(image_id).lower
        return mountfd.overlay(lower if len(lower) > 1 else [*lower, *self._empty(1)])

    def _empty(self, count: int) -> list[str]:
        """Bottom layers for images that have fewer than the two that a read-only overlay needs."""
        return [self._store.layer(EMPTY_LAYER), self._store.layer(INIT_LAYER)][:count]

    def remove(self, container_id: str, directory: str = "") -> None:
        """Remove a container's own files. Conflict while something is mounted there; missing is fine."""
        place = directory or self.directory(container_id)
        for name in ("w/work", "w", "u"):
            try:
                os.rmdir(
                    f"{place}/{name}"
                )  # usually empty; a look at the mount table costs more than all three
            except OSError:
                continue  # not empty, mounted, or not there: what follows tells them apart
        for name in ("w", "u"):
            if os.path.lexists(f"{place}/{name}"):
                remove_tree(f"{place}/{name}")
            failpoint("snapshot.part.removed")


def _fill_nothing(_: str) -> None:
    """The empty layer."""


def _fill_init(place: str) -> None:
    for name in _INIT_DIRECTORIES:
        os.mkdir(f"{place}/{name}", 0o755)
        os.chmod(f"{place}/{name}", 0o1777 if name == "dev/shm" else 0o755)  # whatever the umask
    for name in _INIT_FILES:
        fd = os.open(f"{place}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.fchmod(fd, 0o755 if name == ".dockerenv" else 0o644)
        os.close(fd)
    os.symlink("/proc/mounts", f"{place}/etc/mtab")
