"""Copy-up: the image's files at a mount's target become the first content of an empty volume.

In: a descriptor of the container's root (a detached mount that only we hold), a path in it, and a volume's directory.
Out: `_data` with the files, and with the owner, mode and attributes of the image's directory. The path is resolved in-root:
a volume target with links or ".." in it leads nowhere else (CVE-2022-23648).

    copy.tmp    being copied; removed at open
    copy.ready  whole and on disk; its entries are being moved into _data, which open finishes
"""

from __future__ import annotations

import os
import stat

from pystack.kernel import mountfd
from pystack.kernel.failpoints import failpoint
from pystack.kernel.rootpath import Root, remove_tree

_COPYING, _READY, DATA = "copy.tmp", "copy.ready", "_data"


def is_empty(directory: str) -> bool:
    """Whether the volume below `directory` has no content."""
    with os.scandir(f"{directory}/{DATA}") as entries:
        return next(entries, None) is None


def wanted(view: Root, target: str) -> bool:
    """Whether the root has a directory at this path to copy from."""
    try:
        return stat.S_ISDIR(view.stat(target).st_mode)
    except OSError:
        return False  # nothing there, a file, or links that lead nowhere: nothing to copy


def fill(directory: str, view: Root, target: str) -> None:
    """Copy the root's directory `target` into the empty volume below `directory`. Synchronous: for a worker thread."""
    with Root.open_host(directory) as volume:
        volume.rmtree(_COPYING)
        volume.copy_tree(view, target, _COPYING)
        failpoint("volume.copyup.copied")
        if volume.listdir(_COPYING):
            with Root(volume.open(".", os.O_RDONLY | os.O_DIRECTORY)) as disk:
                mountfd.syncfs(disk.fd)
        volume.rename(_COPYING, _READY)
        failpoint("volume.copyup.ready")
    finish(directory)


def finish(directory: str) -> None:
    """Move what `copy.ready` holds into `_data`, give `_data` its looks; undo a copy that did not get that far."""
    remove_tree(f"{directory}/{_COPYING}")
    if not os.path.isdir(f"{directory}/{_READY}"):
        return
    with Root.open_host(f"{directory}/{_READY}") as ready, Root.open_host(f"{directory}/{DATA}") as data:
        for name in ready.listdir():
            try:
                data.lstat(name)
            except FileNotFoundError:
                os.rename(name, name, src_dir_fd=ready.fd, dst_dir_fd=data.fd)
                failpoint("volume.copyup.moved")
        info = os.fstat(ready.fd)
        place = f"{directory}/{DATA}"
        os.chown(place, info.st_uid, info.st_gid)
        os.chmod(place, stat.S_IMODE(info.st_mode))
        for key, value in ready.getxattrs(".").items():
            os.setxattr(place, key, value)
    remove_tree(f"{directory}/{_READY}")
    failpoint("volume.copyup.done")
