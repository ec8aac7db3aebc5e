"""What each stack was last asked to be, kept across restarts: its status, and its revisions.

In come desired stacks, out come records. Kept as JSON in the engine's `stacks` table: "stack/<name>" is the record,
"revision/<name>/<number>" a desired stack. Secrets' content is in a revision: the database is readable by root alone,
and a revision is deleted with its stack. A record is written before anything is done, so that a start finds what was
interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pystack.kernel.failpoints import failpoint
from pystack.model.desired import Stack
from pystack.model.documents import Documents
from pystack.model.plan import PlanOptions
from pystack.planner.hashing import digest, service_document

log = logging.getLogger(__name__)

#: Revisions kept of each stack.
KEPT = 5

Model = TypeVar("Model", bound=BaseModel)
Status = Literal["applying", "applied", "failed", "removing"]


class Record(BaseModel):
    """A stack: which revision is wanted, how far it is, and the request that led to it. `changed` is Unix time in seconds."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: Status
    revision: int
    options: PlanOptions = PlanOptions()
    targets: tuple[str, ...] = ()
    error: str = ""
    changed: float = 0.0


class Revision(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    number: int
    created: float
    stack: Stack


def _read(key: str, text: str | None, kind: type[Model]) -> Model | None:
    if text is None:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        # written by another version: as good as not there, since what runs is found by its labels
        log.warning("cannot read %s: %s", key, error.errors(include_input=False)[0]["msg"])
        return None


class History:
    """Records and revisions over a table of documents. `clock` gives Unix time."""

    def __init__(self, documents: Documents, clock: Callable[[], float]) -> None:
        self._documents = documents
        self._clock = clock
        self._explained: dict[tuple[str, int], Mapping[str, Mapping[str, object]]] = {}
        self._latest: dict[
            str, tuple[str, Revision]
        ] = {}  # the last revision used of each stack, and its text

    def records(self) -> list[Record]:
        names = [key.removeprefix("stack/") for key in self._documents.all() if key.startswith("stack/")]
        return [record for name in sorted(names) if (record := self.record(name))]

    def record(self, name: str) -> Record | None:
        text = self._documents.get(f"stack/{name}")
        return _read(f"stack/{name}", text, Record)

    def revision(self, name: str, number: int) -> Revision | None:
        key = f"revision/{name}/{number}"
        text = self._documents.get(key)
        kept = self._latest.get(name)
        if kept and kept[0] is text:
            return kept[1]
        found = _read(key, text, Revision)
        if found and text:
            self._latest[name] = (text, found)
        return found

    def desired(self, name: str) -> Stack | None:
        """The stack of the current revision."""
        record = self.record(name)
        revision = self.revision(name, record.revision) if record else None
        return revision.stack if revision else None

    def is_applied(self, name: str, stack: Stack) -> bool:
        """Whether this very stack was applied last, and wholly."""
        record = self.record(name)
        return record is not None and record.status == "applied" and self.desired(name) == stack

    async def begin(
        self,
        name: str,
        stack: Stack | None,
        *,
        options: PlanOptions,
        targets: tuple[str, ...] = (),
    ) -> Record:
        """Record the intent: to apply a stack as a revision (a new one if it differs), or (None) to remove what there is."""
        before = self.record(name)
        number = before.revision if before else 0
        if stack is not None and self.desired(name) != stack:
            number += 1
            made = Revision(number=number, created=self._clock(), stack=stack)
            text = made.model_dump_json()
            await self._documents.put(f"revision/{name}/{number}", text)
            self._latest[name] = (text, made)
            failpoint("reconciler.revision.saved")
        record = Record(
            name=name,
            status="removing" if stack is None else "applying",
            revision=number,
            options=options,
            targets=targets,
            changed=self._clock(),
        )
        await self._documents.put(f"stack/{name}", record.model_dump_json())
        failpoint("reconciler.intent.saved")
        return record

    async def finish(self, record: Record, *, error: str = "") -> None:
        """Record how it ended, and drop revisions beyond those kept."""
        status: Status = "failed" if error else "applied"
        ended = record.model_copy(update={"status": status, "error": error, "changed": self._clock()})
        await self._documents.put(f"stack/{record.name}", ended.model_dump_json())
        failpoint("reconciler.result.saved")
        for number in self._numbers(record.name):
            if number <= record.revision - KEPT:
                await self._documents.delete(f"revision/{record.name}/{number}")

    async def forget(self, name: str) -> None:
        """Delete all that is known of a stack; the record last, so that an interrupted deletion is seen."""
        self._latest.pop(name, None)
        for number in self._numbers(name):
            await self._documents.delete(f"revision/{name}/{number}")
            self._explained.pop((name, number), None)
        if self._documents.get(f"stack/{name}") is not None:
            await self._documents.delete(f"stack/{name}")
            failpoint("reconciler.record.deleted")

    def _numbers(self, name: str) -> list[int]:
        prefix = f"revision/{name}/"
        return sorted(
            int(key.removeprefix(prefix)) for key in self._documents.all() if key.startswith(prefix)
        )

    def explained(self, name: str) -> dict[str, Mapping[str, object]]:
        """Configuration hash -> document of every service of the kept revisions (ObservedStack.recorded)."""
        found: dict[str, Mapping[str, object]] = {}
        for number in self._numbers(name):
            if (name, number) not in self._explained:
                revision = self.revision(name, number)
                stack = revision.stack if revision else None
                documents = (
                    [service_document(stack, item) for item in stack.services.values()] if stack else []
                )
                self._explained[name, number] = {digest(document): document for document in documents}
            found.update(self._explained[name, number])
        return found
