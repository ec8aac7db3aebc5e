"""Where a stack is: its files, its directory, its variables, its name and its profiles.

In: a `LoadRequest` (what the command line was given) and a `Reader`. Out: absolute files, the project directory and the
interpolation environment. Rules: docker compose's, `cmd/compose/compose.go` and compose-go `cli/options.go`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pystack.model.errors import InvalidInput, NotFound, PystackError
from pystack.stackfile import dotenv
from pystack.stackfile.document import Reporter, Source
from pystack.stackfile.resolve import display_name
from pystack.stackfile.source import Reader

FILE_NAMES = (
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "stack.yml",
    "stack.yaml",
)
MAX_VARIABLES = 100_000  # that env files may give for interpolation
_TRUE = ("1", "true", "yes", "y", "on", "t")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What to load. Relative paths are relative to `working_dir`; "-" among the files is standard input.

    `environment` is the caller's. `services` are explicit targets, which enable themselves whatever their profiles.
    """

    files: tuple[str, ...] = ()
    stdin: str | None = None
    working_dir: str
    project_directory: str | None = None
    project_name: str | None = None
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A request with everything found: absolute files ("-" stays), directory, variables and profiles."""

    files: tuple[str, ...]
    directory: str
    variables: Mapping[str, str]
    profiles: tuple[str, ...]


def find_files(working_dir: str, reader: Reader) -> tuple[str, ...]:
    """The stack file of a directory or of its nearest parent that has one, with its override twin. NotFound if none."""
    directory = working_dir
    while True:
        for name in FILE_NAMES:
            path = os.path.join(directory, name)
            if reader.exists(path) and not reader.is_dir(path):
                return (path, *_override(path, reader))
        parent = os.path.dirname(directory)
        if parent == directory:
            names = ", ".join(FILE_NAMES)
            message = f"cannot find a stack file in {working_dir} or any directory above it"
            raise NotFound(message, hint=f"name one with -f, or create one of {names}")
        directory = parent


def _override(path: str, reader: Reader) -> tuple[str, ...]:
    stem = path.rpartition(".")[0]
    for extension in ("yaml", "yml"):
        if reader.exists(twin := f"{stem}.override.{extension}"):
            return (twin,)
    return ()


def find_project(request: LoadRequest, reader: Reader, reporter: Reporter) -> Project:
    """Finds what the request leaves open. Variables come from the environment, then from `.env`."""
    named = tuple(n if n == "-" else _absolute(request.working_dir, n) for n in request.files)
    first = _directory(request, named)
    settings = dict(request.environment)
    for name, value in _variables(
        _dotenv_files(request, reader, first, settings), request, reader, reporter
    ).items():
        settings.setdefault(name, value)
    files = named or _files(request, reader, settings)
    directory = _directory(request, files)
    variables = dict(settings)
    if directory != first:  # found above the working directory, or by COMPOSE_FILE
        found = _dotenv_files(request, reader, directory, settings)
        variables = {**_variables(found, request, reader, reporter), **settings}
    variables.setdefault("PWD", request.working_dir)
    profiles = request.profiles or tuple(
        p.strip() for p in variables.get("COMPOSE_PROFILES", "").split(",") if p.strip()
    )
    return Project(files=files, directory=directory, variables=variables, profiles=profiles)


def _files(request: LoadRequest, reader: Reader, settings: Mapping[str, str]) -> tuple[str, ...]:
    """The files that COMPOSE_FILE names, else those that are found."""
    if listed := settings.get("COMPOSE_FILE"):
        separator = settings.get("COMPOSE_PATH_SEPARATOR") or ":"
        names = [part for part in listed.split(separator) if part]
        return tuple(n if n == "-" else _absolute(request.working_dir, n) for n in names)
    base = os.path.join(request.working_dir, request.project_directory or "")
    return find_files(os.path.normpath(base), reader)


def _directory(request: LoadRequest, files: tuple[str, ...]) -> str:
    if request.project_directory:
        return _absolute(request.working_dir, request.project_directory)
    first = files[0] if files else "-"
    return request.working_dir if first == "-" else os.path.dirname(first)


def _absolute(directory: str, path: str) -> str:
    return os.path.normpath(os.path.join(directory, path))


def _dotenv_files(
    request: LoadRequest, reader: Reader, directory: str, settings: Mapping[str, str]
) -> list[str]:
    """The files that give variables: the named ones, else the directory's `.env` when there is one."""
    if settings.get("COMPOSE_DISABLE_ENV_FILE", "").lower() in _TRUE:
        return []
    named = request.env_files or tuple(p for p in settings.get("COMPOSE_ENV_FILES", "").split(",") if p)
    if named:
        return [_absolute(request.working_dir, path) for path in named]
    own = os.path.join(directory, ".env")
    return [own] if reader.exists(own) and not reader.is_dir(own) else []


def _variables(paths: list[str], request: LoadRequest, reader: Reader, reporter: Reporter) -> dict[str, str]:
    return read_variables(paths, request.environment, reader, reporter, request.working_dir)


def read_variables(
    paths: list[str], environment: Mapping[str, str], reader: Reader, reporter: Reporter, working_dir: str
) -> dict[str, str]:
    """The variables of the files; a later file wins. Raises the reader's error for a file that cannot be read."""
    out: dict[str, str] = {}
    for path in paths:
        if reporter.variables > MAX_VARIABLES:
            raise InvalidInput(f"cannot read more than {MAX_VARIABLES:,} variables from files")
        try:
            text = reader.read_text(path)
        except NotFound as error:
            raise NotFound(
                f"cannot find env file {path}", hint="check --env-file and COMPOSE_ENV_FILES"
            ) from error
        except PystackError as error:
            raise InvalidInput(error.message, hint=error.hint) from error
        source = Source(path, display_name(path, working_dir), text, os.path.dirname(path))

        def lookup(name: str) -> str | None:
            return environment.get(name, out.get(name))

        found = dotenv.parse(source, lookup, reporter)
        reporter.variables += len(found)
        given = {name: value for name, value in found.items() if value is not None}
        out.update(given)
        for name in given:
            reporter.origins[name] = "the environment" if name in environment else source.display
    return out


def project_name(request: LoadRequest, project: Project, from_file: str | None) -> str:
    """-p, then COMPOSE_PROJECT_NAME, then the file's `name`, then the directory's. InvalidInput when none can be used."""
    for given, origin in (
        (request.project_name, "-p"),
        (project.variables.get("COMPOSE_PROJECT_NAME"), "COMPOSE_PROJECT_NAME"),
    ):
        if given:
            if normal_name(given) != given:
                raise InvalidInput(
                    f"cannot use `{given}` as a project name ({origin})",
                    hint=f"use lowercase letters, digits, `-` and `_`: {normal_name(given) or 'my-stack'}",
                )
            return given
    for candidate in (from_file or "", os.path.basename(project.directory)):
        if name := normal_name(candidate):
            return name
    raise InvalidInput(
        f"cannot make a project name of the directory {project.directory}",
        hint="give one with -p or with `name:`",
    )


def normal_name(text: str) -> str:
    """Lowercase, only a-z 0-9 _ -, no leading _ or -."""
    return re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")
