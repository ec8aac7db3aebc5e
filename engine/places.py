"""Paths of `docker cp` and the archive routes: what a client wrote in, what is meant out. Pure. moby `daemon/archive.go`."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from pystack.model.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`path` is absolute and clean. `follow`: a link in its last component is meant to be followed, to a directory.

    `name` is what the entry is called in an archive and in its status: the last component, "." or "/".
    """

    path: bytes
    follow: bool
    name: bytes

    @property
    def prefix(self) -> bytes:
        """What comes before the names of all that is below it."""
        return self.name if self.name == b"/" else self.name + b"/"


def place_of(text: str) -> Place:
    """The place that `path=` names. ".." is taken away by its letters, as Docker does; the kernel never sees one."""
    if not text:
        raise InvalidInput("bad parameter: path cannot be empty")
    if "\0" in text:
        raise InvalidInput("bad parameter: path cannot hold a NUL")
    path = posixpath.normpath("/" + text.lstrip("/"))
    dotted = text == "." or text.endswith("/.")
    follow = dotted or text.endswith("/")
    name = "." if dotted else posixpath.basename(path) or "/"
    return Place(path=os.fsencode(path), follow=follow or path == "/", name=os.fsencode(name))
