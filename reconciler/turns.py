"""One worker per stack: operations on a stack run one at a time, each as a task of its own that streams what it does.

In comes work for a stack, out goes its stream of progress. When the reader of the stream leaves, the work is cancelled.
Removal does not wait behind an operation that brings the stack up: it interrupts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from pystack.model.errors import PystackError
from pystack.reconciler import progress
from pystack.reconciler.progress import Progress

Report = Callable[[Progress], None]
Work = Callable[[Report], Awaitable[None]]

_INTERRUPTS = frozenset({"down", "stop"})
_INTERRUPTIBLE = frozenset({"up", "start", "restart", "run", "resume"})


@dataclass(slots=True)
class _Turn:
    """A stack's lock, and the verbs of all tasks that hold it or wait for it, the holder first."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: dict[asyncio.Task[None], str] = field(default_factory=dict)
    interrupted: dict[asyncio.Task[None], str] = field(default_factory=dict)  # by which verb


class Turns:
    """Locks and running work by stack."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing = False

    def begin(self, name: str, verb: str, work: Work, report: Report) -> asyncio.Task[None]:
        """Run work in a task when it is its turn. The task ends well; errors are reported, as is an interruption."""
        task = asyncio.get_running_loop().create_task(
            self._work(name, verb, work, report), name=f"{verb} {name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stream(self, name: str, verb: str, work: Work) -> AsyncIterator[Progress]:
        """The work's progress; leaving the iteration cancels the work."""
        queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        task = self.begin(name, verb, work, queue.put_nowait)
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (event := await queue.get()) is not None:
                yield event
            if not task.cancelled():
                task.result()  # raises what the work did not expect
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _work(self, name: str, verb: str, work: Work, report: Report) -> None:
        turn = self._turns.setdefault(name, _Turn())
        task = asyncio.current_task()
        assert task is not None
        _make_way(name, turn, verb, report)
        turn.tasks[task] = verb
        try:
            async with turn.lock:
                await work(report)
        except PystackError as error:
            _failed(name, error, report)
        except asyncio.CancelledError:
            by = turn.interrupted.pop(task, "")
            if not by:
                raise
            _failed(name, PystackError(f"{verb} of stack {name} was interrupted by {by}"), report)
        finally:
            del turn.tasks[task]
            if not turn.tasks:
                self._turns.pop(name, None)

    async def close(self) -> None:
        """Cancel all work and wait for its end."""
        self.closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


def _make_way(name: str, turn: _Turn, verb: str, report: Report) -> None:
    """Interrupt what must not be waited for; say so when something is waited for."""
    waited = ""
    for task, other in turn.tasks.items():
        stops = verb in _INTERRUPTS and other in _INTERRUPTIBLE
        if stops or (other == "resume" and verb == "up"):
            turn.interrupted[task] = verb
            task.cancel()
            report(progress.warning(f"{other} of stack {name} was under way: interrupted"))
        else:
            waited = waited or other
    if waited:
        report(progress.warning(f"waiting for the {waited} of stack {name} that is under way"))


def _failed(name: str, error: PystackError, report: Report) -> None:
    report(progress.failed(error))
    report(progress.done(name, ok=False, changed=0, seconds=0.0))
