"""What a command tells the daemon about the stack it means, and the streams of /stacks that it watches."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pystack.cli import progress
from pystack.cli.client import ApiError, Client
from pystack.cli.output import fail, note, printable

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
ONEOFF = "com.docker.compose.oneoff"


def source(options: Any) -> dict[str, Any]:
    """The envelope's `source`: which files, and the caller's directory and environment to read them with."""
    files = list(options.files)
    return {
        "files": [name if name == "-" else os.path.abspath(name) for name in files],
        "stdin": sys.stdin.read() if "-" in files else None,
        "working_dir": os.getcwd(),
        "project_directory": options.project_directory and os.path.abspath(options.project_directory),
        "project_name": options.project_name,
        "profiles": list(options.profiles),
        "env_files": [os.path.abspath(name) for name in options.env_files],
        "environment": dict(os.environ),
    }


def envelope(options: Any, **extra: Any) -> dict[str, Any]:
    return {
        "source": source(options),
        "services": list(getattr(options, "services", [])),
        "options": {name: value for name, value in extra.items() if value is not None},
    }


def resolve(client: Client, options: Any) -> tuple[str, list[str]]:
    """The stack's name and its services."""
    answer = client.post("/stacks/resolve", {"source": source(options), "services": [], "options": {}})
    return answer["name"], answer["services"]


def containers(
    client: Client, project: str, *, all: bool = True, oneoff: bool = False
) -> list[dict[str, Any]]:
    """The stack's containers as Docker's list shows them, by service and number."""
    labels = [f"{PROJECT}={project}"] + ([] if oneoff else [f"{ONEOFF}=False"])
    found: list[dict[str, Any]] = client.get("/containers/json", {"all": all, "filters": {"label": labels}})
    return sorted(
        found, key=lambda item: (item["Labels"].get(SERVICE, ""), int(item["Labels"].get(NUMBER) or 0))
    )


def container_of(client: Client, project: str, service: str, index: int) -> dict[str, Any]:
    """The running container of one replica; ends the command when there is none."""
    of_service = [item for item in containers(client, project) if item["Labels"].get(SERVICE) == service]
    for item in of_service:
        if item["Labels"].get(NUMBER) == str(index):
            if item["State"] != "running":
                fail(
                    f"container {item['Names'][0][1:]} is {item['State']}, not running",
                    hint=f"pystack up -d {service}",
                )
            return item
    if of_service:
        fail(f"service {service!r} has no replica {index}", hint=f"it has {len(of_service)}")
    fail(f"service {service!r} has no container in stack {project!r}", hint=f"pystack up -d {service}")


def watch(client: Client, verb: str, body: dict[str, Any], options: Any) -> dict[str, Any]:
    """Post to /stacks/<verb>, show its progress, and return the `done` object. Ends the command when it failed."""
    began = time.monotonic()
    display = progress.make(
        options.progress or os.environ.get("COMPOSE_PROGRESS") or "auto", verb, ansi=options.ansi
    )
    problem: dict[str, Any] | None = None
    response = client.request("POST", f"/v1.50/stacks/{verb}", body)
    try:
        for event in response.lines():
            kind = event["type"]
            if kind == "progress":
                display.show(event)
            elif kind == "warning":
                note(f"warning: {printable(event['message'])}")
            elif kind == "error":
                problem = event
            elif kind == "done":
                display.finish()
                return _done(event, problem, time.monotonic() - began)
    finally:
        response.close()
    display.finish()
    fail("the engine went away before it had finished", hint="run the command again: it goes on from there")


def _done(event: dict[str, Any], problem: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    if problem is not None or not event.get("ok", True):
        problem = problem or {"message": "some operations failed"}
        raise ApiError(500, problem["message"], problem.get("hint") or "", problem.get("diagnostics"))
    event.setdefault("seconds", seconds)
    return event
