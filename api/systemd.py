"""systemd's side of a daemon: sockets that it passed, and what it is told (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

log = logging.getLogger("pystack.daemon")

_FIRST_FD = 3


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that systemd made for us; the environment says so only once."""
    count = int(os.environ.pop("LISTEN_FDS", "0") or 0)
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    os.environ.pop("LISTEN_FDNAMES", None)
    if not meant:
        return []
    passed = [socket.socket(fileno=number) for number in range(_FIRST_FD, _FIRST_FD + count)]
    for sock in passed:
        os.set_inheritable(sock.fileno(), False)
        sock.setblocking(False)
    return passed


class Notifier:
    """Tells systemd of the daemon's state, when systemd started it. What it needs leaves the environment at once."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        meant = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = os.environ.pop("WATCHDOG_USEC", "")
        #: Seconds within which systemd wants to hear from us, 0 for never.
        self.watchdog = int(limit) / 1e6 if meant and limit.isdecimal() else 0.0

    def __call__(self, state: str) -> None:
        if not self._address:
            return
        target = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(state.encode(), target)
            except OSError as error:
                log.warning("cannot notify %s: %s", self._address, error.strerror)

    def ready(self) -> None:
        self(f"READY=1\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        self(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self("STOPPING=1")

    async def keep_alive(self) -> None:
        """Say that the event loop turns, twice in every period; for ever. Returns at once without a watchdog."""
        while self.watchdog:
            self("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)
