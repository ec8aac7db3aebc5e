"""The documents table in memory: what `engine.store` keeps in SQLite, for tests of image, network and volume."""

from __future__ import annotations

from collections.abc import Mapping


class MemoryDocuments:
    """Keeps to `pystack.model.documents.Documents`. `writes` counts what was made durable."""

    def __init__(self, content: Mapping[str, str] | None = None) -> None:
        self.content: dict[str, str] = dict(content or {})
        self.writes = 0

    def all(self) -> Mapping[str, str]:
        return self.content

    def get(self, key: str) -> str | None:
        return self.content.get(key)

    async def put(self, key: str, text: str) -> None:
        self.content[key] = text
        self.writes += 1

    async def delete(self, key: str) -> None:
        self.content.pop(key, None)
        self.writes += 1
