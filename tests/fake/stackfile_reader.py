"""A stack file reader whose files are in a dictionary."""

from __future__ import annotations

from pystack.model.errors import NotFound


class MemoryReader:
    """Files in a dictionary."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def read_text(self, path: str) -> str:
        if path not in self.files:
            raise NotFound(f"cannot find {path}")
        return self.files[path]

    def read_bytes(self, path: str, limit: int) -> bytes:
        return self.read_text(path).encode()[:limit]

    def exists(self, path: str) -> bool:
        return path in self.files

    def is_dir(self, path: str) -> bool:
        return False

    def realpath(self, path: str) -> str:
        return path

    def fingerprint(self, path: str) -> tuple[int, ...]:
        return (hash(self.files.get(path)),)
