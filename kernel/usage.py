"""Figures from /proc that container statistics and `top` need: interface counters and process lists. Pids in, facts out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_NET_FIELDS = (
    ("rx_bytes", 0), ("rx_packets", 1), ("rx_errors", 2), ("rx_dropped", 3),
    ("tx_bytes", 8), ("tx_packets", 9), ("tx_errors", 10), ("tx_dropped", 11),
)  # fmt: skip


def network_counters(pid: int) -> dict[str, dict[str, int]]:
    """Docker's `networks` of a stats sample: counters by interface in the process' network namespace, without lo.

    Empty when the process is gone (proc_pid_net(5)).
    """
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii", errors="replace") as file:
            lines = file.readlines()[2:]
    except (FileNotFoundError, ProcessLookupError, OSError):
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        values = rest.split()
        if name.strip() != "lo":
            found[name.strip()] = {field: int(values[index]) for field, index in _NET_FIELDS}
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process: ids, CPU time in seconds, `started` as wall-clock seconds, sizes in KiB, its command line."""

    pid: int
    ppid: int
    uid: int
    tty: str
    state: str
    cpu: float
    started: float
    resident: int
    virtual: int
    name: str
    command: str


def process_facts(pid: int) -> ProcessFacts | None:
    """Facts of a process from /proc/<pid>/stat and cmdline; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").split(b"\0")
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = text[text.index(b"(") + 1 : text.rindex(b")")].decode(errors="replace")
    fields = text[text.rindex(b")") + 2 :].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    command = b" ".join(words).decode(errors="replace")
    number = int(fields[4])
    minor = (number & 0xFF) | ((number >> 12) & 0xFFF00)
    return ProcessFacts(
        pid=pid,
        ppid=int(fields[1]),
        uid=uid,
        tty=f"pts/{minor}" if (number >> 8) & 0xFFF == 136 else "?",
        state=fields[0].decode(),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=time.time() - age,
        resident=int(fields[21]) * (os.sysconf("SC_PAGE_SIZE") // 1024),
        virtual=int(fields[20]) // 1024,
        name=name,
        command=command if words != [b""] else f"[{name}]",
    )
