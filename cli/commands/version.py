"""`pystack version`: the client's, and the engine's when its daemon runs (none is started for it)."""

from __future__ import annotations

import json
from typing import Any

from pystack import __version__
from pystack.cli.client import EngineUnreachable
from pystack.cli.instance import connect


def run(options: Any) -> int:
    if options.short:
        print(__version__)
        return 0
    try:
        server = connect(start=False).get("/version")
    except EngineUnreachable:
        server = None
    if options.format == "json":
        print(json.dumps({"version": __version__, "engine": server}))
        return 0
    print(f"pystack {__version__}")
    if server:
        print(
            f"engine {server.get('PystackVersion') or server['Version']} (Docker API {server['MinAPIVersion']} to {server['ApiVersion']}, kernel {server['KernelVersion']})"
        )
    else:
        print("engine: not running")
    return 0
