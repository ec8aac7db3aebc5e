"""Environment and label files -> each service's environment and labels.

In: validated services, the reader and the interpolation environment. Out: name -> resolved mapping. Order: Compose
Specification 05-services: a later env_file wins over an earlier one, `environment` over all; a bare name takes the
interpolation environment's value and stays None when that has none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pystack.model.errors import NotFound, PystackError, StackFileError
from pystack.stackfile import dotenv
from pystack.stackfile.document import Node, Path, Reporter, Source, locate
from pystack.stackfile.interpolate import Lookup
from pystack.stackfile.schema import EnvFile, ServicePart
from pystack.stackfile.source import Reader


class Files:
    """Reads variable files once each, however many services name them."""

    __slots__ = ("display", "lookup", "plain", "reader", "reporter", "sources")

    def __init__(self, reader: Reader, lookup: Lookup, reporter: Reporter, working_dir: str) -> None:
        self.reader = reader
        self.lookup = lookup
        self.reporter = reporter
        self.display = working_dir
        self.sources: dict[str, Source | PystackError] = {}
        self.plain: dict[str, dict[str, str | None]] = {}  # of files without variables: the same for all

    def variables(
        self, path: str, form: str | None = None, seen: Mapping[str, str | None] | None = None
    ) -> dict[str, str | None]:
        """The file's variables; the reader's error when it cannot be read.

        A `$NAME` in it is the project's variable, else what `seen` has: what the service said before.
        """
        source = self._source(path)
        if form == "raw":
            return dotenv.parse_raw(source, self.lookup, self.reporter)
        if "$" not in source.text:
            if path not in self.plain:
                self.plain[path] = dotenv.parse(source, self.lookup, self.reporter)
            return self.plain[path]
        return dotenv.parse(source, self.lookup, self.reporter, seen)

    def _source(self, path: str) -> Source:
        if path not in self.sources:
            try:
                text = self.reader.read_text(path)
            except PystackError as error:
                self.sources[path] = error
            else:
                self.sources[path] = Source(
                    path, display_name(path, self.display), text, os.path.dirname(path)
                )
        found = self.sources[path]
        if isinstance(found, PystackError):
            raise found
        return found


def display_name(path: str, working_dir: str) -> str:
    """The path as messages show it: relative when it lies below the working directory."""
    return path[len(working_dir) + 1 :] if path.startswith(working_dir.rstrip("/") + "/") else path


def environment(name: str, service: ServicePart, document: Node, files: Files) -> dict[str, str | None]:
    """The service's environment with its env files merged in."""
    own = {k: files.lookup(k) if v is None else v for k, v in (service.environment or {}).items()}
    out: dict[str, str | None] = {}
    for index, entry in enumerate(service.env_file or ()):
        seen = {**out, **own}
        found = _env_file(entry, document, ("services", name, "env_file", index, "path"), files, seen)
        files.reporter.copies(len(found), document)
        out.update({key: value for key, value in found.items() if value is not None})
    return {**out, **own}


def _env_file(
    entry: EnvFile, document: Node, path: Path, files: Files, seen: Mapping[str, str | None]
) -> Mapping[str, str | None]:
    try:
        return files.variables(entry.path, entry.format, seen)
    except NotFound:
        if not entry.required:
            return {}
        node = locate(document, path)
        files.reporter.error(
            node,
            "missing-file",
            f"cannot find env file {entry.path}",
            path=path,
            help="create it, or set `required: false`",
        )
    except PystackError as error:
        files.reporter.error(locate(document, path), "unreadable-file", error.message, path=path)
    return {}


def labels(name: str, service: ServicePart, document: Node, files: Files) -> dict[str, str]:
    """The service's labels with its label files merged in."""
    out: dict[str, str] = {}
    for index, file in enumerate(service.label_file or ()):
        try:
            found = files.variables(file)
            files.reporter.copies(len(found), document)
            out.update({k: v or "" for k, v in found.items()})
        except StackFileError:
            raise
        except PystackError as error:
            path: Path = ("services", name, "label_file", index)
            files.reporter.error(locate(document, path), "missing-file", error.message, path=path)
    out.update({key: value or "" for key, value in (service.labels or {}).items()})
    return out
