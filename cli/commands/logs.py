"""`pystack logs`: the logs of a stack's containers, prefixed, merged as they come."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pystack.cli.client import API, ApiError, Client, EngineUnreachable, encode
from pystack.cli.instance import connect
from pystack.cli.output import PREFIX_COLOURS, colours, fail, note, paint
from pystack.cli.stack import NUMBER, PROJECT, SERVICE, containers, resolve


class Printer:
    """Writes whole lines of several containers to stdout, one at a time, each behind its padded, coloured prefix."""

    def __init__(self, *, colour: bool, ansi: str, prefix: bool) -> None:
        self._colour = colour and colours(sys.stdout, ansi=ansi)
        self._prefix = prefix
        self._names: list[str] = []
        self._lock = threading.Lock()

    def register(self, names: list[str]) -> None:
        self._names += [name for name in names if name not in self._names]

    def write(self, name: str, line: bytes) -> None:
        head = ""
        if self._prefix:
            pad = max(map(len, self._names))
            index = self._names.index(name)
            head = paint(f"{name.ljust(pad)}  | ", PREFIX_COLOURS[index % len(PREFIX_COLOURS)], self._colour)
        with self._lock:
            sys.stdout.buffer.write(head.encode() + line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()


def label(item: dict[str, Any]) -> str:
    """`web-1`: a container's name without the stack's, as Compose prefixes its lines."""
    labels, name = item["Labels"], str(item["Names"][0][1:])
    short = f"{labels.get(SERVICE)}-{labels.get(NUMBER)}"
    return short if name == f"{labels.get(PROJECT)}-{short}" else name


def frames(chunks: Iterator[bytes], *, tty: bool) -> Iterator[tuple[int, bytes]]:
    """(stream, data) pieces of Docker's multiplexed stream; with a tty all is stream 1, raw."""
    buffer = b""
    for chunk in chunks:
        if tty:
            yield 1, chunk
            continue
        buffer += chunk
        while len(buffer) >= 8:
            size = int.from_bytes(buffer[4:8], "big")
            if len(buffer) < 8 + size:
                break
            yield buffer[0], buffer[8 : 8 + size]
            buffer = buffer[8 + size :]


def _lines(pieces: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    rest = {1: b"", 2: b""}
    for stream, data in pieces:
        *whole, rest[stream] = (rest.get(stream, b"") + data).split(b"\n")
        yield from whole
    yield from (line for line in rest.values() if line)


def stream(client: Client, item: dict[str, Any], query: Mapping[str, object]) -> Iterator[bytes]:
    """The lines of one container's log."""
    tty = client.get(f"/containers/{item['Id']}/json")["Config"]["Tty"]
    path = f"{API}/containers/{item['Id']}/logs" + encode({"stdout": True, "stderr": True, **query})
    response = client.request("GET", path)
    try:
        yield from _lines(frames(response.chunks(), tty=tty))
    finally:
        response.close()


def _follow(
    client: Client, item: dict[str, Any], printer: Printer, query: Mapping[str, object], until_exit: bool
) -> None:
    """One container's log to its end; with `until_exit`, over its restarts, until it has ended for good."""
    name = label(item)
    query = dict(query)
    try:
        while True:
            for line in stream(client, item, {**query, "follow": True}):
                printer.write(name, line)
            if not until_exit:
                return
            state = client.get(f"/containers/{item['Id']}/json")["State"]
            if not (state["Restarting"] or state["Running"]):
                note(f"{name} exited with code {state['ExitCode']}")
                return
            query["since"] = state["FinishedAt"]
            client.post(f"/containers/{item['Id']}/wait", query={"condition": "next-exit"}) if state[
                "Restarting"
            ] else None
    except ApiError as error:
        if error.status != 404:
            note(f"{name}: {error.message}")
    except EngineUnreachable as error:
        note(f"{name}: {error}")


def follow_all(
    client: Client,
    items: list[dict[str, Any]],
    printer: Printer,
    query: Mapping[str, object],
    *,
    until_exit: bool,
) -> None:
    """Follow several logs at once, until all have ended or the user interrupts."""
    printer.register([label(item) for item in items])
    threads = [
        threading.Thread(target=_follow, args=(client, item, printer, query, until_exit), daemon=True)
        for item in items
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)


def run(options: Any) -> int:
    client = connect()
    project, services = resolve(client, options)
    for service in options.services:
        if service not in services:
            fail(f"no such service: {service}", hint=f"the stack has {', '.join(services)}")
    items = [
        item
        for item in containers(client, project)
        if not options.services or item["Labels"].get(SERVICE) in options.services
    ]
    printer = Printer(colour=not options.no_color, ansi=options.ansi, prefix=not options.no_log_prefix)
    printer.register([label(item) for item in items])
    query = {
        "tail": options.tail,
        "timestamps": options.timestamps or None,
        "since": options.since,
        "until": options.until,
    }
    if options.follow:
        try:
            follow_all(client, items, printer, query, until_exit=False)
        except KeyboardInterrupt:
            return 130
        return 0
    for item in items:
        for line in stream(client, item, query):
            printer.write(label(item), line)
    return 0
