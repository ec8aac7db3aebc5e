"""Image references: text in, a normalised `Reference` out, and the familiar text that Docker shows. Pure.

`redis` is docker.io/library/redis:latest, and `docker images` shows it as redis. The grammar is that of the
distribution project (`reference/reference.go`); digests are taken only in the forms that name a blob: sha256, sha512.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pystack.model.errors import InvalidInput

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\Z")
_HEX = re.compile(r"[a-f0-9]{64}\Z")
_SHORT = re.compile(r"(?:sha256:)?[a-f0-9]{1,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A named image: `domain`/`path`, with a tag, a digest, both, or (a repository) neither ("")."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository in full: docker.io/library/redis."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as Docker shows it: redis, user/app, ghcr.io/user/app."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix("library/")
        # "library/a/b" shortened to "a/b" would read back as another repository.
        return self.path if "/" in short and short != self.path else short

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def with_tag(self, tag: str) -> Reference:
        return replace(self, tag=tag, digest="")


def is_digest(text: str) -> bool:
    """Whether this is the whole digest of a blob. The only texts that may become a file's name in the store."""
    return _DIGEST.match(text) is not None


def may_be_id(text: str) -> bool:
    """Whether this can be an image id or the beginning of one."""
    return _SHORT.match(text) is not None


def parse(text: str) -> Reference:
    """The reference as written, without a default tag. InvalidInput with Docker's words when it is none."""
    if _HEX.match(text):
        raise InvalidInput(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text)
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.match(tag):
        raise _invalid(text)
    domain, path = _split_domain(name)
    if not _PATH.match(path):
        if path.lower() != path and _PATH.match(path.lower()):
            raise InvalidInput(f"invalid reference format: repository name ({path}) must be lowercase")
        raise _invalid(text)
    if not _DOMAIN.match(domain):
        raise _invalid(text)
    if len(domain) + 1 + len(path) > NAME_MAX:
        raise InvalidInput(
            f"invalid reference format: repository name must not be more than {NAME_MAX} characters"
        )
    return Reference(domain=domain, path=path, tag=tag or "", digest=digest)


def normalise(text: str) -> Reference:
    """As `parse`, with the tag `latest` where neither tag nor digest is given."""
    reference = parse(text)
    return reference if reference.tag or reference.digest else replace(reference, tag=DEFAULT_TAG)


def _invalid(text: str) -> InvalidInput:
    return InvalidInput(
        f"invalid reference format: {text!r}",
        hint="an image is [host[:port]/]name[:tag][@sha256:…], in lower case",
    )


def _split_tag(text: str) -> tuple[str, str | None]:
    """(name, tag); the colon of a port is left of the last slash."""
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, None)


def _split_domain(name: str) -> tuple[str, str]:
    """(domain, path): the first part is a host when it has a dot, a port or upper case, or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        first, rest = DEFAULT_DOMAIN, name
    if first == "index.docker.io":
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest
