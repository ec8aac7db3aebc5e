"""Progress of a stack operation on stderr: live on a terminal, plain lines elsewhere, JSON lines for programs.

In come the objects of a /stacks stream; out go lines. The live form writes its own ANSI: one write per refresh, at most
20 a second, so that drawing never costs what it shows.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Protocol

from pystack.cli.output import colours, paint, printable

REFRESH = 0.05
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
#: Compose's words for an operation while it runs and when it is done.
WORDS = {
    "CreateNetwork": ("Creating", "Created"),
    "RemoveNetwork": ("Removing", "Removed"),
    "CreateVolume": ("Creating", "Created"),
    "RemoveVolume": ("Removing", "Removed"),
    "EnsureImage": ("Pulling", "Ready"),
    "CreateContainer": ("Creating", "Created"),
    "StartContainer": ("Starting", "Started"),
    "StopContainer": ("Stopping", "Stopped"),
    "RestartContainer": ("Restarting", "Restarted"),
    "RemoveContainer": ("Removing", "Removed"),
    "RenameContainer": ("Renaming", "Renamed"),
    "WaitFor": ("Waiting", "Ready"),
}


def words(event: dict[str, Any]) -> str:
    """What an event says of its resource: "Starting", "Started", or the error."""
    working, done = WORDS.get(event["operation"], (event["operation"], "Done"))
    status = event["status"]
    if status == "error":
        return " ".join(["Error", *str(event.get("text") or "").splitlines()[:1]])
    if status == "done":
        return str(event.get("text") or done)
    return "Skipped" if status == "skipped" else working


class Progress(Protocol):
    def show(self, event: dict[str, Any]) -> None: ...
    def finish(self) -> None: ...


class Quiet:
    def show(self, event: dict[str, Any]) -> None:
        """Nothing: errors are reported by the command itself."""

    def finish(self) -> None:
        """Nothing is open."""


class JsonLines:
    """One object a line with compose's keys; ours (`cause`, `operation`) come in addition."""

    def show(self, event: dict[str, Any]) -> None:
        line = {"id": event["resource"], "status": event["status"].capitalize(), "text": words(event)}
        line |= {key: event[key] for key in ("operation", "cause", "seconds") if event.get(key)}
        print(json.dumps(line), file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Nothing is open."""


class Plain:
    """A line for each change."""

    def show(self, event: dict[str, Any]) -> None:
        print(f" {printable(event['resource'])}  {printable(words(event))}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Nothing is open."""


class Live:
    """One line per resource, redrawn in place; `[+] up 3/5` on top."""

    def __init__(self, title: str, *, colour: bool) -> None:
        self._title, self._colour = title, colour
        self._began = time.monotonic()
        self._rows: dict[str, tuple[str, str, float, float]] = {}  # resource -> (status, words, began, ended)
        self._drawn = 0
        self._last = 0.0

    def show(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        resource, status = event["resource"], event["status"]
        began = self._rows[resource][2] if resource in self._rows else now
        self._rows[resource] = (status, words(event), began, 0.0 if status == "working" else now)
        if now - self._last >= REFRESH:
            self._draw(now)

    def finish(self) -> None:
        if self._rows:
            self._draw(time.monotonic())

    def _row(self, resource: str, now: float, width: int) -> str:
        status, text, began, ended = self._rows[resource]
        mark, code = {"done": ("✔", "32"), "error": ("✘", "31"), "skipped": ("-", "33")}.get(
            status, (_SPINNER[int(now * 10) % len(_SPINNER)], "36")
        )
        pad = max(len(name) for name in self._rows)
        left = f" {mark} {printable(resource).ljust(pad)}  {printable(text)}"
        right = f"{(ended or now) - began:.1f}s"
        room = width - len(right) - 1
        left = left if len(left) <= room else left[: room - 1] + "…"
        line = left.ljust(room) + right
        return (
            paint(line, code, self._colour)
            if status != "done"
            else line.replace("✔", paint("✔", "32", self._colour), 1)
        )

    def _draw(self, now: float) -> None:
        self._last = now
        width, height = (
            given or usual
            for given, usual in zip(os.get_terminal_size(sys.stderr.fileno()), (80, 24), strict=True)
        )
        done = sum(1 for row in self._rows.values() if row[0] != "working")
        names = list(self._rows)
        hidden = max(0, len(names) - (height - 3))
        if hidden:  # what has ended scrolls away first
            names.sort(key=lambda name: self._rows[name][0] != "working")
            names = names[: len(names) - hidden]
        lines = [
            f"[+] {self._title} {done}/{len(self._rows)}",
            *(self._row(name, now, width) for name in names),
        ]
        if hidden:
            lines.append(f"   … {hidden} more")
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        sys.stderr.write(up + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
        sys.stderr.flush()
        self._drawn = len(lines)


def make(kind: str, title: str, *, ansi: str = "auto") -> Progress:
    """The display for --progress auto, tty, plain, json or quiet."""
    if kind == "auto":
        kind = (
            "tty" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and ansi != "never" else "plain"
        )
    if kind == "tty":
        return Live(title, colour=colours(sys.stderr, ansi=ansi))
    if kind == "json":
        return JsonLines()
    return Quiet() if kind == "quiet" else Plain()
