"""Operations of which only one may run at a time: who comes second is told so instead of waiting."""

from __future__ import annotations

from pystack.model.errors import Conflict


class OneAtATime:
    """A context manager; Conflict, in Docker's words, while it is entered already. For one event loop."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running = False

    def __enter__(self) -> None:
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True

    def __exit__(self, *_: object) -> None:
        self._running = False
