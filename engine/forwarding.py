"""Logs on their way to a remote driver: the shim writes files, this sends on what is in them, from a remembered place.

Flows in: containers with a remote driver. Flows out: their entries to syslog, journald, gelf or fluentd, at least once and
in order (docs/adr/0013). A server that is slow or away costs the container nothing: what waits for it lies in the files.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from itertools import islice

from pystack.engine import clock, logs
from pystack.engine.bundles import log_subject
from pystack.engine.container import Container
from pystack.engine.interface import LogEntry
from pystack.engine.logcursor import Cursor
from pystack.engine.logdrivers import options as opt
from pystack.engine.logdrivers.formats import Encoder
from pystack.engine.logdrivers.senders import JOURNAL, DatagramSender, Sender, StreamSender
from pystack.engine.services import Services
from pystack.kernel.failpoints import failpoint
from pystack.model.container import LogConfig
from pystack.model.errors import EngineError

log = logging.getLogger(__name__)

_BATCH = 256  # entries sent and remembered together
_RECHECK = 1.0  # seconds between looks by itself
_LONGEST_WAIT = 30.0  # seconds between attempts
#: How long a removal waits for what has not been sent yet, seconds: Docker's close timeout of a logger.
CLOSE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`retries` None = for ever. `backlog`: bytes that may wait for a server, 0 = all that the files hold."""

    retries: int | None
    wait: float
    backlog: int
    checked: bool  # a start fails when the server is not there


def policy(config: LogConfig) -> Policy:
    """How patient the driver is, by its options."""
    options = config.options
    backlog = opt.size(options, "max-buffer-size", 1 << 20) if options.get("mode") == "non-blocking" else 0
    retries, wait, checked = None, 1.0, True
    if config.driver == "gelf":
        retries = opt.whole(options, "gelf-tcp-max-reconnect", None)
        wait = float(opt.whole(options, "gelf-tcp-reconnect-delay", 1) or 1)
    elif config.driver == "fluentd":
        retries = opt.whole(options, "fluentd-max-retries", None)
        checked = not opt.boolean(options, "fluentd-async", False)
        wait = opt.seconds(options, "fluentd-retry-wait", 1.0)
        wait = opt.seconds(options, "fluentd-async-reconnect-interval", wait) or wait
        limits = [n for n in (backlog, opt.size(options, "fluentd-buffer-limit", 0)) if n > 0]
        backlog = min(limits, default=0)
    return Policy(retries=retries, wait=wait, backlog=backlog, checked=checked)


def sender(config: LogConfig) -> Sender:
    """The connection of a remote driver, not made yet."""
    options = config.options
    if config.driver == "journald":
        return DatagramSender(opt.Target(kind="unixgram", path=JOURNAL))
    target = {"syslog": opt.syslog_target, "gelf": opt.gelf_target, "fluentd": opt.fluentd_target}[
        config.driver
    ](options)
    if target.kind in {"udp", "unixgram"}:
        return DatagramSender(target)
    return StreamSender(
        target,
        options if config.driver == "syslog" else None,
        acknowledged=config.driver == "fluentd" and opt.boolean(options, "fluentd-request-ack", False),
        wait=opt.seconds(options, "fluentd-write-timeout", 0),
    )


def is_remote(container: Container) -> bool:
    return container.config.log.driver in opt.REMOTE_DRIVERS


class Forwarding:
    """The forwarders of all containers, by id."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def check(self, container: Container) -> None:
        """Before a start: EngineError, in Docker's words, when the log server is not there."""
        if not is_remote(container) or not policy(container.config.log).checked:
            return
        made = sender(container.config.log)
        try:
            await made.connect()
        except (OSError, TimeoutError) as error:
            reason = (
                "journald is not enabled on this host" if container.config.log.driver == "journald" else error
            )
            raise EngineError(
                "failed to create task for container: failed to initialize logging driver: "
                f"{reason or 'the connection timed out'}"
            ) from error
        finally:
            made.close()

    def begin(self, container: Container) -> None:
        """Send on what the container says and what is left of earlier runs. Idempotent."""
        if not is_remote(container):
            return
        task = self._tasks.get(container.id)
        if task is None or task.done():
            work = Forwarder(self._services, container).run()
            self._tasks[container.id] = self._services.background.spawn(work, f"logs of {container.name}")

    async def end(self, container: Container) -> None:
        """The container is being removed: wait for what has not been sent, not for ever."""
        task = self._tasks.pop(container.id, None)
        if task is None:
            return
        done, _ = await asyncio.wait({task}, timeout=CLOSE)
        if not done:
            log.warning("some logs of container %s were not sent: it is removed", container.name)
            task.cancel()


class Forwarder:
    """One container's. It ends when the container has and everything is sent."""

    def __init__(self, services: Services, container: Container) -> None:
        self._services, self._container = services, container
        config = container.config.log
        self._policy = policy(config)
        self._encoder = Encoder(config, log_subject(container), clock.parse_ns)
        self._sender = sender(config)
        self._cursor = Cursor(container.log_path)
        self._place = f"{container.directory}/log-place.json"
        self._dropped = 0

    async def run(self) -> None:
        changed = asyncio.Event()
        remove = self._services.watcher.add(self._container.directory, changed.set)
        try:
            self._cursor.to_place(*self._remembered())
            while True:
                changed.clear()
                ended = not self._container.running and not self._container.record.starting
                lines = list(islice(self._cursor.lines(), _BATCH))
                if lines:
                    await self._pass_on(lines)
                elif ended:
                    return
                else:
                    await _either(changed, _RECHECK)
        finally:
            remove()
            self._cursor.close()
            self._sender.close()
            self._tell_losses()

    async def _pass_on(self, lines: list[bytes]) -> None:
        limit = self._policy.backlog
        if limit and self._cursor.behind() > limit:
            self._dropped += len(lines)  # non-blocking: the newest are kept
            await asyncio.sleep(0)
        else:
            entries = [e for line in lines if (e := logs.parse_entry(line)) is not None]
            await self._deliver(entries)
        self._remember()
        failpoint("engine.logs.forwarded")

    async def _deliver(self, entries: list[LogEntry]) -> None:
        """Until the server has taken them, or the driver's patience ends."""
        messages = [m for entry in entries for m in self._encoder.encode(entry)]
        attempt, wait = 0, self._policy.wait
        while messages:
            try:
                await self._sender.send(messages)
                return
            except (OSError, TimeoutError) as error:
                if attempt == 0:
                    log.warning("cannot send the logs of container %s: %s", self._container.name, error)
            attempt += 1
            if self._policy.retries is not None and attempt > self._policy.retries:
                self._dropped += len(entries)
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, max(_LONGEST_WAIT, self._policy.wait))

    def _tell_losses(self) -> None:
        if self._dropped or self._cursor.lost:
            log.warning(
                "logs of container %s: %d entries were dropped, %d times files were rotated away unsent",
                self._container.name,
                self._dropped,
                self._cursor.lost,
            )

    def _remembered(self) -> tuple[str, int]:
        try:
            with open(self._place, encoding="utf-8") as file:
                found = json.load(file)
            return str(found["head"]), int(found["offset"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return "", 0

    def _remember(self) -> None:
        """By rename, without fsync: after a power cut some entries are sent again."""
        head, offset = self._cursor.place()
        try:
            with open(f"{self._place}.tmp", "w", encoding="utf-8") as file:
                json.dump({"head": head, "offset": offset}, file)
            os.rename(f"{self._place}.tmp", self._place)
        except OSError as error:
            log.warning(
                "cannot remember which logs of container %s are sent: %s", self._container.name, error
            )


async def _either(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass  # look by itself
