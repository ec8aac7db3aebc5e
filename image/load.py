"""`docker load`: the bytes of an archive in, image records out, their blobs and layers in the store.

One tar in one pass, compressed or not: a docker-archive (manifest.json, the layouts before and since Docker 25) or an
OCI image layout (index.json). Members go to files as they come and nothing is looked up by a path of the archive on the
host: the archive's names are keys of a dict. Synchronous: runs in a worker thread.
"""

from __future__ import annotations

import hashlib
import os
import platform
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pystack.image.compression import Reader, decompress
from pystack.image.records import (
    JSON_MAX,
    ImageRecord,
    LayerRecord,
    chain_ids,
    get,
    parse_config,
    parse_json,
)
from pystack.image.references import DEFAULT_TAG, Reference, is_digest, parse
from pystack.image.store import Store
from pystack.image.tarstream import HARDLINK, REGULAR, SYMLINK, Entry, Limits, Source, TarReader
from pystack.image.unpack import unpack
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import InvalidInput, Unsupported

LIMITS = Limits()
MEMBERS_MAX = 10_000
IMAGES_MAX = 1_000
_BLOBS = "blobs/sha256/"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One image that an archive held. `layers` are those that were not known before."""

    image: ImageRecord
    layers: tuple[LayerRecord, ...]
    tags: tuple[Reference, ...]


class _Member(NamedTuple):
    """A file of the archive, as it lies in the ingest directory."""

    path: str
    size: int
    digest: str


class _Wanted(NamedTuple):
    """One image as an archive describes it, before its layers are looked at."""

    config: _Member
    layers: list[_Member]
    tags: tuple[Reference, ...]


def load_archive(
    store: Store, reader: Reader, known: Mapping[str, LayerRecord], check: Callable[[], None]
) -> list[Loaded]:
    """Load every image of an archive. `known` are the layers that are here, by chain id.

    InvalidInput for what is no archive or lies about its content; then only garbage is left, for `Store.collect`.
    """
    layers = dict(known)
    with store.ingest() as place:
        members = _receive(reader, place, check)
        loaded = [_image(store, wanted, layers, check) for wanted in _images(members)]
        store.sync()
    failpoint("image.archive.loaded")
    return loaded


# Receiving the outer tar


class _Members:
    """The archive's members by cleaned name; links inside the archive are names of the same files."""

    def __init__(self) -> None:
        self.files: dict[str, _Member] = {}
        self._links: dict[str, str] = {}

    def add(self, name: str, member: _Member) -> None:
        present = self.files.setdefault(name, member)
        if present.digest != member.digest:
            raise InvalidInput(f"cannot load the archive: {name!r} is in it twice, with different content")

    def link(self, name: str, target: str) -> None:
        self._links[name] = target

    def find(self, name: str) -> _Member | None:
        name = posixpath.normpath(name)
        return self.files.get(name) or self.files.get(self._links.get(name, ""))

    def need(self, name: object, what: str) -> _Member:
        found = self.find(name) if isinstance(name, str) and name else None
        if found is None:
            raise InvalidInput(f"cannot load the archive: {what} {str(name)[:200]!r} is not in it")
        return found

    def blob(self, descriptor: Any, what: str) -> _Member:
        """The member that an OCI descriptor names; its digest and size must be what the descriptor says."""
        digest = get(descriptor, "digest", str, what)
        if not is_digest(digest) or not digest.startswith("sha256:"):
            raise InvalidInput(f"cannot load the archive: {what} has digest {digest[:80]!r}")
        member = self.need(_BLOBS + digest[7:], what)
        size = descriptor.get("size")
        if member.digest != digest or (size is not None and size != member.size):
            raise InvalidInput(f"cannot load the archive: {what} {digest} does not match its descriptor")
        return member


def _receive(reader: Reader, place: str, check: Callable[[], None]) -> _Members:
    _, plain = decompress(reader)
    source = Source(plain, "the archive", LIMITS.bytes)
    tar = TarReader(source, "the archive", Limits(entries=MEMBERS_MAX))
    members = _Members()
    for number, entry in enumerate(tar):
        check()
        name = _member_name(entry.name)
        if entry.type == REGULAR:
            member = _spool(f"{place}/{number}", entry, tar.content(), check)
            if name.startswith(_BLOBS) and name[len(_BLOBS) :] != member.digest[7:]:
                raise InvalidInput(f"cannot load the archive: blob {name[:100]!r} has digest {member.digest}")
            members.add(name, member)
        elif entry.type == SYMLINK:
            target = posixpath.join(posixpath.dirname(name), entry.link.decode("utf-8", "replace"))
            members.link(name, posixpath.normpath(target))
        elif entry.type == HARDLINK:
            members.link(name, _member_name(entry.link))
    source.drain()
    failpoint("image.archive.received")
    return members


def _member_name(raw: bytes) -> str:
    name = posixpath.normpath(raw.decode("utf-8", "replace"))
    if name.startswith(("/", "../")) or name == "..":
        raise InvalidInput(f"cannot load the archive: it holds the name {name[:200]!r}")
    return name


def _spool(path: str, entry: Entry, content: Iterator[memoryview], check: Callable[[], None]) -> _Member:
    digest = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for part in content:
            check()
            digest.update(part)
            while part:
                part = part[os.write(fd, part) :]  # noqa: PLW2901 - what is left of it
    finally:
        os.close(fd)
    return _Member(path, entry.size, "sha256:" + digest.hexdigest())


# What images it holds


def _read(member: _Member, what: str) -> bytes:
    if member.size > JSON_MAX:
        raise InvalidInput(f"cannot load the archive: {what} is larger than {JSON_MAX} bytes")
    with open(member.path, "rb") as file:
        return file.read()


def _images(members: _Members) -> list[_Wanted]:
    manifest = members.find("manifest.json")
    if manifest is not None:
        return _docker(members, parse_json(_read(manifest, "manifest.json"), "manifest.json"))
    index = members.find("index.json")
    if index is not None:
        return list(_index(members, parse_json(_read(index, "index.json"), "index.json"), depth=0))
    if members.find("repositories") is not None:
        raise Unsupported(
            "cannot load an archive without manifest.json",
            hint="it was saved by Docker before 1.10: save it again",
        )
    raise InvalidInput(
        "cannot load the archive: it holds neither manifest.json nor index.json",
        hint="for a root file system's tar use docker import",
    )


def _docker(members: _Members, manifest: Any) -> list[_Wanted]:
    if not isinstance(manifest, list) or not manifest or len(manifest) > IMAGES_MAX:
        raise InvalidInput("cannot read manifest.json: it is not a list of images")
    found = []
    for item in manifest:
        config = members.need(get(item, "Config", str, "manifest.json"), "config")
        layers = [members.need(name, "layer") for name in get(item, "Layers", list, "manifest.json")]
        tags = item.get("RepoTags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise InvalidInput("cannot read manifest.json: RepoTags is not a list of names")
        found.append(_Wanted(config, layers, tuple(_tag(tag) for tag in tags)))
    return found


def _tag(text: str) -> Reference:
    reference = parse(text)
    if reference.digest or not reference.tag:
        raise InvalidInput(f"cannot load the archive: {text!r} is not a name with a tag")
    return reference


def _index(members: _Members, index: Any, *, depth: int, tag: Reference | None = None) -> Iterator[_Wanted]:
    """The images of an OCI index. One nested index is the several platforms of one image: ours is taken."""
    if isinstance(index, dict) and "layers" in index:
        raise InvalidInput("cannot read the index: it is a manifest, too")
    entries = get(index, "manifests", list, "the index")
    if len(entries) > IMAGES_MAX or depth > 1:
        raise InvalidInput("cannot read the index: it is too large or nested too deep")
    if depth:
        entries = [_ours(entries)]
    for entry in entries:
        name = tag or _annotated(entry)
        document = parse_json(_read(members.blob(entry, "manifest"), "a manifest"), "a manifest")
        if isinstance(document, dict) and "manifests" in document:
            yield from _index(members, document, depth=depth + 1, tag=name)
            continue
        config = members.blob(get(document, "config", dict, "a manifest"), "config")
        layers = [members.blob(layer, "layer") for layer in get(document, "layers", list, "a manifest")]
        yield _Wanted(config, layers, (name,) if name else ())


def _ours(entries: list[Any]) -> Any:
    machine = platform.machine()
    wanted = ("linux", _ARCHITECTURES.get(machine, machine))
    for entry in entries:
        found = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(found, dict) and (found.get("os"), found.get("architecture")) == wanted:
            return entry
    raise InvalidInput(f"cannot load the archive: it has no image for {'/'.join(wanted)}")


def _annotated(entry: Any) -> Reference | None:
    """The name of an entry of index.json: containerd's annotation, or the OCI one where it is a whole name."""
    notes = entry.get("annotations") if isinstance(entry, dict) else None
    if not isinstance(notes, dict):
        return None
    name = notes.get("io.containerd.image.name")
    other = notes.get("org.opencontainers.image.ref.name")
    if isinstance(name, str):
        reference = parse(name)
    elif isinstance(other, str) and ("/" in other or ":" in other):
        reference = parse(other)
    else:
        return None
    return reference if reference.tag else reference.with_tag(DEFAULT_TAG)


# Layers


def _image(
    store: Store, wanted: _Wanted, layers: dict[str, LayerRecord], check: Callable[[], None]
) -> Loaded:
    text = _read(wanted.config, "an image config")
    config = parse_config(text)
    diff_ids = config.diff_ids
    if len(diff_ids) != len(wanted.layers):
        raise InvalidInput(
            f"cannot load the archive: the config names {len(diff_ids)} layers, the manifest {len(wanted.layers)}"
        )
    chain = chain_ids(diff_ids)
    made = []
    for member, diff_id, chain_id in zip(wanted.layers, diff_ids, chain, strict=True):
        if chain_id not in layers:
            layers[chain_id] = _layer(store, member, diff_id, chain_id, check)
            made.append(layers[chain_id])
    for member in (wanted.config, *wanted.layers):
        if os.path.exists(member.path):
            store.commit_blob(member.path, member.digest)
    image = ImageRecord(
        id=wanted.config.digest,
        config=text.decode(),
        layers=chain,
        blobs=tuple(member.digest for member in wanted.layers),
        size=sum(layers[chain_id].size for chain_id in chain),
    )
    return Loaded(image=image, layers=tuple(made), tags=wanted.tags)


def _layer(
    store: Store, member: _Member, diff_id: str, chain_id: str, check: Callable[[], None]
) -> LayerRecord:
    """Unpack one layer. It gets its name only once its diff id is verified."""
    path = member.path if os.path.exists(member.path) else store.blob(member.digest)
    with open(path, "rb", buffering=0) as file, store.new_layer() as directory:
        kind, plain = decompress(file)
        source = Source(plain, f"layer {diff_id}", LIMITS.bytes, digest=bool(kind))
        size = unpack(TarReader(source, f"layer {diff_id}", LIMITS), directory, check)
        source.drain()
        found = source.digest if kind else member.digest
        if found != diff_id:
            raise InvalidInput(
                f"cannot load the archive: a layer has diff id {found}, the config says {diff_id}"
            )
        return LayerRecord(
            chain_id=chain_id, diff_id=diff_id, directory=store.commit_layer(directory, chain_id), size=size
        )
