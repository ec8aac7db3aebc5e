"""`pystack up`: bring the stack to what its file says; then, unless detached, show its logs until it stops."""

from __future__ import annotations

import time
from typing import Any

from pystack.cli.instance import connect
from pystack.cli.output import fail, note
from pystack.cli.stack import containers, envelope, resolve, watch


def _scale(items: list[str] | None) -> dict[str, int]:
    scale = {}
    for item in items or []:
        service, equals, number = item.partition("=")
        if not (service and equals and number.isdecimal()):
            fail(f"cannot use --scale {item!r}", hint="write SERVICE=NUMBER, as in --scale web=3")
        scale[service] = int(number)
    return scale


def run(options: Any) -> int:
    if options.dry_run:
        from pystack.cli.commands import plan

        options.format, options.detailed_exitcode = "text", False
        return plan.run(options)
    client = connect()
    body = envelope(
        options,
        wait=options.wait,
        wait_timeout=options.wait_timeout,
        force_recreate=options.force_recreate,
        no_recreate=options.no_recreate,
        no_deps=options.no_deps,
        always_recreate_deps=options.always_recreate_deps,
        renew_anon_volumes=options.renew_anon_volumes,
        remove_orphans=options.remove_orphans,
        timeout=options.timeout,
        scale=_scale(options.scale),
    )
    since = time.time()
    done = watch(client, "up", body, options)
    name = done.get("name") or resolve(client, options)[0]
    changed = done.get("changed", 0)
    took = f"{done['seconds']:.2f} s"
    note(
        f"stack {name} is up: {changed} change{'s' if changed != 1 else ''} in {took}"
        if changed
        else f"stack {name} is up: nothing to change ({took})"
    )
    if options.detach or options.wait:
        return 0
    from pystack.cli.commands.logs import Printer, follow_all

    chosen = [
        item
        for item in containers(client, name)
        if not options.services or _service(item) in options.services
    ]
    printer = Printer(colour=not options.no_color, ansi=options.ansi, prefix=not options.no_log_prefix)
    try:
        follow_all(client, chosen, printer, {"since": f"{since:.9f}"}, until_exit=True)
    except KeyboardInterrupt:
        note("stopping … (Ctrl-C again to leave them running)")
        options.services = []
        watch(client, "stop", envelope(options, timeout=options.timeout), options)
        return 130
    return 0


def _service(item: dict[str, Any]) -> str:
    from pystack.cli.stack import SERVICE

    return str(item["Labels"].get(SERVICE, ""))
