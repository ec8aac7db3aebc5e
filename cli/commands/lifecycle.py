"""`pystack start`, `stop` and `restart`: the existing containers of a stack or of some of its services."""

from __future__ import annotations

from typing import Any

from pystack.cli.instance import connect
from pystack.cli.stack import envelope, watch


def run(options: Any) -> int:
    watch(connect(), options.verb, envelope(options, timeout=options.timeout), options)
    return 0
