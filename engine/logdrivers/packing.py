"""msgpack, for fluentd's forward protocol: loaded by the first container that logs there."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def msgpack() -> Any:
    """The library; its own types are incomplete."""
    return import_module("msgpack")
