"""The container's file system, built by its first process in its own mount namespace: a bundle in, mounts out.

Runs before pivot_root, when /proc is still the host's: everything inside the new root is reached through fds that
openat2(RESOLVE_IN_ROOT) gave. Kernel file systems come first and only on ordinary directories, so that nothing an image
or a shared volume holds can stand in for them (CVE-2023-27561, CVE-2025-31133). Order: reference runc rootfs_linux.go.
"""

from __future__ import annotations

import os
import stat
from fcntl import ioctl
from termios import TIOCSWINSZ

from pystack.kernel import mounts, userns
from pystack.kernel import syscalls as sc
from pystack.kernel.cgroup_entry import is_v2
from pystack.kernel.failpoints import failpoint

TYPE_CHECKING = False  # typing is 0.6 MB that the launcher does without; checkers take this name for true
if TYPE_CHECKING:
    from pystack.engine.runtime.bundle import Bundle, DeviceNode, MountEntry

_CGROUP_ROOT = b"/sys/fs/cgroup/"
_KERNEL_FLAGS = sc.MS_NOSUID | sc.MS_NOEXEC | sc.MS_NODEV
#: What LXCFS provides: the only mounts that are allowed below /proc (runc checkProcMount).
_PROC_ALLOWED = {
    b"/proc/" + name
    for name in (
        b"cpuinfo", b"diskstats", b"meminfo", b"stat", b"swaps", b"uptime", b"loadavg", b"slabinfo", b"net/dev",
        b"sys/kernel/ns_last_pid", b"sys/crypto/fips_enabled",
    )
}  # fmt: skip
_LINKS = ((b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"),
          (b"stderr", b"/proc/self/fd/2"), (b"ptmx", b"pts/ptmx"))  # fmt: skip


class RootBuilder:
    """Steps that make one root. They must run in the order in which they are written down here."""

    def __init__(self, bundle: Bundle, user: int = -1) -> None:
        """`user`: fd of the container's user namespace, -1 for the host's."""
        self.bundle = bundle
        self._user = user
        self.root = -1  # O_PATH of the new root
        self.console = -1  # slave side of the terminal
        self._dev = -1
        self._pts = -1
        self._null = -1
        self._proc_device = 0
        self._sources: dict[int, int] = {}  # index of the mount → detached tree
        self._shm = -1  # detached /dev/shm of the container whose IPC namespace is joined

    def take_sources(self) -> None:
        """Clone the sources of bind mounts while their mounts are still peers of the host's (for rshared)."""
        for index, entry in enumerate(self.bundle["mounts"]):
            if entry["kind"] == "bind":
                source, recursive = os.fsencode(entry["source"]), entry.get("recursive", True)
                if subpath := entry.get("subpath"):
                    place = mounts.open_beneath(source, os.fsencode(subpath))
                    self._sources[index] = mounts.clone_tree(place, recursive=recursive)
                    os.close(place)
                else:
                    self._sources[index] = mounts.clone_tree(source, recursive=recursive)
                if entry.get("idmap") and self._user >= 0:
                    mounts.map_ids(self._sources[index], self._user, recursive=recursive)

    def take_shm(self, namespace: int) -> None:
        """Clone /dev/shm of another container: `namespace` is its mount namespace, left again at once."""
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(namespace, sc.CLONE_NEWNS)
        try:
            top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            place = sc.openat2(top, b"dev/shm", os.O_PATH | os.O_DIRECTORY, resolve=sc.RESOLVE_NO_SYMLINKS)
            self._shm = mounts.clone_tree(place, recursive=False)
            os.close(place)
            os.close(top)
        finally:
            sc.setns(own, sc.CLONE_NEWNS)
            os.close(own)

    def make_overlays(self) -> None:
        """Trees of image mounts. A subpath needs a mount that is attached: for a moment, where the root comes next."""
        point = os.fsencode(self.bundle["rootfs"]["mountpoint"])
        for index, entry in enumerate(self.bundle["mounts"]):
            if entry["kind"] != "overlay":
                continue
            layers = [os.fsencode(layer) for layer in entry["layers"]]
            tree = mounts.overlay(layers, os.fsencode(entry["upper"]), os.fsencode(entry["work"]))
            if subpath := entry.get("subpath"):
                sc.move_mount(tree, sc.AT_FDCWD, point)
                os.close(tree)
                place = mounts.open_beneath(point, os.fsencode(subpath))
                tree = mounts.clone_tree(place, recursive=False)
                os.close(place)
                sc.umount2(point, sc.MNT_DETACH)
            self._sources[index] = tree

    def leave_host(self) -> None:
        """From here on no mount of this namespace reaches the host's."""
        sc.mount(None, b"/", None, sc.MS_REC | sc.MS_SLAVE)

    def map_files(self) -> None:
        """Layers and the container's own files with their ids mapped, in place of themselves in this namespace."""
        if self._user < 0:
            return
        top = os.fsencode(self.bundle["rootfs"]["top"])
        tree = mounts.clone_tree(top, recursive=False)
        mounts.map_ids(tree, self._user, recursive=False)
        sc.mount_setattr(tree, propagation=sc.MS_PRIVATE)
        sc.move_mount(tree, sc.AT_FDCWD, top)
        os.close(tree)
        userns.act_as(self._host_uid(0), self._host_gid(0))

    def _host_uid(self, uid: int) -> int:
        return userns.to_host(self.bundle["uid_map"], uid) if self._user >= 0 else uid

    def _host_gid(self, gid: int) -> int:
        return userns.to_host(self.bundle["gid_map"], gid) if self._user >= 0 else gid

    def mount_root(self) -> None:
        config = self.bundle["rootfs"]
        lower = [os.fsencode(path) for path in config["lower"]]
        tree = mounts.overlay(lower, os.fsencode(config["upper"]), os.fsencode(config["work"]))
        sc.mount_setattr(tree, propagation=sc.MS_PRIVATE)
        point = os.fsencode(config["mountpoint"])
        sc.move_mount(tree, sc.AT_FDCWD, point)
        os.close(tree)
        self.root = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        failpoint("child.root.mounted")

    def mount_proc(self) -> None:
        proc = self._mount_kernel(b"proc", b"proc", _KERNEL_FLAGS)
        self._proc_device = os.fstat(proc).st_dev
        for name, value in self.bundle["sysctls"].items():
            self._write_sysctl(proc, name, value)
        os.close(proc)

    def _write_sysctl(self, proc: int, name: str, value: str) -> None:
        """Through the fresh procfs only: no link, no other mount (CVE-2025-52881)."""
        path = b"sys/" + os.fsencode(name if "/" in name else name.replace(".", "/"))
        resolve = sc.RESOLVE_NO_SYMLINKS | sc.RESOLVE_NO_XDEV | sc.RESOLVE_BENEATH
        try:
            fd = sc.openat2(proc, path, os.O_WRONLY, resolve=resolve)
            os.write(fd, value.encode())
            os.close(fd)
        except OSError as error:
            raise OSError(error.errno, f"sysctl {name}={value}: {error.strerror}") from error

    def mount_sys(self) -> None:
        readonly = 0 if self.bundle["privileged"] else sc.MS_RDONLY
        os.close(self._mount_kernel(b"sys", b"sysfs", _KERNEL_FLAGS | readonly))

    def mount_cgroup(self) -> None:
        """The container's own cgroups at /sys/fs/cgroup: cgroup2, or a directory for each v1 hierarchy."""
        dirs = self.bundle["cgroups"]
        if not dirs:
            return
        writable = self.bundle["privileged"] or self.bundle.get("writable_cgroups", False)
        readonly = 0 if writable else sc.MS_RDONLY
        target = mounts.open_in_root(self.root, b"/sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY)
        if len(dirs) == 1 and is_v2(dirs[0]):
            mounts.mount_at(target, b"cgroup2", _KERNEL_FLAGS | readonly, source=b"cgroup")
            os.close(target)
            return
        mounts.mount_at(target, b"tmpfs", _KERNEL_FLAGS, b"mode=755")
        os.close(target)
        top = mounts.open_in_root(self.root, b"/sys/fs/cgroup", os.O_RDONLY | os.O_DIRECTORY)
        for path in dirs:
            self._bind_cgroup(top, os.fsencode(path), readonly)
        if readonly:
            mounts.set_readonly(top, recursive=False)
        os.close(top)

    def _bind_cgroup(self, top: int, path: bytes, readonly: int) -> None:
        name = path.removeprefix(_CGROUP_ROOT).split(b"/", 1)[0]
        os.mkdir(name, 0o755, dir_fd=top)
        target = mounts.open_directory(top, name)
        tree = mounts.clone_tree(path, recursive=False)
        flags = mounts.attributes(_KERNEL_FLAGS | readonly)
        sc.mount_setattr(tree, set_=flags, propagation=sc.MS_PRIVATE)
        sc.move_mount(tree, target)
        os.close(tree)
        os.close(target)
        for part in name.split(b",") if b"," in name else ():
            os.symlink(name, part, dir_fd=top)

    def mount_dev(self) -> None:
        flags = sc.MS_NOSUID | sc.MS_STRICTATIME
        self._dev = self._mount_kernel(b"dev", b"tmpfs", flags, b"mode=755,size=65536k")
        for name in (b"pts", b"mqueue"):
            os.mkdir(name, 0o755, dir_fd=self._dev)
        noexec = sc.MS_NOSUID | sc.MS_NOEXEC
        data = b"newinstance,ptmxmode=0666,mode=0620,gid=%d" % self._host_gid(5)
        self._pts = self._mount_kernel(b"pts", b"devpts", noexec, data, below=self._dev)
        self._mount_shm()
        os.close(self._mount_kernel(b"mqueue", b"mqueue", _KERNEL_FLAGS, below=self._dev))
        for node in self.bundle["devices"]:
            self._make_node(node)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=self._dev)
        if os.path.exists("/proc/kcore"):
            os.symlink(b"/proc/kcore", b"core", dir_fd=self._dev)
        self._null = self.open_null(os.O_PATH)

    def _mount_shm(self) -> None:
        """A tmpfs of its own, the one of the container whose IPC namespace is joined, or nothing (`--ipc none`)."""
        if self.bundle["namespaces"].get("shm") == "none":
            return
        os.mkdir(b"shm", 0o755, dir_fd=self._dev)
        if self._shm < 0:
            size = b"mode=1777,size=%d" % self.bundle["shm_size"]
            os.close(self._mount_kernel(b"shm", b"tmpfs", _KERNEL_FLAGS, size, below=self._dev))
            return
        target = mounts.open_directory(self._dev, b"shm")
        sc.mount_setattr(self._shm, propagation=sc.MS_PRIVATE)
        sc.move_mount(self._shm, target)
        os.close(target)
        os.close(self._shm)

    def _make_node(self, node: DeviceNode) -> None:
        """Umask is 0 during set-up. The directories are ours: nobody else can reach this tmpfs yet."""
        parents, _, name = node["path"].removeprefix("/dev/").rpartition("/")
        directory = self._dev
        if parents:
            directory = mounts.make_in_root(self._dev, os.fsencode(parents), directory=True)
        kind = stat.S_IFCHR if node["type"] == "c" else stat.S_IFBLK
        device = os.makedev(node["major"], node["minor"])
        os.mknod(name, kind | node["mode"], device, dir_fd=directory)
        if node["uid"] or node["gid"]:
            uid, gid = self._host_uid(node["uid"]), self._host_gid(node["gid"])
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        made = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if made.st_rdev != device or stat.S_IFMT(made.st_mode) != kind:
            raise OSError(1, "is not the device that was made", node["path"])
        if parents:
            os.close(directory)

    def open_null(self, flags: int) -> int:
        """The container's own /dev/null, checked to be one (CVE-2025-31133)."""
        return open_null_at(self._dev, flags)

    def open_terminal(self, rows: int, columns: int) -> int:
        """Make the pseudo-terminal in the container's devpts, bind it to /dev/console; returns the master side."""
        master = os.open(b"ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=self._pts)
        self.console = open_slave(master, rows, columns)
        fd = os.open(b"console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o620, dir_fd=self._dev)
        mounts.bind_at(fd, self.console)
        os.close(fd)
        return master

    def mount_user_mounts(self) -> None:
        for index, entry in enumerate(self.bundle["mounts"]):
            try:
                self._mount_entry(index, entry)
            except OSError as error:
                raise OSError(
                    error.errno, f"mount at {entry['target']}: {error.strerror}", error.filename
                ) from error

    def _mount_entry(self, index: int, entry: MountEntry) -> None:
        tree = self._sources.pop(index, -1)
        directory = tree < 0 or stat.S_ISDIR(os.fstat(tree).st_mode)
        path = os.fsencode(entry["target"])
        present = mounts.exists_in_root(self.root, path)
        mode = entry.get("mode", 0o755)
        target = mounts.make_in_root(self.root, path, directory=directory, mode=mode)
        self._refuse_proc(target, path)
        if tree < 0:
            data = os.fsencode(entry.get("data", ""))
            if present and entry["fstype"] == "tmpfs":
                # The first of two modes loses: what was asked for wins over that of the directory (runc mountToRootfs).
                data = b"mode=%o" % stat.S_IMODE(os.fstat(target).st_mode) + (b"," + data if data else b"")
            source = os.fsencode(entry.get("source", "")) or None
            flags = entry.get("flags", 0) | (sc.MS_RDONLY if entry.get("readonly") else 0)
            mounts.mount_at(target, os.fsencode(entry["fstype"]), flags, data or None, source=source)
        else:
            recursive = entry.get("recursive", True)
            if flags := mounts.attributes(entry.get("flags", 0)):
                sc.mount_setattr(tree, set_=flags)
            if entry.get("readonly"):
                mounts.set_readonly(tree, recursive=entry.get("readonly_recursive", recursive))
            mounts.set_propagation(tree, entry.get("propagation", ""))
            sc.move_mount(tree, target)
            os.close(tree)
        os.close(target)

    def _refuse_proc(self, target: int, path: bytes) -> None:
        """Nothing covers procfs (CVE-2019-16884, CVE-2019-19921), whatever name led there."""
        if os.fstat(target).st_dev == self._proc_device and os.path.normpath(path) not in _PROC_ALLOWED:
            raise OSError(1, "cannot be mounted because it is inside /proc", os.fsdecode(path))

    def make_cwd(self) -> None:
        cwd = os.fsencode(self.bundle["process"]["cwd"] or "/")
        os.close(mounts.make_in_root(self.root, cwd, directory=True))

    def mask_paths(self) -> None:
        """/dev/null over files, one empty read-only tmpfs over directories; what does not exist needs no mask."""
        empty = -1
        for path in self.bundle["masked_paths"]:
            try:
                target = mounts.open_in_root(self.root, os.fsencode(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                mounts.bind_at(target, self._null)
            elif empty >= 0:
                mounts.bind_at(target, empty)
            else:
                flags = _KERNEL_FLAGS | sc.MS_RDONLY
                mounts.mount_at(target, b"tmpfs", flags, b"nr_blocks=1,nr_inodes=1")
                empty = mounts.open_in_root(self.root, os.fsencode(path))
            os.close(target)

    def protect_paths(self) -> None:
        """Bind each path on itself, read-only; last the root, if asked."""
        for path in self.bundle["readonly_paths"]:
            try:
                target = mounts.open_in_root(self.root, os.fsencode(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            tree = mounts.clone_tree(target, recursive=True)
            mounts.set_readonly(tree, recursive=True)
            sc.move_mount(tree, target)
            os.close(tree)
            os.close(target)
        if self.bundle["rootfs"]["readonly"]:
            mounts.set_readonly(self.root, recursive=False)

    def pivot(self) -> None:
        """pivot_root(".", ".") stacks the old root on the new one, where it is taken off (pivot_root(2), NOTES)."""
        os.fchdir(self.root)
        sc.pivot_root(b".", b".")
        sc.umount2(b".", sc.MNT_DETACH)
        os.chdir("/")
        failpoint("child.root.pivoted")

    def _mount_kernel(
        self, name: bytes, fstype: bytes, flags: int, data: bytes | None = None, *, below: int = -1
    ) -> int:
        """Mount on the ordinary directory `name`; returns a usable dirfd of what is mounted there."""
        parent = self.root if below < 0 else below
        target = mounts.open_directory(parent, name)
        mounts.mount_at(target, fstype, flags, data)
        os.close(target)
        return sc.openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY, resolve=sc.RESOLVE_NO_SYMLINKS)


def open_null_at(dev: int, flags: int) -> int:
    """`null` in the directory `dev`, if it is the null device."""
    fd = sc.openat2(dev, b"null", flags, resolve=sc.RESOLVE_NO_SYMLINKS)
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise OSError(1, "is not the null device", "/dev/null")
    return fd


def open_slave(master: int, rows: int, columns: int) -> int:
    """The other side of a pseudo-terminal, by its fd and not by a name that may lead elsewhere (CVE-2025-52565)."""
    ioctl(master, sc.TIOCSPTLCK, b"\0\0\0\0")
    if rows and columns:
        ioctl(master, TIOCSWINSZ, window_size(rows, columns))
    return ioctl(master, sc.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def window_size(rows: int, columns: int) -> bytes:
    """`struct winsize` of ioctl_tty(2)."""
    return rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4)
