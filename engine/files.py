"""The files of a container, running or not: status of a path, archives out and in, export, what was changed, sizes.

Flows in: references, paths as clients write them, tar streams. Flows out: `PathStat`s, tar streams, events. Every path is
walked among the container's own mounts (kernel.treeview) and through kernel.rootpath alone; nothing here follows a link
out of the container, whoever renames what meanwhile. docs/adr/0011.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from pystack.engine import committing
from pystack.engine.container import Container
from pystack.engine.interface import CommitRequest, PathChange, PathStat
from pystack.engine.lifecycle import Lifecycle
from pystack.engine.places import Place, place_of
from pystack.engine.runtime import users
from pystack.engine.services import Services
from pystack.image import diff
from pystack.image.compression import decompress
from pystack.image.extract import ExtractOptions, extract
from pystack.image.feed import Feed, Outlet, drain, run
from pystack.image.owners import HOST, Owners
from pystack.image.tarstream import Limits, Source, TarReader
from pystack.image.tarwrite import TarWriter
from pystack.image.treetar import TreeTar
from pystack.kernel import process, roottree, treeview, userns
from pystack.kernel.rootpath import Root
from pystack.kernel.treeview import Attachment, Parts, Tree
from pystack.model.errors import Conflict, EngineError, Forbidden, InvalidInput, NotFound, PystackError

#: What may come in with one copy. The disk is smaller, and says so; this only ends streams that never do.
_LIMITS = Limits(bytes=1 << 44, entries=50_000_000)
_ST_RDONLY = 1


class Files:
    """`interface.Files`."""

    def __init__(self, services: Services, lifecycle: Lifecycle) -> None:
        self._services, self._lifecycle = services, lifecycle

    def _get(self, ref: str) -> Container:
        return self._services.registry.get(ref)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def stat(self, ref: str, path: str) -> PathStat:
        container, place = self._get(ref), place_of(path)
        opening = self._opening(container)

        def look() -> PathStat:
            with opening() as tree, _Found(tree, place, ref) as found:
                return found.status

        return await self._services.disk.run(look)

    @asynccontextmanager
    async def archive(self, ref: str, path: str) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        container, place = self._get(ref), place_of(path)
        opening = self._opening(container)

        def look() -> tuple[Tree, _Found]:
            tree = opening()
            try:
                return tree, _Found(tree, place, ref)
            except BaseException:
                tree.close()
                raise

        owners = _owners(container)
        tree, found = await self._services.disk.run(look)
        with tree, found:
            self._services.publish(container, "archive-path")
            async with aclosing(drain(lambda outlet: found.write(outlet, owners))) as chunks:
                yield found.status, chunks

    @asynccontextmanager
    async def export(self, ref: str) -> AsyncIterator[AsyncIterator[bytes]]:
        container = self._get(ref)
        image_id = container.record.image_id
        if self._services.images.find(image_id).synthetic:
            raise Forbidden(
                f"cannot export container {container.name}: {self._services.images.find(image_id).synthetic}",
                hint="docker cp copies single files and folders out of it",
            )
        snapshots = self._services.images.snapshots
        # The mounts of a user namespace are locked: its root cannot be had without them (mount_namespaces(7)). The layers,
        # mounted once more and read-only, show the same; on disk ids are the container's own.
        namespace = _mount_namespace(container) if _owners(container) is HOST else -1

        def open_root() -> Tree:
            if namespace >= 0:
                return treeview.root_of_namespace(namespace)
            return Tree(snapshots.open_view(image_id, container.id), -1)

        def write(outlet: Outlet) -> None:
            writer = TarWriter(outlet.write)
            TreeTar(writer).below(tree.fd, b"", outlet.check)
            writer.finish()

        try:
            opened = await self._services.disk.run(open_root)
        except FileNotFoundError:
            raise Conflict(f"container {container.name} is being removed") from None
        with opened as tree:
            self._services.publish(container, "export")
            async with aclosing(drain(write)) as chunks:
                yield chunks

    async def changes(self, ref: str) -> builtins.list[PathChange]:
        """What the container has added, changed and deleted in its image's files, sorted by path."""
        container = self._get(ref)
        snapshots = self._services.images.snapshots

        def compare() -> builtins.list[PathChange]:
            with (
                Root(snapshots.open_lower(container.record.image_id)) as lower,
                Root.open_host(container.record.upper_dir, no_xdev=True) as upper,
            ):
                found = diff.changes(lower, upper)
            return [PathChange(path=os.fsdecode(path), kind=kind) for path, kind in found]

        try:
            return await self._services.disk.run(compare)
        except FileNotFoundError:
            raise Conflict(f"container {container.name} is being removed") from None

    async def size(self, ref: str) -> int:
        """Bytes of the files that the container itself has written."""
        upper = self._get(ref).record.upper_dir
        return await self._services.disk.run(lambda: written_size(upper))

    # -- changing -----------------------------------------------------------------------------------------------------

    async def extract(
        self,
        ref: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        keep_kinds: bool = False,
        copy_owner: bool = False,
    ) -> None:
        container, place = self._get(ref), place_of(path)
        async with self._writable(container) as opening:
            feed = Feed(chunks)
            owners = _owners(container)

            def work() -> None:
                if (
                    owners is not HOST
                ):  # files are made by somebody whom the tree's mounts know; this thread ends with the job
                    userns.act_as(*owners.outside(0, 0))
                with opening() as tree, Root(os.dup(tree.fd)) as root:
                    _check_target(root, place, ref)
                    user = container.config.user if copy_owner else ""
                    options = ExtractOptions(keep_kinds=keep_kinds, owner=_owner(root, user), owners=owners)
                    _, plain = decompress(feed)
                    source = Source(plain, "the archive", _LIMITS.bytes)
                    extract(TarReader(source, "the archive", _LIMITS), root, place.path, options, feed.check)
                    source.drain()

            await run(work, feed)
        self._services.publish(container, "extract-to-dir")

    async def commit(self, ref: str, request: CommitRequest) -> str:
        return await committing.commit(self._services, self._lifecycle, self._get(ref), request)

    @asynccontextmanager
    async def _writable(self, container: Container) -> AsyncIterator[Callable[[], Tree]]:
        """How to open the tree for writing. Two overlays must not share an upper directory: a container that does not run
        is kept from starting, and from others who write, until the block ends.
        """
        namespace = await self._claim(container)
        if namespace >= 0:
            yield lambda: treeview.of_namespace(namespace)
            return
        try:
            parts = self._parts(container, scratch=False)
            yield lambda: _assembled(parts)
        finally:
            container.writing.release()

    async def _claim(self, container: Container) -> int:
        """The mount namespace of a running container; or -1, and then its `writing` is held."""
        while True:
            async with container.lock:
                if container.record.removing:
                    raise Conflict(f"container {container.name} is marked for removal: cannot copy into it")
                namespace = _mount_namespace(container)
                if namespace >= 0:
                    return namespace
                if not container.writing.locked():
                    await container.writing.acquire()  # at once: nobody has it
                    return -1
            async with container.writing:
                pass  # somebody else's copy has ended

    # -- trees --------------------------------------------------------------------------------------------------------

    def _opening(self, container: Container) -> Callable[[], Tree]:
        """How to open the container's tree for reading; to be called once, in a thread."""
        namespace = _mount_namespace(container)
        if namespace >= 0:
            return lambda: treeview.of_namespace(namespace)
        parts = self._parts(container, scratch=True)
        return lambda: _assembled(parts)

    def _parts(self, container: Container, *, scratch: bool) -> Parts:
        if container.record.removing:  # what is made here would come in the way of what is being deleted
            raise Conflict(f"container {container.name} is being removed")
        snapshot = self._services.images.snapshots.prepare(container.id, container.record.image_id)
        attachments = [
            Attachment(
                source=mount.view.source,
                target=mount.spec.target,
                subpath=mount.spec.subpath,
                read_only=not mount.view.read_write,
                recursive=mount.spec.recursive,
            )
            for mount in container.record.mounts
            if mount.spec.type in {"bind", "volume"}
        ]
        attachments.sort(key=lambda attachment: attachment.target.rstrip("/").count("/"))
        binds = [Attachment(source=s, target=t, read_only=True, recursive=False) for s, t in snapshot.binds]
        return Parts(
            lower=snapshot.lower,
            upper=snapshot.upper,
            work=snapshot.work,
            place=snapshot.mountpoint,
            attachments=[*binds, *attachments],
            read_only=container.config.read_only_rootfs,
            scratch=scratch,
        )


def written_size(upper: str) -> int:
    """Bytes of the files in an upper directory (a host path), 0 when it is gone."""
    try:
        with Root.open_host(upper, no_xdev=True) as root:
            return root.content_size()
    except FileNotFoundError:
        return 0  # being removed


def _mount_namespace(container: Container) -> int:
    """A descriptor of a running container's mount namespace, -1 when it does not run. The caller closes it."""
    if not container.running or container.shim is None:
        return -1
    try:
        namespace = process.open_namespace(container.shim.pid, "mnt")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    if not process.is_alive(container.shim.pidfd):  # then the number may be somebody else's by now
        os.close(namespace)
        return -1
    return namespace


def _owners(container: Container) -> Owners:
    """How the ids of a running container are mapped; on disk, and so without a process, they are its own."""
    if not container.running or container.shim is None:
        return HOST
    try:
        uid, gid = userns.maps_of(container.shim.pid)
    except (FileNotFoundError, ProcessLookupError):
        return HOST
    return HOST if [[0, 0, 0xFFFFFFFF]] == uid == gid else Owners(uid=uid, gid=gid)


def _assembled(parts: Parts) -> Tree:
    try:
        return treeview.assemble(parts)
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.isdir(parts.upper):
            raise Conflict("cannot open the container's files: it is being removed") from error
        raise EngineError(
            f"cannot open the container's files: {error.strerror}"
            + (f": {os.fsdecode(error.filename)}" if error.filename else "")
        ) from error


class _Found:
    """What a place names, held by descriptors: `directory` and `name` are the entry, `top` the directory that it is."""

    def __init__(self, tree: Tree, place: Place, ref: str) -> None:
        self._place = place
        self._directory, self._name, self._top = -1, b".", -1
        with Root(os.dup(tree.fd)) as root:
            try:
                self._open(root)
            except OSError as error:
                self.close()
                raise _explain(error, place, ref) from error
            self.status = self._status(root)

    def _open(self, root: Root) -> None:
        place = self._place
        flags = os.O_PATH | (os.O_DIRECTORY if place.follow else os.O_NOFOLLOW)
        self._top = root.open(place.path, flags)
        self._info = os.fstat(self._top)
        if not stat.S_ISDIR(self._info.st_mode):
            if roottree.is_kernel_fs(self._top):
                raise FileNotFoundError(errno.ENOENT, "is the kernel's", place.path)
            self._directory, self._name = root.parent(place.path)

    def _status(self, root: Root) -> PathStat:
        target = b""
        if stat.S_ISLNK(self._info.st_mode):
            try:
                target = root.resolved(self._place.path)
            except OSError:
                target = b""  # it goes in circles
        return PathStat(
            name=os.fsdecode(self._place.name),
            size=self._info.st_size,
            mode=self._info.st_mode,
            mtime_ns=self._info.st_mtime_ns,
            link_target=os.fsdecode(target),
        )

    def write(self, outlet: Outlet, owners: Owners) -> None:
        """The whole archive, in a thread."""
        writer = TarWriter(outlet.write)
        tar = TreeTar(writer, owners)
        if self._directory >= 0:
            tar.entry(self._directory, self._name, self._info, self._place.name)
        else:
            tar.entry(self._top, b".", self._info, self._place.name)
            tar.below(self._top, self._place.prefix, outlet.check, mounts=True)
        writer.finish()

    def close(self) -> None:
        for fd in (self._directory, self._top):
            if fd >= 0:
                os.close(fd)
        self._directory = self._top = -1

    def __enter__(self) -> _Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _explain(error: OSError, place: Place, ref: str) -> PystackError:
    path = os.fsdecode(place.path) + ("/" if place.follow and place.path != b"/" else "")
    if error.errno == errno.ENOENT:
        return NotFound(f"Could not find the file {path} in container {ref}")
    if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
        return InvalidInput(f"lstat {path}: {(error.strerror or '').lower()}")
    return EngineError(f"cannot look at {path} in container {ref}: {error.strerror}")


def _check_target(root: Root, place: Place, ref: str) -> None:
    """The directory to extract into must be one, and one that may be written."""
    try:
        fd = root.open(place.path, os.O_PATH)
    except OSError as error:
        raise _explain(error, place, ref) from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISDIR(info.st_mode):
            raise InvalidInput("extraction point is not a directory")
        if os.fstatvfs(fd).f_flag & _ST_RDONLY:
            own = info.st_dev == os.fstat(root.fd).st_dev
            raise Forbidden(f"{'container rootfs' if own else 'mounted volume'} is marked read-only")
    finally:
        os.close(fd)


def _owner(root: Root, user: str) -> tuple[int, int] | None:
    """The container's user as numbers, by its own passwd and group; None when the archive's owners stay."""
    if not user:
        return None
    try:
        passwd, group = (users.read_database(root.fd, path) for path in (b"/etc/passwd", b"/etc/group"))
        identity = users.resolve(passwd, group, user, ())
    except users.UserError as error:
        raise InvalidInput(f"cannot copy with the container's owner: {error}") from error
    return identity.uid, identity.gid
