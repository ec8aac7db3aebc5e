"""What is said about a stack file: one `Diagnostic` per finding, gathered by `Findings` while the steps run.

In: marks (file, line, column) and words from every step. Out: diagnostics sorted by file and line, as text that starts
with `file:line:column` (editors jump to it) or as dictionaries for machines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from pystack.model.errors import StackFileError

_EXCERPT = 160  # characters of a source line that are shown at most

#: Errors, and warnings, that one load keeps: nobody reads more, and a hostile file must not cost more.
MAX_FINDINGS = 200

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding. `line` and `column` count from 1 (0: the file as a whole); `width` is that of the caret."""

    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""  # "services.web.ports[0]"
    help: str = ""
    source_line: str = ""
    width: int = 1
    severity: Severity = "error"

    def __str__(self) -> str:
        where = self.file
        if where and self.line:
            where += f":{self.line}:{self.column}"
        head = f"{where}: " if where else ""
        out = [f"{head}{self.severity}: {self.message} [{self.code}]"]
        if self.line and self.source_line.strip():
            out += self._excerpt()
        if self.help:
            out.append(f"   = help: {self.help}")
        return "\n".join(out)

    def _excerpt(self) -> list[str]:
        number = str(self.line)
        pad = " " * len(number)
        start = max(0, self.column - 1 - _EXCERPT // 2) if len(self.source_line) > _EXCERPT else 0
        shown = self.source_line[start : start + _EXCERPT]
        # Tabs keep their width, so that the caret stands below the character that it means.
        indent = "".join("\t" if c == "\t" else " " for c in shown[: self.column - 1 - start])
        carets = "^" * max(1, min(self.width, len(shown) - len(indent)))
        return [f" {pad} |", f" {number} | {shown}", f" {pad} | {indent}{carets}"]

    def as_dict(self) -> dict[str, Any]:
        """The finding for machines; empty parts are left out. `rendered` is what `str()` gives, for people."""
        data: dict[str, Any] = {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "rendered": str(self),
        }
        for name in ("file", "line", "column", "path", "help"):
            if value := getattr(self, name):
                data[name] = value
        return data


@dataclass(slots=True)
class Findings:
    """Collects diagnostics in the order found; equal ones (an anchor used twice) are kept once."""

    items: list[Diagnostic] = field(default_factory=list)
    counts: dict[Severity, int] = field(default_factory=lambda: {"error": 0, "warning": 0})
    seen: set[tuple[str, str, int, int, str]] = field(default_factory=set)

    def add(self, diagnostic: Diagnostic) -> None:
        d = diagnostic
        if self.counts[d.severity] >= MAX_FINDINGS:
            return
        identity = (d.code, d.file, d.line, d.column, d.message)
        if identity not in self.seen:
            self.seen.add(identity)
            self.counts[d.severity] += 1
            self.items.append(d)

    @property
    def errors(self) -> list[Diagnostic]:
        return _sorted(d for d in self.items if d.severity == "error")

    @property
    def warnings(self) -> list[Diagnostic]:
        return _sorted(d for d in self.items if d.severity == "warning")

    def is_full(self, severity: Severity) -> bool:
        """Whether more of the kind are not kept, so that a step need not go on looking for them."""
        return self.counts[severity] >= MAX_FINDINGS

    def raise_errors(self) -> None:
        """StackFileError with everything found so far, when any of it is an error."""
        if errors := self.errors:
            raise StackFileError(list(errors))


def _sorted(items: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(items, key=lambda d: (d.file, d.line, d.column))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The help line for a word that is not among the known ones: the nearest, or "" when none is near."""
    near = difflib.get_close_matches(word, list(known), 1, 0.65)
    return f"did you mean `{near[0]}`?" if near else ""


def path_text(path: Iterable[str | int]) -> str:
    """("services", "web", "ports", 0) -> "services.web.ports[0]"."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{part}" if out else part
    return out
