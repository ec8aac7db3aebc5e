"""`pystack config`: check a stack file and print it merged, interpolated and resolved."""

from __future__ import annotations

import json
import sys
from typing import Any

from pystack.cli.instance import connect
from pystack.cli.output import fail, note, printable
from pystack.cli.stack import envelope


def _text(config: dict[str, Any], options: Any) -> str:
    services = config.get("services") or {}
    if options.list_services:
        return "\n".join(services)
    if options.list_volumes:
        return "\n".join(config.get("volumes") or {})
    if options.list_networks:
        return "\n".join(config.get("networks") or {})
    if options.list_images:
        return "\n".join(service["image"] for service in services.values() if service.get("image"))
    if options.format == "json":
        return json.dumps(config, indent=2, ensure_ascii=False)
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    out = StringIO()
    yaml.dump(config, out)
    return out.getvalue().rstrip("\n")


def run(options: Any) -> int:
    answer = connect().post("/stacks/config", envelope(options))
    for warning in answer.get("warnings") or []:
        note(f"warning: {printable(warning['message'] if isinstance(warning, dict) else warning)}")
    if options.quiet:
        return 0
    text = _text(answer["config"], options)
    if not options.output:
        if text:
            sys.stdout.write(text + "\n")
        return 0
    try:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        fail(f"cannot write {options.output}: {error.strerror}")
    return 0
