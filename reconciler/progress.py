"""What a stack operation tells while it runs: events that become the JSON lines of the /stacks streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pystack.model.errors import PystackError, StackFileError
from pystack.model.plan import Plan, Step

Type = Literal["plan", "progress", "warning", "error", "done"]
Status = Literal["working", "done", "error", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    type: Type
    body: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The event as one JSON object: `type` and what it says."""
        return {"type": self.type, **self.body}


def planned(plan: Plan) -> Progress:
    return Progress(type="plan", body={"steps": len(plan.steps), "changes": plan.changes})


def of_step(step: Step, status: Status, *, text: str = "", seconds: float | None = None) -> Progress:
    """A step begins ("working"), ends well or badly, or is skipped since what it needs has failed."""
    body: dict[str, object] = {
        "id": step.id,
        "resource": step.operation.resource,
        "operation": step.operation.kind,
        "status": status,
        "text": text,
        "cause": step.operation.cause,
    }
    if seconds is not None:
        body["seconds"] = round(seconds, 4)
    return Progress(type="progress", body=body)


def warning(message: str) -> Progress:
    return Progress(type="warning", body={"message": message})


def error_body(error: BaseException) -> dict[str, object]:
    """`message`, `hint` and `diagnostics` of an error, as every answer of /stacks carries them."""
    if isinstance(error, StackFileError):
        found = [
            item.as_dict() if hasattr(item, "as_dict") else {"message": str(item)}
            for item in error.diagnostics
        ]
        return {"message": error.message, "hint": error.hint, "diagnostics": found}
    if isinstance(error, PystackError):
        return {"message": error.message, "hint": error.hint, "diagnostics": []}
    return {"message": str(error) or type(error).__name__, "hint": None, "diagnostics": []}


def failed(error: BaseException, *, where: str = "") -> Progress:
    """An error; `where` is the resource that it hit."""
    body = error_body(error)
    if where:
        body["message"] = f"{where}: {body['message']}"
    return Progress(type="error", body=body)


def done(name: str, *, ok: bool, changed: int, seconds: float) -> Progress:
    return Progress(
        type="done", body={"name": name, "ok": ok, "changed": changed, "seconds": round(seconds, 4)}
    )
