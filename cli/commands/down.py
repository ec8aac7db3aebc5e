"""`pystack down`: remove the stack's containers and networks, and with -v its volumes."""

from __future__ import annotations

from typing import Any

from pystack.cli.instance import connect
from pystack.cli.output import note
from pystack.cli.stack import envelope, watch


def run(options: Any) -> int:
    client = connect()
    body = envelope(
        options, volumes=options.volumes, remove_orphans=options.remove_orphans, timeout=options.timeout
    )
    done = watch(client, "down", body, options)
    changed = done.get("changed", 0)
    note(
        f"stack is down ({done['seconds']:.2f} s)"
        if changed
        else "stack is down: there was nothing to remove"
    )
    return 0
