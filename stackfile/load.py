"""The loader: a request -> the desired state of a stack, with warnings; or every error of every file at once.

`load` runs the steps in Compose's order. For each YAML document of each file: parse, interpolate, long forms, absolute
paths, include, extends, merge. Then once: unique lists, schema, profiles, environment files, checks, normalise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace

from pystack.model.desired import Stack
from pystack.model.errors import PystackError
from pystack.stackfile import yamldoc
from pystack.stackfile.checks import check, check_runnable
from pystack.stackfile.diagnostics import Diagnostic, did_you_mean
from pystack.stackfile.document import Mapping, Node, Reporter, Scalar, Sequence, Source, child, with_items
from pystack.stackfile.extends import extend
from pystack.stackfile.interpolate import Lookup, interpolate, templates
from pystack.stackfile.merge import merge, unique, untagged
from pystack.stackfile.normalise import normalise
from pystack.stackfile.paths import absolute, is_remote
from pystack.stackfile.project import (
    LoadRequest,
    find_files,
    find_project,
    project_name,
    read_variables,
)
from pystack.stackfile.resolve import Files, display_name, environment, labels
from pystack.stackfile.resolved import Resolved
from pystack.stackfile.schema import Parts
from pystack.stackfile.select import enabled
from pystack.stackfile.shortforms import canonical
from pystack.stackfile.source import Reader
from pystack.stackfile.support import check_support
from pystack.stackfile.validate import validate
from pystack.stackfile.view import WHOLE, View

__all__ = ["LoadRequest", "Loaded", "find_files", "load", "resolve"]

_MAX_INCLUDES = 64
_MAX_SERVICES = 10_000
_MAX_AGAIN = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """`disabled` names the services that no chosen profile enables; `resolved` is what `to_canonical` prints."""

    stack: Stack
    warnings: tuple[Diagnostic, ...]
    disabled: tuple[str, ...]
    resolved: Resolved

    @property
    def document(self) -> Node:
        """The merged document in long form, with marks."""
        return self.resolved.document


def load(request: LoadRequest, reader: Reader) -> Loaded:
    """The desired state that the request's files describe.

    StackFileError carries every error of the files; NotFound or InvalidInput when there is no file to read or the
    project's name cannot be used.
    """
    reporter = Reporter()
    resolved, lookup = _resolve(request, reader, reporter)
    check_runnable(resolved.document, resolved.parts, resolved.enabled, reporter)
    check_support(resolved.document, resolved.enabled, reporter)
    reporter.findings.raise_errors()
    stack = normalise(resolved, reader, lookup, reporter)
    reporter.findings.raise_errors()
    warnings = tuple(reporter.findings.warnings)
    return Loaded(stack=stack, warnings=warnings, disabled=resolved.disabled, resolved=resolved)


def resolve(
    request: LoadRequest, reader: Reader, *, consistency: bool = True, view: View = WHOLE
) -> Resolved:
    """Every step but the last: attributes that the engine cannot carry out yet and unread secrets are no errors here.

    Without `consistency`, references to what is not defined are no errors either (`config --no-consistency`).
    """
    reporter = Reporter(templates=not view.interpolate)
    view = view if consistency else replace(view, consistency=False)
    resolved, _ = _resolve(request, reader, reporter, view)
    reporter.findings.raise_errors()
    return resolved


def _resolve(
    request: LoadRequest, reader: Reader, reporter: Reporter, view: View = WHOLE
) -> tuple[Resolved, Lookup]:
    project = find_project(request, reader, reporter)
    for name in request.environment:
        reporter.origins[name] = "the environment"
    documents = _Documents(request, reader, reporter, view)
    parsed = [d for path in project.files for d in documents.parse(path, project.directory)]
    name = project_name(request, project, _name_in(parsed, project.variables))
    variables = {**project.variables, "COMPOSE_PROJECT_NAME": name}
    merged = documents.merged(parsed, variables, ())
    if merged is None:
        if not reporter.findings.errors:
            source = documents.sources[project.files[0]]
            reporter.at(source, 0, 0, "empty-file", "the stack file is empty", help="it needs `services`")
        reporter.findings.raise_errors()
        raise AssertionError("an empty stack file is an error")
    _limit_services(merged, reporter)
    document = unique(merged)
    _version(document, reporter)
    parts = validate(document, reporter) if view.interpolate else Parts()
    known = child(document, "services")
    _targets(request, known, reporter)
    profiles = {p for s in parts.services.values() for p in s.profiles or ()}
    chosen = enabled(parts.services, project.profiles, request.services)
    files = Files(reader, variables.get, reporter, request.working_dir)
    environments = {n: environment(n, s, document, files) for n, s in chosen.items()}
    all_labels = {n: labels(n, s, document, files) for n, s in chosen.items()}
    if view.consistency:
        check(document, parts, chosen, reporter)
    resolved = Resolved(
        name=name,
        working_dir=project.directory,
        config_files=tuple(f for f in project.files if f != "-"),
        document=document,
        parts=parts,
        enabled=chosen,
        environments=environments,
        labels=all_labels,
        variables=variables,
        templates=tuple(text for raw in parsed for text in templates(raw)),
        profiles=tuple(sorted(profiles)),
        view=view,
        warnings=tuple(reporter.findings.warnings),
    )
    return resolved, variables.get


def _name_in(documents: list[Node], variables: Map[str, str]) -> str | None:
    """The top-level `name` of the last document that has one, its variables filled in."""
    for document in reversed(documents):
        name = child(document, "name")
        if isinstance(name, Scalar) and isinstance(name.value, str):
            filled = interpolate(name, variables.get, Reporter())
            return str(filled.value) if isinstance(filled, Scalar) else None
    return None


def _limit_services(document: Node, reporter: Reporter) -> None:
    services = child(document, "services")
    if isinstance(services, Mapping) and len(services.items) > _MAX_SERVICES:
        reporter.error(services, "too-many-services", f"cannot load more than {_MAX_SERVICES:,} services")
        reporter.findings.raise_errors()


def _version(document: Node, reporter: Reporter) -> None:
    if isinstance(document, Mapping) and "version" in document.items:
        message = "`version` is obsolete and has no effect"
        reporter.warn(document.keys["version"], "obsolete", message, path=("version",), help="remove it")


def _targets(request: LoadRequest, services: Node | None, reporter: Reporter) -> None:
    known = services.items if isinstance(services, Mapping) else {}
    for name in request.services:
        if name not in known and services is not None:
            message = f"no such service: {name}"
            reporter.at(services.source, 0, 0, "no-such-service", message, help=did_you_mean(name, known))


@dataclass(slots=True)
class _Documents:
    """Reads, prepares and merges documents; one for a load."""

    request: LoadRequest
    reader: Reader
    reporter: Reporter
    view: View = WHOLE
    sources: dict[str, Source] = field(default_factory=dict)
    extended: dict[str, Node | None] = field(default_factory=dict)
    included: int = 0
    again: int = 0  # characters of files that were read before

    def parse(self, path: str, directory: str, asked_by: Node | None = None) -> list[Node]:
        """The raw documents of a file. What its relative paths are relative to is `directory`."""
        if asked_by is not None and is_remote(path):
            message = f"cannot read {path}: stack files are not fetched from other machines"
            hint = "fetch it, and name the file on this machine"
            self.reporter.error(asked_by, "remote-file", message, help=hint)
            return []
        try:
            text = (self.request.stdin or "") if path == "-" else self.reader.read_text(path)
        except PystackError as error:
            if asked_by is None:
                raise
            self.reporter.error(asked_by, "missing-file", error.message)
            return []
        if path in self.sources:
            self.again += len(text)
            if self.again > _MAX_AGAIN:
                node = asked_by or Sequence([], self.sources[path], 0, 0)
                message = f"cannot read the same files again and again: more than {_MAX_AGAIN:,} characters"
                self.reporter.error(node, "too-large", message)
                self.reporter.findings.raise_errors()
        display = "<stdin>" if path == "-" else display_name(path, self.request.working_dir)
        source = Source(path, display, text, directory)
        self.sources.setdefault(path, source)
        return yamldoc.parse(source, self.reporter)

    def merged(self, documents: list[Node], variables: Map[str, str], trail: tuple[str, ...]) -> Node | None:
        """The documents prepared and laid over each other in order; None when there is none."""
        out: Node | None = None
        for raw in documents:
            _limit_services(raw, self.reporter)
            document = self._prepared(raw, variables)
            if not isinstance(document, Mapping):
                self.reporter.error(document, "wrong-type", "a stack file must be a mapping with `services`")
                continue
            base = self._include(document, variables, trail)
            document = extend(document, self._load_extended(variables), self.reporter)
            for below in base:
                out = below if out is None else merge(out, below, self.reporter)
            if out is not None:
                out = merge(out, document, self.reporter)
            else:  # the walk over all of it is saved where no file has a tag
                tagged = any(source.tagged for source in self.sources.values())
                out = untagged(document) if tagged else document
        return out

    def _prepared(self, raw: Node, variables: Map[str, str]) -> Node:
        document = interpolate(raw, variables.get, self.reporter) if self.view.interpolate else raw
        document = canonical(document, self.reporter)
        home = self.request.environment.get("HOME", "")
        return absolute(document, home, all_paths=self.view.paths)

    def _load_extended(self, variables: Map[str, str]) -> _Extended:
        return _Extended(self, variables)

    def _include(self, document: Mapping, variables: Map[str, str], trail: tuple[str, ...]) -> list[Node]:
        """The documents that `include` names, each prepared with its own directory and variables."""
        node = document.items.get("include")
        if not isinstance(node, Sequence):
            if node is not None and not (isinstance(node, Scalar) and node.value is None):
                self.reporter.error(node, "wrong-type", "include must be a list", path=("include",))
            return []
        out: list[Node] = []
        for index, item in enumerate(node.items):
            if self.reporter.full:
                break
            if not isinstance(item, Mapping):
                self.reporter.error(item, "wrong-type", f"include[{index}] must be a path or a mapping")
                continue
            for key in item.items:
                if key not in ("path", "env_file", "project_directory"):
                    hint = did_you_mean(key, ("path", "env_file", "project_directory"))
                    message = f"unknown key `{key}` in include[{index}]"
                    self.reporter.error(item.keys[key], "unknown-key", message, help=hint)
            found = self._included(item, variables, trail)
            if found is not None:
                out.append(found)
        return out

    def _included(self, item: Mapping, variables: Map[str, str], trail: tuple[str, ...]) -> Node | None:
        paths = _texts(item.items.get("path"))
        if not paths:
            self.reporter.error(item, "missing-key", "include needs `path`")
            return None
        self.included += len(paths)
        if self.included > _MAX_INCLUDES:
            self.reporter.error(item, "too-many-includes", f"cannot include more than {_MAX_INCLUDES} files")
            self.reporter.findings.raise_errors()
        for path in paths:
            if path in trail or path == item.source.path:
                circle = " -> ".join(display_name(p, self.request.working_dir) for p in (*trail, path))
                self.reporter.error(item, "include-cycle", f"files include each other in a circle: {circle}")
                return None
        directory = next(iter(_texts(item.items.get("project_directory"))), os.path.dirname(paths[0]))
        env_files = _texts(item.items.get("env_file"))
        if not env_files and self.reader.exists(own := os.path.join(directory, ".env")):
            env_files = [own]
        try:
            given = read_variables(env_files, variables, self.reader, self.reporter, self.request.working_dir)
        except PystackError as error:
            self.reporter.error(item, "missing-file", error.message, help=error.hint or "")
            return None
        documents = [d for path in paths for d in self.parse(path, directory, item)]
        merged = self.merged(documents, {**given, **variables}, (*trail, item.source.path, *paths))
        if isinstance(merged, Mapping):
            kept = {
                key: value for key, value in merged.items.items() if key not in ("name", "version", "include")
            }
            return with_items(merged, kept)
        return merged

    def extended_file(self, path: str, asked_by: Node, variables: Map[str, str]) -> Node | None:
        """The documents of a file that `extends` names, merged, with the file's own directory."""
        if path not in self.extended:
            documents = self.parse(path, os.path.dirname(path), asked_by)
            out: Node | None = None
            for raw in documents:
                document = self._prepared(raw, variables)
                out = document if out is None else merge(out, document, self.reporter)
            self.extended[path] = out
        return self.extended[path]


@dataclass(frozen=True, slots=True)
class _Extended:
    documents: _Documents
    variables: Map[str, str]

    def __call__(self, path: str, asked_by: Node) -> Node | None:
        return self.documents.extended_file(path, asked_by, self.variables)


def _texts(node: Node | None) -> list[str]:
    items = node.items if isinstance(node, Sequence) else [node] if isinstance(node, Scalar) else []
    return [i.value for i in items if isinstance(i, Scalar) and isinstance(i.value, str)]
