"""The bundle: all that launcher, shim and the child need to start one container, as a JSON object over a socket.

The daemon makes it (`engine.bundles`), the launcher passes it to the shim that it forks, the shim's child carries it
out. Standard library only; plain dicts at run time, these types are for the checkers and the reader. Host paths are
absolute. Paths below "in the container" are resolved after pivot_root, so nothing of the container can lead outside.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class RootFilesystem(TypedDict):
    """overlayfs, mounted in the container's own mount namespace: the host never sees it."""

    lower: list[str]  # layer directories, topmost first
    upper: str
    work: str
    top: NotRequired[
        str
    ]  # what holds all of these and `mountpoint`: where ids are mapped, it is as one mount
    mountpoint: str  # an empty directory that all containers share: each mounts on it in its own namespace
    readonly: bool


class MountEntry(TypedDict, total=False):
    """One mount, carried out in list order after the root and the kernel file systems.

    bind: `source` is a host path (directory or file; the child opens it before pivot_root). overlay: `layers` below an
    upper and a work directory. fs (tmpfs, proc, …): `fstype` and `data`. `flags` are MS_* values without MS_BIND/MS_REC.
    The target is created in the container when missing (a file for a file source), through openat2(RESOLVE_IN_ROOT): a
    symlink of the image never leads outside. `subpath` of a bind or overlay is looked up in its tree and must stay there.
    """

    kind: Literal["bind", "fs", "overlay"]
    source: str
    target: str
    fstype: str
    flags: int
    data: str
    subpath: str
    layers: list[str]  # overlay: topmost first
    upper: str
    work: str
    recursive: bool  # bind: with sub-mounts
    idmap: bool  # bind: the files are the engine's, and have the container's own ids on disk
    readonly_recursive: bool  # whether `readonly` holds for the sub-mounts, too; default: as `recursive`
    propagation: str  # "" = rprivate
    readonly: bool
    mode: int  # mode of a created target directory, default 0o755


class DeviceNode(TypedDict):
    path: str  # in the container, below /dev
    type: Literal["c", "b"]
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


class Capabilities(TypedDict):
    """Five sets as bit masks (bit n = capability n). For a non-root user the child empties effective and permitted."""

    bounding: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int


class Rlimit(TypedDict):
    name: str  # "nofile"
    soft: int  # -1 = infinity
    hard: int


class Process(TypedDict):
    """A program to run in the container: PID 1, or an exec. All of it applies to both."""

    argv: list[str]
    env: list[str]  # "K=V"; the child adds HOME from the container's /etc/passwd when it is missing
    cwd: str  # in the container, made when missing
    user: str  # "", "uid", "name", "uid:gid", "name:group" - resolved by the child in the container's /etc/passwd
    group_add: list[str]
    capabilities: Capabilities
    no_new_privileges: bool
    seccomp: str  # base64 of the BPF program (struct sock_filter[]), "" = none
    rlimits: list[Rlimit]
    oom_score_adj: int
    tty: bool
    console_size: list[int]  # rows, columns; zeros = leave
    apparmor: str  # profile, "" = none


class LogFile(TypedDict):
    """json-file log, written by the shim. `path` "" = no log (driver none). Sizes in bytes, -1 = unlimited."""

    path: str
    max_size: int
    max_file: int
    compress: bool
    attributes: dict[str, str]


class Namespaces(TypedDict):
    """For each: "new", "host", or "fd:N", where N is the index of a descriptor that came with the bundle.

    `shm` is what /dev/shm shows: "new", "none", or "fd:N" with the mount namespace of the container that shares its own.
    """

    mnt: Literal["new"]
    pid: str
    net: str
    ipc: str
    uts: str
    cgroup: str
    shm: NotRequired[str]
    user: str  # "new", "host", or "fd:N" with one that others have; then `uid_map` and `gid_map` tell its ids


class Bundle(TypedDict):
    id: str
    run: int  # counts the starts of this container; exit.json and the shim carry it
    directory: str  # the container's durable directory: exit.json is written here
    socket: str  # path where the shim listens
    process: Process
    init: bool  # our own init is PID 1 and runs the process as its child
    stdin: bool  # keep a pipe to the process' stdin; else /dev/null
    stdin_once: bool
    log: LogFile
    namespaces: Namespaces
    hostname: str  # "" = leave (uts "host")
    domainname: str
    cgroups: list[
        str
    ]  # directories: v1 ones, the child writes 0 to `tasks`; the v2 one, CLONE_INTO_CGROUP or cgroup.procs
    rootfs: RootFilesystem
    mounts: list[MountEntry]
    devices: list[DeviceNode]
    shm_size: int
    masked_paths: list[str]
    readonly_paths: list[str]
    sysctls: dict[str, str]
    uid_map: NotRequired[list[list[int]]]  # [first id inside, first on the host, count]
    gid_map: NotRequired[list[list[int]]]
    privileged: bool  # /sys and cgroup read-write
    writable_cgroups: NotRequired[
        bool
    ]  # cgroup v2 only: on v1 a writable release_agent is the host (CVE-2022-0492)


class ExitRecord(TypedDict):
    """`exit.json`: written by the shim (temporary file, fsync, rename) before anything else learns of the exit."""

    id: str
    run: int
    pid: int
    exit_code: int  # 128+n for signal n
    signal: int
    oom_killed: bool
    finished_at: str  # RFC 3339, ns
    error: str  # why it could not be started, "" otherwise
