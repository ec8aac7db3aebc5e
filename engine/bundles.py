"""From a container's record to the bundle that the launcher carries out. No I/O but the stat of device nodes.

Flows in: the record, where the snapshot, cgroups and namespace descriptors are. Flows out: `Bundle`, `Process`.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pystack.engine.confine import Confinement, confinement, parse_security_options, path_lists
from pystack.engine.container import Container, MountRecord
from pystack.engine.logdrivers.options import rotation
from pystack.engine.logdrivers.tags import Subject, extra_attributes, render_tag
from pystack.engine.merge import argv, process_env
from pystack.engine.remap import IdMap
from pystack.engine.runtime.bundle import (
    Bundle,
    DeviceNode,
    LogFile,
    MountEntry,
    Namespaces,
    Process,
    Rlimit,
    RootFilesystem,
)
from pystack.kernel.devices import container_devices
from pystack.kernel.userns import to_host
from pystack.model.container import ContainerSpec, ExecSpec, LogConfig, Mount
from pystack.model.errors import InvalidInput

# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_DIRSYNC = 1, 2, 4, 8, 16, 128
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MS_STRICTATIME = 1 << 10, 1 << 11, 1 << 21, 1 << 24
_TMPFS_FLAGS = {
    "ro": (MS_RDONLY, True), "rw": (MS_RDONLY, False),
    "nosuid": (MS_NOSUID, True), "suid": (MS_NOSUID, False),
    "nodev": (MS_NODEV, True), "dev": (MS_NODEV, False),
    "noexec": (MS_NOEXEC, True), "exec": (MS_NOEXEC, False),
    "sync": (MS_SYNCHRONOUS, True), "async": (MS_SYNCHRONOUS, False), "dirsync": (MS_DIRSYNC, True),
    "noatime": (MS_NOATIME, True), "atime": (MS_NOATIME, False),
    "nodiratime": (MS_NODIRATIME, True), "diratime": (MS_NODIRATIME, False),
    "relatime": (MS_RELATIME, True), "norelatime": (MS_RELATIME, False),
    "strictatime": (MS_STRICTATIME, True), "nostrictatime": (MS_STRICTATIME, False), "defaults": (0, True),
}  # fmt: skip
_TMPFS_DATA = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})
_SIZES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What start has made ready for the bundle: `namespaces` as in the contract, directories as they lie on the host."""

    rootfs: RootFilesystem
    root_binds: tuple[tuple[str, str], ...]  # (host source, target), read-only, parts of the image
    namespaces: Namespaces
    cgroups: list[str]
    network_files: Mapping[str, str]  # target in the container -> file on the host
    ids: IdMap | None = None  # of the container's user namespace
    image_layers: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # id of a mounted image -> its layers


def image_mount_directory(directory: str, target: str) -> str:
    """Where a container keeps what it writes to the image that is mounted at `target`."""
    return f"{directory}/m-{hashlib.sha256(target.encode()).hexdigest()[:16]}"


def parse_size(text: str) -> int:
    """Bytes of "64m", "1g", "65536", "10 MB". InvalidInput otherwise."""
    body = text.strip().lower().removesuffix("ib").removesuffix("b").strip()
    factor = _SIZES.get(body[-1:], 0)
    digits = body[:-1] if factor else body
    try:
        return int(float(digits) * (factor or 1))
    except ValueError:
        raise InvalidInput(f"invalid size: {text!r}", hint="write it like 64m or 1g") from None


def _owner(option: str, ids: IdMap | None) -> str:
    """`uid=7` or `gid=7` of a tmpfs with the host's id: it is mounted before the user namespace is entered."""
    key, _, value = option.partition("=")
    if ids is None or key not in {"uid", "gid"} or not value.isdigit():
        return option
    number = to_host(ids.uid if key == "uid" else ids.gid, int(value))
    if number < 0:
        raise InvalidInput(f"invalid tmpfs option {option!r}: the container's user namespace has no such id")
    return f"{key}={number}"


def tmpfs_entry(mount: Mount, ids: IdMap | None = None) -> MountEntry:
    """A tmpfs of the container: noexec, nosuid, nodev unless the raw options say otherwise, like Docker."""
    flags, data = MS_NOEXEC | MS_NOSUID | MS_NODEV, []
    for option in filter(None, mount.tmpfs_options.split(",")):
        key, _, value = option.partition("=")
        if option in _TMPFS_FLAGS:
            bit, on = _TMPFS_FLAGS[option]
            flags = flags | bit if on else flags & ~bit
        elif key in _TMPFS_DATA and value:
            data.append(_owner(option, ids))
        else:
            raise InvalidInput(f'Invalid tmpfs option ["{option}"] for {mount.target}')
    if mount.tmpfs_size:
        data.append(f"size={mount.tmpfs_size}")
    if mount.tmpfs_mode is not None:
        data.append(f"mode={mount.tmpfs_mode:o}")
    if mount.read_only:
        flags |= MS_RDONLY
    return MountEntry(
        kind="fs", source="tmpfs", target=mount.target, fstype="tmpfs", flags=flags, data=",".join(data)
    )


def bind_entry(
    source: str,
    target: str,
    *,
    readonly: bool,
    recursive: bool = True,
    propagation: str = "",
    subpath: str = "",
    readonly_recursive: bool = True,
    idmap: bool = False,
) -> MountEntry:
    return MountEntry(
        kind="bind",
        source=source,
        target=target,
        flags=0,
        recursive=recursive,
        propagation=propagation,
        readonly=readonly,
        subpath=subpath,
        readonly_recursive=readonly_recursive,
        idmap=idmap,
    )


def _image_entry(mount: MountRecord, layers: Sequence[str], place: str) -> MountEntry:
    """An image's files, with a layer of the container's own above them for what it writes."""
    return MountEntry(
        kind="overlay",
        source="",
        target=mount.spec.target,
        layers=list(layers),
        upper=f"{place}/u",
        work=f"{place}/w",
        subpath=mount.spec.subpath,
        readonly=not mount.view.read_write,
        recursive=False,
    )


def _entry(container: Container, mount: MountRecord, around: Surroundings) -> MountEntry:
    if mount.spec.type == "tmpfs":
        return tmpfs_entry(mount.spec, around.ids)
    if mount.spec.type == "image":
        place = image_mount_directory(container.directory, mount.spec.target)
        return _image_entry(mount, around.image_layers[mount.view.source], place)
    return bind_entry(
        mount.view.source,
        mount.spec.target,
        readonly=not mount.view.read_write,
        recursive=mount.spec.recursive,
        propagation=mount.spec.propagation,
        subpath=mount.spec.subpath,
        readonly_recursive=mount.spec.recursive and mount.spec.read_only_recursive != "no",
        idmap=mount.spec.type == "volume" and mount.view.source.startswith(around.rootfs["top"] + "/"),
    )


def _depth(entry: MountEntry) -> int:
    return entry["target"].rstrip("/").count("/")


def _mounts(container: Container, around: Surroundings) -> list[MountEntry]:
    """The image's own binds, then everything asked for, shallow targets first so that none hides another."""
    config = container.config
    asked = [_entry(container, m, around) for m in container.record.mounts]
    for index, file in enumerate(config.files):
        asked.append(
            bind_entry(f"{container.directory}/files/{index}", file.target, readonly=True, idmap=True)
        )
    if config.ipc_mode == "host":
        asked.append(bind_entry("/dev/shm", "/dev/shm", readonly=False))
    taken = {e["target"].rstrip("/") for e in asked}
    files = around.network_files.items()
    asked += [bind_entry(s, t, readonly=False, idmap=True) for t, s in files if t not in taken]
    asked.sort(key=_depth)
    return [bind_entry(s, t, readonly=True, idmap=True) for s, t in around.root_binds] + asked


def _default_nodes() -> list[DeviceNode]:
    """The nodes that every container has (devices.txt of the kernel's documentation)."""
    numbers = {
        "null": (1, 3),
        "zero": (1, 5),
        "full": (1, 7),
        "random": (1, 8),
        "urandom": (1, 9),
        "tty": (5, 0),
    }
    return [
        DeviceNode(path=f"/dev/{name}", type="c", major=major, minor=minor, mode=0o666, uid=0, gid=0)
        for name, (major, minor) in numbers.items()
    ]


def _devices(config: ContainerSpec) -> list[DeviceNode]:
    nodes, _ = container_devices(config.privileged, config.resources.devices, ())
    given = {node["path"]: DeviceNode(**node) for node in nodes}
    defaults = [node for node in _default_nodes() if node["path"] not in given]
    return [*defaults, *given.values()]


def log_file(path: str, log: LogConfig) -> LogFile:
    """The files that the shim writes: the log itself, or what waits to be sent to a remote driver."""
    if log.driver == "none":
        return LogFile(path=path, max_size=-1, max_file=1, compress=False, attributes={})
    size, count, compress = rotation(log)
    return LogFile(path=path, max_size=size, max_file=count, compress=compress, attributes={})


def log_subject(container: Container) -> Subject:
    """The container as the tags and messages of log drivers name it."""
    config = container.config
    return Subject(
        id=container.id,
        name=container.name,
        image=container.record.spec.image,
        image_id=container.record.image_id,
        created=container.record.created,
        command=tuple(argv(config)),
        labels=config.labels,
        env=config.env,
        hostname=socket.gethostname(),
    )


def _log(container: Container) -> LogFile:
    config = container.config
    log = log_file(container.log_path, config.log)
    if config.log.driver == "none" or not config.log.options:
        return log
    about = log_subject(container)
    log["attributes"] = extra_attributes(config.log.options, about)
    if config.log.driver == "json-file" and config.log.options.get("tag"):
        log["attributes"]["tag"] = render_tag(config.log.options["tag"], about)
    return log


def _rlimits(config: ContainerSpec) -> list[Rlimit]:
    return [Rlimit(name=u.name, soft=u.soft, hard=u.hard) for u in config.resources.ulimits]


def _process(
    config: ContainerSpec, limits: Confinement, *, command: list[str], env: list[str], tty: bool
) -> Process:
    return Process(
        argv=command,
        env=env,
        cwd=config.working_dir or "/",
        user=config.user,
        group_add=list(config.group_add),
        capabilities=limits.capabilities,
        no_new_privileges=limits.no_new_privileges,
        seccomp=limits.seccomp,
        rlimits=_rlimits(config),
        oom_score_adj=config.oom_score_adj,
        tty=tty,
        console_size=list(config.console_size),
        apparmor=limits.apparmor,
    )


def exec_process(config: ContainerSpec, spec: ExecSpec) -> Process:
    """A further process, confined as PID 1 is; `privileged` gives it all capabilities, but the same filter."""
    limits = confinement(config, privileged=spec.privileged)
    env = process_env(config, spec.env)
    if spec.tty and not any(e.startswith("TERM=") for e in env):
        env.append("TERM=xterm")
    process = _process(config, limits, command=list(spec.command), env=env, tty=spec.tty)
    process["user"] = spec.user or config.user
    process["cwd"] = spec.working_dir or config.working_dir or "/"
    process["console_size"] = list(spec.console_size)
    return process


def build(container: Container, around: Surroundings) -> Bundle:
    """The whole bundle of the container's next run, `record.run`."""
    config = container.config
    masked, readonly = path_lists(config)
    shared_uts = config.uts_mode == "host"
    bundle = Bundle(
        id=container.id,
        run=container.record.run,
        directory=container.directory,
        socket=container.shim_socket,
        process=_process(
            config, confinement(config), command=argv(config), env=process_env(config), tty=config.tty
        ),
        init=bool(config.init),
        stdin=config.open_stdin,
        stdin_once=config.stdin_once,
        log=_log(container),
        namespaces=around.namespaces,
        hostname="" if shared_uts else config.hostname,
        domainname="" if shared_uts else config.domainname,
        cgroups=around.cgroups,
        rootfs=around.rootfs,
        mounts=_mounts(container, around),
        devices=_devices(config),
        shm_size=config.shm_size,
        masked_paths=masked,
        readonly_paths=readonly,
        sysctls=dict(config.sysctls),
        privileged=config.privileged,
        writable_cgroups=parse_security_options(config.security_opt).writable_cgroups,
    )
    if around.ids is not None:
        bundle["uid_map"] = [list(each) for each in around.ids.uid]
        bundle["gid_map"] = [list(each) for each in around.ids.gid]
    return bundle
