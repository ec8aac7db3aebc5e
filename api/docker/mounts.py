"""Mounts: Docker's Binds strings, Mounts objects and Tmpfs map go in, model Mounts come out; and back.

Sources: moby `volume/mounts/linux_parser.go` (bind strings) and `mount_validate.go` (messages).
"""

from __future__ import annotations

import posixpath
from typing import Literal, cast

from pystack.api.docker.wire import HostConfigBody, MountBody
from pystack.model.container import Mount
from pystack.model.errors import InvalidInput, Unsupported

_PROPAGATION = {"shared", "slave", "private", "rshared", "rslave", "rprivate"}
#: Options that are accepted and mean nothing here: SELinux labels, consistency of Docker Desktop, the default.
_IDLE = {"z", "Z", "consistent", "cached", "delegated", "rbind"}
_KNOWN = {"ro", "rw", "nocopy", "bind"} | _PROPAGATION | _IDLE


def mounts_of(host: HostConfigBody) -> tuple[Mount, ...]:
    """All mounts of a create request, in the order Binds, Mounts, Tmpfs. Raises InvalidInput."""
    driver = host.VolumeDriver or ""
    found = [bind_of(text, driver) for text in host.Binds or ()]
    found += [mount_of(body) for body in host.Mounts or ()]
    found += [
        Mount(type="tmpfs", target=_target(target, f"tmpfs {target}"), tmpfs_options=options)
        for target, options in (host.Tmpfs or {}).items()
    ]
    seen: set[str] = set()
    for mount in found:
        if mount.target in seen:
            raise InvalidInput(f"Duplicate mount point: {mount.target}")
        seen.add(mount.target)
    return tuple(found)


def _target(text: str, what: str) -> str:
    if not text.startswith("/"):
        raise InvalidInput(f"invalid mount config: invalid mount path: '{text}' mount path must be absolute")
    clean = posixpath.normpath(text)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise InvalidInput(
            f"invalid volume specification: '{what}': invalid mount config: destination can't be '/'"
        )
    return clean


def bind_of(text: str, driver: str = "") -> Mount:
    """`[source:]target[:options]`. A source that is no absolute path names a volume."""

    def wrong(why: str = "") -> InvalidInput:
        return InvalidInput(f"invalid volume specification: '{text}'" + (f": {why}" if why else ""))

    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise wrong()
    if len(parts) == 1:
        return Mount(type="volume", target=_target(parts[0], text), driver=driver)
    if len(parts) == 2 and set(parts[1].split(",")) <= _KNOWN:
        raise wrong("a volume without a source takes no mode")
    source, target = parts[0], _target(parts[1], text)
    options = parts[2].split(",") if len(parts) == 3 else []
    if unknown := [option for option in options if option not in _KNOWN]:
        raise wrong(f"invalid mode: {unknown[0]}")
    if {"ro", "rw"} <= set(options):
        raise wrong("both ro and rw")
    propagation = [option for option in options if option in _PROPAGATION]
    read_only = "ro" in options
    if source.startswith("/"):
        if "nocopy" in options:
            raise wrong("nocopy is for volumes")
        return Mount(
            type="bind",
            target=target,
            source=posixpath.normpath(source),
            read_only=read_only,
            propagation=propagation[0] if propagation else "",
            recursive="bind" not in options,
            create_host_path=True,
        )
    if propagation:
        raise wrong("propagation is for bind mounts")
    if source.startswith((".", "~")) or "/" in source:
        raise InvalidInput(
            f"invalid volume specification: '{text}': {source!r} includes invalid characters for a local volume name, "
            'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return Mount(
        type="volume",
        target=target,
        source=source,
        read_only=read_only,
        nocopy="nocopy" in options,
        driver=driver,
    )


_OPTION_FIELDS = {
    "bind": "BindOptions",
    "volume": "VolumeOptions",
    "tmpfs": "TmpfsOptions",
    "image": "ImageOptions",
}


def _read_only_recursive(body: MountBody, propagation: str) -> Literal["", "no", "force"]:
    """How far down ReadOnly reaches: as far as the kernel can, not below the top, or all the way or not at all."""
    options = body.BindOptions
    off = bool(options and options.ReadOnlyNonRecursive)
    force = bool(options and options.ReadOnlyForceRecursive)
    if not (off or force):
        return ""

    def wrong(why: str) -> InvalidInput:
        return InvalidInput(f'invalid mount config for type "bind": {why}')

    name = "ReadOnlyNonRecursive" if off else "ReadOnlyForceRecursive"
    if not body.ReadOnly:
        raise wrong(f"option {name} requires ReadOnly to be specified")
    if off and force:
        raise wrong("conflicting options: ReadOnlyNonRecursive and ReadOnlyForceRecursive")
    if force and options and options.NonRecursive:
        raise wrong("conflicting options: ReadOnlyForceRecursive and NonRecursive")
    if force and propagation not in {"", "rprivate"}:
        raise wrong("option ReadOnlyForceRecursive requires Propagation to be rprivate")
    return "no" if off else "force"


def _tmpfs_options(options: list[list[str]]) -> str:
    """`[["noexec"], ["exec"]]` as one string; moby takes these two here and nothing else."""
    for option in options:
        if option not in (["exec"], ["noexec"]):
            raise InvalidInput(f'invalid mount config for type "tmpfs": invalid option: {"=".join(option)}')
    return ",".join("=".join(option) for option in options)


def mount_of(body: MountBody) -> Mount:
    kind = body.Type or ""
    if kind in {"npipe", "cluster"}:
        raise Unsupported(f"cannot use a mount of type {kind!r}: this engine runs on Linux without a swarm")
    if kind not in {"bind", "volume", "tmpfs", "image"}:
        raise InvalidInput(f"invalid mount config for type {_quoted(kind)}: mount type unknown")

    def wrong(why: str) -> InvalidInput:
        return InvalidInput(f"invalid mount config for type {_quoted(kind)}: {why}")

    if not body.Target:
        raise wrong("field Target must not be empty")
    source = body.Source or ""
    if kind == "bind":
        if not source:
            raise wrong("field Source must not be empty")
        if not source.startswith("/"):
            raise wrong(f"invalid mount path: '{source}' mount path must be absolute")
        source = posixpath.normpath(source)
    if kind == "tmpfs" and source:
        raise wrong("field Source must not be specified")
    if kind == "image" and not source:
        raise wrong("field Source must not be empty")
    for name, field in _OPTION_FIELDS.items():
        if kind != name and getattr(body, field) is not None:
            raise wrong(f"field {field} must not be specified")
    return _mount(body, cast("Literal['bind', 'volume', 'tmpfs', 'image']", kind), source)


def _mount(body: MountBody, kind: Literal["bind", "volume", "tmpfs", "image"], source: str) -> Mount:
    bind, volume, tmpfs = body.BindOptions, body.VolumeOptions, body.TmpfsOptions
    propagation = (bind.Propagation or "") if bind else ""
    if propagation not in _PROPAGATION | {""}:
        raise InvalidInput(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
    driver = volume.DriverConfig if volume else None
    image_subpath = (body.ImageOptions.Subpath or "") if body.ImageOptions else ""
    return Mount(
        type=kind,
        target=_target(body.Target or "", body.Target or ""),
        source=source,
        read_only=bool(body.ReadOnly),
        propagation=propagation,
        recursive=not (bind and bind.NonRecursive),
        read_only_recursive=_read_only_recursive(body, propagation),
        create_host_path=bool(bind and bind.CreateMountpoint),
        nocopy=bool(volume and volume.NoCopy),
        subpath=((volume.Subpath or "") if volume else "") or image_subpath,
        driver=(driver.Name or "") if driver else "",
        driver_options=(driver.Options or {}) if driver else {},
        labels=(volume.Labels or {}) if volume else {},
        tmpfs_size=(tmpfs.SizeBytes or 0) if tmpfs else 0,
        tmpfs_mode=tmpfs.Mode if tmpfs else None,
        tmpfs_options=_tmpfs_options(tmpfs.Options or []) if tmpfs else "",
    )


def _quoted(text: str) -> str:
    return f'"{text}"'


def _is_bind_string(mount: Mount) -> bool:
    if ":" in mount.source or ":" in mount.target:
        return False
    if mount.type == "bind":
        return mount.create_host_path and not mount.read_only_recursive
    return (
        mount.type == "volume"
        and bool(mount.source)
        and not (mount.driver or mount.driver_options or mount.labels or mount.subpath)
    )


def _is_tmpfs_string(mount: Mount) -> bool:
    return mount.type == "tmpfs" and not mount.tmpfs_size and mount.tmpfs_mode is None and not mount.read_only


def binds_json(mounts: tuple[Mount, ...]) -> list[str] | None:
    """HostConfig.Binds: the mounts that `-v` can say. None when there are none, as Docker shows it."""
    texts = []
    for mount in mounts:
        if not _is_bind_string(mount):
            continue
        options = ["ro"] if mount.read_only else []
        options += [mount.propagation] if mount.propagation else []
        options += ["bind"] if not mount.recursive else []
        options += ["nocopy"] if mount.nocopy else []
        texts.append(":".join([mount.source, mount.target, *([",".join(options)] if options else [])]))
    return texts or None


def tmpfs_json(mounts: tuple[Mount, ...]) -> dict[str, str]:
    return {mount.target: mount.tmpfs_options for mount in mounts if _is_tmpfs_string(mount)}


def mounts_json(mounts: tuple[Mount, ...]) -> list[dict[str, object]]:
    """HostConfig.Mounts: those that neither Binds nor Tmpfs can say."""
    return [_mount_json(m) for m in mounts if not _is_bind_string(m) and not _is_tmpfs_string(m)]


def _mount_json(mount: Mount) -> dict[str, object]:
    body: dict[str, object] = {"Type": mount.type, "Target": mount.target}
    if mount.source:
        body["Source"] = mount.source
    if mount.read_only:
        body["ReadOnly"] = True
    options: dict[str, object] = {}
    if mount.type == "bind":
        options = {"Propagation": mount.propagation} if mount.propagation else {}
        options |= {} if mount.recursive else {"NonRecursive": True}
        options |= {"CreateMountpoint": True} if mount.create_host_path else {}
        options |= {"ReadOnlyNonRecursive": True} if mount.read_only_recursive == "no" else {}
        options |= {"ReadOnlyForceRecursive": True} if mount.read_only_recursive == "force" else {}
    elif mount.type == "volume":
        options = {"NoCopy": True} if mount.nocopy else {}
        options |= {"Labels": dict(mount.labels)} if mount.labels else {}
        options |= {"Subpath": mount.subpath} if mount.subpath else {}
        if mount.driver or mount.driver_options:
            options["DriverConfig"] = {"Name": mount.driver, "Options": dict(mount.driver_options)}
    elif mount.type == "tmpfs":
        options = {"SizeBytes": mount.tmpfs_size} if mount.tmpfs_size else {}
        options |= {"Mode": mount.tmpfs_mode} if mount.tmpfs_mode is not None else {}
        if mount.tmpfs_options:
            options["Options"] = [option.split("=", 1) for option in mount.tmpfs_options.split(",")]
    elif mount.subpath:
        options = {"Subpath": mount.subpath}
    if options:
        body[f"{mount.type.capitalize()}Options"] = options
    return body
