"""`pystack daemon`: run the engine's daemon here, in the foreground; or stop, or describe, the one that runs."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from pystack.cli.client import Client, EngineUnreachable
from pystack.cli.instance import LOST_RACE, is_locked, locations
from pystack.cli.output import fail, note

#: Seconds within which a daemon that was told to stop must be gone.
STOP_LIMIT = 30.0


#: Flags that are keys of the configuration file, too.
_FLAGS = ("hosts", "group", "tlsverify", "tlscacert", "tlscert", "tlskey", "debug")


def run(options: Any) -> int:
    root, run_dir, host = locations()
    if options.stop:
        return _stop(Client(host), f"{run_dir}/daemon.pid")
    if options.status:
        return _status(Client(host))
    if os.geteuid() != 0:
        fail("cannot run the engine without root", hint="sudo pystack daemon")
    from pystack.api.daemon import run_daemon
    from pystack.model.errors import Conflict, PystackError
    from pystack.model.names import Instance

    client = Client(host)
    instance = Instance(root=root, run=run_dir, socket=client.path)
    flags = {name: getattr(options, name) for name in _FLAGS if getattr(options, name) is not None}
    try:
        if options.validate:
            _validate(instance, flags, options.config_file or "")
        else:
            run_daemon(instance, flags, file=options.config_file or "")
    except PystackError as error:
        status = LOST_RACE if isinstance(error, Conflict) else 1
        fail(error.message, hint=error.hint or "", status=status)
    return 0


def _validate(instance: Any, flags: dict[str, Any], file: str) -> None:
    from pystack.api import configuration

    path = file or configuration.file_of(instance)
    configuration.load(path, flags)
    print(f"configuration OK{f': {path}' if path else ''}")


def _stop(client: Client, lock: str) -> int:
    try:
        pid = client.get("/daemon")["pid"]
        client.post("/daemon/stop")
    except EngineUnreachable:
        note("no daemon runs")
        return 0
    deadline = time.monotonic() + STOP_LIMIT
    while time.monotonic() < deadline:
        try:
            client.connect().close()
        except EngineUnreachable:
            if not is_locked(lock):
                note("the daemon has stopped; containers go on")
                return 0
        time.sleep(0.01)
    fail(f"the daemon (pid {pid}) has not stopped within {STOP_LIMIT:.0f} s")


def _status(client: Client) -> int:
    try:
        print(json.dumps(client.get("/daemon"), indent=2))
    except EngineUnreachable as error:
        fail(str(error))
    return 0
