"""`pystack exec`: a command in a running container of a service; ends with the command's status."""

from __future__ import annotations

import sys
import time
from typing import Any

from pystack.cli.client import API, Client
from pystack.cli.instance import connect
from pystack.cli.output import fail
from pystack.cli.stack import container_of, resolve


def run(options: Any) -> int:
    if not options.command:
        fail("which command is to run?", hint=f"pystack exec {options.service} sh")
    client = connect()
    project, _ = resolve(client, options)
    container = container_of(client, project, options.service, options.index)
    tty = not options.no_tty and not options.detach and sys.stdin.isatty() and sys.stdout.isatty()
    attach = not options.detach
    from pystack.cli.terminal import attached, window_size

    created = client.post(
        f"/containers/{container['Id']}/exec",
        {
            "Cmd": options.command,
            "Env": options.env or [],
            "User": options.user or "",
            "WorkingDir": options.workdir or "",
            "Privileged": options.privileged,
            "Tty": tty,
            "ConsoleSize": window_size() if tty else None,
            "AttachStdin": attach,
            "AttachStdout": attach,
            "AttachStderr": attach,
        },
    )
    start = f"{API}/exec/{created['Id']}/start"
    if options.detach:
        client.request("POST", start, {"Detach": True, "Tty": False}).close()
        return 0
    resize = f"/exec/{created['Id']}/resize"
    attached(
        client, start, {"Detach": False, "Tty": tty}, stdin=True, tty=tty, resize=resize, started=lambda: None
    )
    return _exit_code(client, created["Id"])


def _exit_code(client: Client, exec_id: str) -> int:
    """The command's status. One that still runs after its output has ended is about to end, or the user has detached: 0."""
    for _ in range(20):
        state = client.get(f"/exec/{exec_id}/json")
        if not state["Running"]:
            return int(state["ExitCode"])
        time.sleep(0.05)
    return 0
