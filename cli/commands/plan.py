"""`pystack plan`: what `up` would do and why; changes nothing."""

from __future__ import annotations

import json
from typing import Any

from pystack.cli.instance import connect
from pystack.cli.output import note, printable
from pystack.cli.stack import envelope


def run(options: Any) -> int:
    body = envelope(options, remove_orphans=options.remove_orphans, force_recreate=options.force_recreate)
    answer = connect().post("/stacks/plan", body)
    for warning in answer.get("warnings") or []:
        note(f"warning: {printable(warning['message'] if isinstance(warning, dict) else warning)}")
    changes = answer["changes"]
    if options.format == "json":
        print(json.dumps({"changes": changes, "operations": answer["operations"]}, indent=2))
    elif changes:
        print(answer["text"])
        note(f"{changes} change{'s' if changes != 1 else ''}; nothing was touched")
    else:
        print("No changes: the stack is as its file says.")
    return 2 if options.detailed_exitcode and changes else 0
