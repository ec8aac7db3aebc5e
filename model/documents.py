"""The durable map that image, network and volume keep their records in; `engine.store` implements it over SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Documents(Protocol):
    """One table of JSON texts by key. Reads are from memory; a write returns once it is on disk (group commit)."""

    def all(self) -> Mapping[str, str]: ...
    def get(self, key: str) -> str | None: ...
    async def put(self, key: str, text: str) -> None: ...
    async def delete(self, key: str) -> None: ...
