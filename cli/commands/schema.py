"""`pystack schema`: the JSON Schema of a stack file, for editors."""

from __future__ import annotations

import json
import sys
from typing import Any


def run(_options: Any) -> int:
    from pystack.stackfile.jsonschema import schema

    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
    return 0
