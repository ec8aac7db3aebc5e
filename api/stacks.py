"""The /stacks routes: what the `pystack` command asks for. JSON goes in; JSON, or a stream of JSON lines, comes out.

Every body is the same envelope: where the stack file is (`source`), which services are meant, and options. The file is
loaded here, with the rights of whoever asks. Errors carry `message`, `hint` and, for a stack file, `diagnostics`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from pydantic import Field

from pystack.api import jsons
from pystack.api.callers import caller_of, with_rights_of
from pystack.api.errors import incident, json_response
from pystack.api.jsons import Wire
from pystack.api.streams import open_stream, until_client_leaves
from pystack.model.desired import Stack
from pystack.model.errors import InvalidInput, NotFound, PystackError
from pystack.model.plan import Plan, PlanOptions
from pystack.reconciler import progress
from pystack.reconciler.oneoff import one_off
from pystack.reconciler.progress import Progress
from pystack.reconciler.stacks import StackService

if TYPE_CHECKING:  # 100 ms of schemas that the daemon's start need not wait for
    from pystack.stackfile.cache import LoadCache
    from pystack.stackfile.diagnostics import Diagnostic
    from pystack.stackfile.interpolate import Mention
    from pystack.stackfile.project import LoadRequest

NDJSON = "application/x-ndjson"
STACKS: web.AppKey[StackService] = web.AppKey("stacks")


class Source(Wire):
    files: list[str] = Field(default_factory=list)
    stdin: str | None = None
    working_dir: str = "/"
    project_directory: str | None = None
    project_name: str | None = None
    profiles: list[str] = Field(default_factory=list)
    env_files: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)


class Options(Wire):
    """Of up, down, stop, start, restart and plan; a verb takes those that it knows."""

    wait: bool = False
    wait_timeout: float | None = None
    force_recreate: bool = False
    no_recreate: bool = False
    always_recreate_deps: bool = False
    no_deps: bool = False
    renew_anon_volumes: bool = False
    remove_orphans: bool = False
    volumes: bool = False
    timeout: int | None = None
    scale: dict[str, int] = Field(default_factory=dict)

    def planning(self, known: tuple[str, ...] | None) -> PlanOptions:
        if self.force_recreate and self.no_recreate:
            raise InvalidInput("cannot combine --force-recreate and --no-recreate")
        if any(replicas < 0 for replicas in self.scale.values()):
            raise InvalidInput("cannot scale to fewer than 0 replicas")
        return PlanOptions(**self.model_dump(), known=known)


class Envelope(Wire):
    source: Source = Field(default_factory=Source)
    services: list[str] = Field(default_factory=list)
    options: Options = Field(default_factory=Options)


class ViewOptions(Wire):
    """What `config` leaves out; see `stackfile.view.View`."""

    interpolate: bool = True
    paths: bool = True
    normalize: bool = True
    consistency: bool = True
    environment: bool = True


class ConfigEnvelope(Envelope):
    view: ViewOptions = Field(default_factory=ViewOptions)


class RunOptions(Wire):
    command: list[str] | None = None
    entrypoint: str | None = None
    env: list[str] = Field(default_factory=list)
    user: str | None = None
    workdir: str | None = None
    volumes: list[str] = Field(default_factory=list)
    publish: list[str] = Field(default_factory=list)
    name: str = ""
    rm: bool = False
    no_deps: bool = False
    tty: bool = False
    stdin: bool = False
    use_aliases: bool = False


class RunEnvelope(Wire):
    source: Source = Field(default_factory=Source)
    service: str
    options: RunOptions = Field(default_factory=RunOptions)


class PsEnvelope(Wire):
    source: Source = Field(default_factory=Source)
    name: str | None = None
    all: bool = False


class Loaded(Protocol):
    """A stack file after every step (`stackfile.load.Loaded`)."""

    @property
    def stack(self) -> Stack: ...
    @property
    def warnings(self) -> Sequence[Diagnostic]: ...
    @property
    def disabled(self) -> tuple[str, ...]: ...


class Outline(Protocol):
    """A stack file without what only running it needs (`stackfile.resolved.Resolved`)."""

    @property
    def name(self) -> str: ...
    @property
    def enabled(self) -> Any: ...
    @property
    def disabled(self) -> tuple[str, ...]: ...
    @property
    def warnings(self) -> Sequence[Diagnostic]: ...
    @property
    def profiles(self) -> Sequence[str]: ...
    @property
    def variables(self) -> Mapping[str, str]: ...
    @property
    def mentions(self) -> Sequence[Mention]: ...


class Loader(Protocol):
    """Reads stack files; called in a thread that has the rights of the caller that `identity` stands for."""

    def load(self, request: LoadRequest, identity: Hashable) -> Loaded: ...
    def outline(
        self, request: LoadRequest, identity: Hashable, view: ViewOptions | None = None
    ) -> Outline: ...
    def canonical(self, outline: Outline) -> dict[str, Any]: ...


class FileLoader:
    """The real one, over the host's files. What it has read once it reads again only when a file has changed."""

    def __init__(self) -> None:
        self._cache: LoadCache | None = None

    def _kept(self) -> LoadCache:
        from pystack.stackfile.cache import LoadCache

        self._cache = self._cache or LoadCache(8)
        return self._cache

    def load(self, request: LoadRequest, identity: Hashable) -> Loaded:
        from pystack.stackfile.source import HostReader

        return self._kept().load(request, HostReader(), identity)

    def outline(self, request: LoadRequest, identity: Hashable, view: ViewOptions | None = None) -> Outline:
        from pystack.stackfile.load import resolve
        from pystack.stackfile.source import HostReader

        if view is not None and view != ViewOptions():
            from pystack.stackfile.view import View

            return resolve(request, HostReader(), view=View(**view.model_dump()))
        kept = self._kept().find(request, HostReader(), identity)
        return kept.resolved if kept else resolve(request, HostReader())

    def canonical(self, outline: Outline) -> dict[str, Any]:
        from pystack.stackfile.canonical import to_canonical
        from pystack.stackfile.resolved import Resolved

        return to_canonical(cast("Resolved", outline))


LOADER: web.AppKey[Loader] = web.AppKey("loader")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(app: web.Application, stacks: StackService, loader: Loader | None = None) -> None:
    """Serve stacks below /stacks of an application that is not running yet."""
    app[STACKS] = stacks
    app[LOADER] = loader or FileLoader()
    app.router.add_get("/stacks", _told(_list))
    for name, handler in (
        ("config", _config),
        ("resolve", _resolve),
        ("plan", _plan),
        ("ps", _ps),
        ("run", _run),
        ("up", _up),
        ("down", _down),
        ("stop", _lifecycle("stop")),
        ("start", _lifecycle("start")),
        ("restart", _lifecycle("restart")),
    ):
        app.router.add_post(f"/stacks/{name}", _told(handler))


def _told(handler: Handler) -> Handler:
    """Errors before a reply has begun, with hint and diagnostics."""

    @wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except PystackError as error:
            return json_response(progress.error_body(error), status=error.status)

    return wrapped


# -- loading


def _request(source: Source, services: Sequence[str]) -> LoadRequest:
    from pystack.stackfile.project import LoadRequest

    return LoadRequest(
        files=tuple(source.files),
        stdin=source.stdin,
        working_dir=source.working_dir,
        project_directory=source.project_directory,
        project_name=source.project_name,
        profiles=tuple(source.profiles),
        env_files=tuple(source.env_files),
        environment=source.environment,
        services=tuple(services),
    )


async def _load(request: web.Request, source: Source, services: Sequence[str]) -> Loaded:
    loader, wanted, caller = request.app[LOADER], _request(source, services), caller_of(request)
    return await with_rights_of(caller, lambda: loader.load(wanted, caller))


async def _outline(
    request: web.Request, source: Source, services: Sequence[str], view: ViewOptions | None = None
) -> Outline:
    loader, wanted, caller = request.app[LOADER], _request(source, services), caller_of(request)
    return await with_rights_of(caller, lambda: loader.outline(wanted, caller, view))


async def _name_and_services(
    request: web.Request, source: Source, services: Sequence[str]
) -> tuple[str, tuple[str, ...] | None]:
    """The stack's name, and all services of its file; None when it is meant by name alone (`-p name`, no file)."""
    try:
        outline = await _outline(request, source, services)
    except NotFound:
        if source.project_name and not source.files:
            return source.project_name, None
        raise
    return outline.name, (*outline.enabled, *outline.disabled)


def _warning(diagnostic: Diagnostic) -> dict[str, Any]:
    """A warning as the stream tells it: its place is part of the message."""
    data = diagnostic.as_dict()
    if diagnostic.line:
        data["message"] = f"{diagnostic.file}:{diagnostic.line}:{diagnostic.column}: {diagnostic.message}"
    return data


# -- answers at once


async def _config(request: web.Request) -> web.Response:
    from pystack.stackfile.confighash import hashes

    body = await jsons.read_json(request, ConfigEnvelope)
    outline = await _outline(request, body.source, body.services, body.view)
    config = request.app[LOADER].canonical(outline)
    return json_response(
        {
            "name": outline.name,
            "config": config,
            "hashes": hashes(config) if body.view.interpolate else {},
            "profiles": outline.profiles,
            "environment": outline.variables,
            "variables": _mentioned(outline.mentions),
            "warnings": [_warning(item) for item in outline.warnings],
        }
    )


def _mentioned(mentions: Sequence[Mention]) -> dict[str, dict[str, Any]]:
    """Each variable with what the files say of it; a later mention completes an earlier one."""
    out: dict[str, dict[str, Any]] = {}
    for item in mentions:
        said = out.setdefault(
            item.name, {"Name": item.name, "DefaultValue": "", "PresenceValue": "", "Required": False}
        )
        said["DefaultValue"] = said["DefaultValue"] or item.default
        said["PresenceValue"] = said["PresenceValue"] or item.presence
        said["Required"] = said["Required"] or item.required
    return dict(sorted(out.items()))


async def _resolve(request: web.Request) -> web.Response:
    body = await jsons.read_json(request, Envelope)
    name, services = await _name_and_services(request, body.source, body.services)
    return json_response({"name": name, "services": sorted(services or ())})


def _operations(drawn: Plan) -> list[dict[str, Any]]:
    """The plan's steps without the specs, which hold secrets."""
    return [
        {
            "id": step.id,
            "needs": step.needs,
            "resource": step.operation.resource,
            "operation": step.operation.kind,
            "cause": step.operation.cause,
            "best_effort": step.operation.best_effort,
        }
        for step in drawn.steps
    ]


async def _plan(request: web.Request) -> web.Response:
    body = await jsons.read_json(request, Envelope)
    loaded = await _load(request, body.source, body.services)
    options = body.options.planning(loaded.disabled)
    drawn = await request.app[STACKS].plan(loaded.stack, options, targets=tuple(body.services))
    return json_response(
        {
            "name": loaded.stack.name,
            "text": drawn.render(),
            "operations": _operations(drawn),
            "changes": drawn.changes,
            "warnings": [*map(_warning, loaded.warnings), *({"message": text} for text in drawn.warnings)],
        }
    )


async def _list(request: web.Request) -> web.Response:
    return json_response(await request.app[STACKS].list())


async def _ps(request: web.Request) -> web.Response:
    body = await jsons.read_json(request, PsEnvelope)
    name = body.name or (await _name_and_services(request, body.source, ()))[0]
    return json_response(await request.app[STACKS].ps(name, all=body.all))


async def _run(request: web.Request) -> web.Response:
    body = await jsons.read_json(request, RunEnvelope)
    loaded = await _load(request, body.source, [body.service])
    chosen = one_off(
        **body.options.model_dump(exclude={"no_deps"}),
        environment=body.source.environment,
        directory=body.source.working_dir,
    )
    options = PlanOptions(no_deps=body.options.no_deps)
    container = await request.app[STACKS].run(loaded.stack, body.service, chosen, options)
    return json_response({"id": container})


# -- streams


async def _stream(
    request: web.Request, events: AsyncIterator[Progress], warnings: Sequence[Diagnostic] = ()
) -> web.StreamResponse:
    """One JSON object a line, each sent at once. A client that leaves ends the work."""
    response = await open_stream(request, NDJSON)
    with until_client_leaves(request):
        for item in warnings:
            await response.write(_line({"type": "warning", **_warning(item)}))
        async with aclosing(cast("Any", events)):
            try:
                async for event in events:
                    await response.write(_line(event.as_dict()))
            except ConnectionError:
                raise
            except Exception as error:
                message = incident(error, f"{request.method} {request.path}")
                await response.write(
                    _line({"type": "error", "message": message, "hint": None, "diagnostics": []})
                )
    await response.write_eof()
    return response


def _line(document: dict[str, Any]) -> bytes:
    return jsons.dumps(document) + b"\n"


async def _up(request: web.Request) -> web.StreamResponse:
    body = await jsons.read_json(request, Envelope)
    loaded = await _load(request, body.source, body.services)
    options = body.options.planning(loaded.disabled)
    events = request.app[STACKS].up(loaded.stack, options, targets=tuple(body.services))
    return await _stream(request, events, loaded.warnings)


async def _down(request: web.Request) -> web.StreamResponse:
    body = await jsons.read_json(request, Envelope)
    name, services = await _name_and_services(request, body.source, body.services)
    options = body.options.planning(services)
    return await _stream(request, request.app[STACKS].down(name, options, targets=tuple(body.services)))


def _lifecycle(verb: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = await jsons.read_json(request, Envelope)
        name, _ = await _name_and_services(request, body.source, body.services)
        act = getattr(request.app[STACKS], verb)
        return await _stream(request, act(name, body.options.planning(None), targets=tuple(body.services)))

    return handler
