"""`pystack run`: a one-off container with a service's configuration; ends with its status."""

from __future__ import annotations

import json
import sys
from typing import Any

from pystack.cli.client import API, ApiError, Client, encode
from pystack.cli.instance import connect
from pystack.cli.stack import source


def run(options: Any) -> int:
    client = connect()
    tty = not options.no_tty and not options.detach and sys.stdin.isatty() and sys.stdout.isatty()
    chosen = {
        "command": options.command or None,
        "env": options.env,
        "user": options.user,
        "workdir": options.workdir,
        "entrypoint": options.entrypoint,
        "volumes": options.volumes,
        "publish": options.publish,
        "name": options.name,
        "no_deps": options.no_deps,
        "rm": options.rm,
        "tty": tty,
        "stdin": not options.detach,
    }
    body = {
        "source": source(options),
        "service": options.service,
        "options": {name: value for name, value in chosen.items() if value is not None},
    }
    container = client.post("/stacks/run", body)["id"]
    if options.detach:
        client.post(f"/containers/{container}/start")
        print(container)
        return 0
    return _foreground(client, container, tty=tty, remove=options.rm)


def _foreground(client: Client, container: str, *, tty: bool, remove: bool) -> int:
    from pystack.cli.terminal import attached

    condition = "removed" if remove else "next-exit"
    waiting = client.request("POST", f"{API}/containers/{container}/wait" + encode({"condition": condition}))
    try:
        attached(
            client,
            f"{API}/containers/{container}/attach"
            + encode({"stream": True, "stdin": True, "stdout": True, "stderr": True}),
            None,
            stdin=True,
            tty=tty,
            resize=f"/containers/{container}/resize",
            started=lambda: client.post(f"/containers/{container}/start"),
        )
        answer = json.loads(waiting.read())
    except ApiError:
        if remove:
            client.delete(f"/containers/{container}", {"force": True, "v": True})
        raise
    finally:
        waiting.close()
    return int(answer["StatusCode"])
