"""Environment and label files -> each service's environment and labels.

In: validated services, the reader and the interpolation environment. Out: name -> resolved mapping. Order: Compose
Specification 05-services: a later env_file wins over an earlier one, `environment` over all; a bare name takes the
interpolation environment's value and stays None when that has none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pystack.model.errors import NotFound, PystackError
from pystack.stackfile import dotenv
from pystack.stackfile.document import Node, Path, Reporter, Source, locate
from pystack.stackfile.interpolate import Lookup
from pystack.stackfile.schema import EnvFile, ServicePart
from pystack.stackfile.source import Reader


class Files:
    """Reads variable files once each, however many services name them."""

    __slots__ = ("display", "lookup", "reader", "reporter", "seen")

    def __init__(self, reader: Reader, lookup: Lookup, reporter: Reporter, working_dir: str) -> None:
        self.reader = reader
        self.lookup = lookup
        self.reporter = reporter
        self.display = working_dir
        self.seen: dict[tuple[str, str | None], dict[str, str | None] | PystackError] = {}

    def variables(self, path: str, form: str | None = None) -> dict[str, str | None]:
        """The file's variables; the reader's error when it cannot be read."""
        key = (path, form)
        if key not in self.seen:
            try:
                text = self.reader.read_text(path)
            except PystackError as error:
                self.seen[key] = error
            else:
                source = Source(path, display_name(path, self.display), text, os.path.dirname(path))
                read = dotenv.parse_raw if form == "raw" else dotenv.parse
                self.seen[key] = read(source, self.lookup, self.reporter)
        value = self.seen[key]
        if isinstance(value, PystackError):
            raise value
        return value


def display_name(path: str, working_dir: str) -> str:
    """The path as messages show it: relative when it lies below the working directory."""
    return path[len(working_dir) + 1 :] if path.startswith(working_dir.rstrip("/") + "/") else path


def environment(name: str, service: ServicePart, document: Node, files: Files) -> dict[str, str | None]:
    """The service's environment with its env files merged in."""
    out: dict[str, str | None] = {}
    for index, entry in enumerate(service.env_file or ()):
        found = _env_file(entry, document, ("services", name, "env_file", index, "path"), files)
        out.update({key: value for key, value in found.items() if value is not None})
    for key, value in (service.environment or {}).items():
        out[key] = files.lookup(key) if value is None else value
    return out


def _env_file(entry: EnvFile, document: Node, path: Path, files: Files) -> Mapping[str, str | None]:
    try:
        return files.variables(entry.path, entry.format)
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
            out.update({k: v or "" for k, v in files.variables(file).items()})
        except PystackError as error:
            path: Path = ("services", name, "label_file", index)
            files.reporter.error(locate(document, path), "missing-file", error.message, path=path)
    out.update({key: value or "" for key, value in (service.labels or {}).items()})
    return out
