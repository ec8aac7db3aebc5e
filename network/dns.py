"""The embedded DNS: one UDP and one TCP socket on 127.0.0.11:53 in each container's namespace, served by the loop.

Local names are answered at once from `Zones`; others go to the upstream servers, asked from the host's namespace
(servers of the container's own loopback: from its namespace) with random ids and ports, and never delay a local name.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import secrets
import select
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pystack.kernel import netns
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError
from pystack.network import dnswire
from pystack.network.hosts import EMBEDDED, is_loopback
from pystack.network.zones import Zones

log = logging.getLogger(__name__)

_TIMEOUT = 4.0  # seconds for an upstream answer, as Docker
_STAGGER = 1.0  # seconds before the next server is asked, too
_SERVERS = 3
_PENDING = 1024  # forwarded queries at once, of all containers
_PENDING_EACH = 128  # and of one
_IDLE = 10.0  # seconds that a TCP connection may say nothing
_CONNECTIONS = 32  # TCP connections of one container


@dataclass(slots=True, kw_only=True, eq=False)
class _Client:
    """One container: its two sockets, its tasks, and the servers it asked for itself."""

    container_id: str
    udp: socket.socket
    tcp: socket.socket
    servers: tuple[str, ...]
    netns_fd: int = -1  # kept only for servers on the container's own loopback
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    forwarding: int = 0
    connections: int = 0


Sockets = tuple[socket.socket, socket.socket]


def open_sockets() -> Sockets:
    """Inside the container's namespace, with its lo up: the two sockets. EngineError when port 53 is taken."""
    try:
        return _bind_both()
    except OSError as error:
        hint = (
            "another DNS server in the container listens on every address"
            if error.errno == errno.EADDRINUSE
            else None
        )
        raise EngineError(
            f"cannot serve DNS on {EMBEDDED}:53 in the container: {error.strerror}", hint=hint
        ) from error


def _bind_both() -> Sockets:
    kind = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | kind)
    try:
        udp.bind((EMBEDDED, 53))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | kind)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((EMBEDDED, 53))
            tcp.listen(16)
        except BaseException:
            tcp.close()
            raise
    except BaseException:
        udp.close()
        raise
    return udp, tcp


class DnsServer:
    """All containers' resolvers. `host_servers` gives the host's name servers at the moment."""

    def __init__(self, zones: Zones, host_servers: Callable[[], Sequence[str]]) -> None:
        self._zones, self._host_servers = zones, host_servers
        self._clients: dict[str, _Client] = {}
        self._forwarding = 0
        # One epoll of our own in the loop's: to add a socket is one system call, and two for each container add up.
        self._epoll: select.epoll | None = None
        self._ready: dict[int, Callable[[], None]] = {}  # by file descriptor

    def bind(self, container_id: str, netns_fd: int, servers: Sequence[str]) -> None:
        """Serve a container that is there already (idempotent). EngineError when its port 53 is taken."""
        self.unbind(container_id)
        self.serve(container_id, netns.run_in(netns_fd, open_sockets), netns_fd, servers)

    def serve(self, container_id: str, sockets: Sockets, netns_fd: int, servers: Sequence[str]) -> None:
        """Answer on its `open_sockets`, which are the server's from now on. `servers` are its `dns:`, () = the host's."""
        udp, tcp = sockets
        client = _Client(container_id=container_id, udp=udp, tcp=tcp, servers=tuple(servers))
        if any(is_loopback(server) for server in servers):
            client.netns_fd = os.dup(netns_fd)
        self._clients[container_id] = client
        self._watch(udp.fileno(), partial(self._on_datagram, client))
        self._watch(tcp.fileno(), partial(self._on_connection, client))
        failpoint("network.dns.bound")

    def is_bound(self, container_id: str) -> bool:
        return container_id in self._clients

    def unbind(self, container_id: str) -> None:
        """Idempotent. Lets go of everything that keeps the namespace alive."""
        client = self._clients.pop(container_id, None)
        if client is None:
            return
        for task in client.tasks:
            task.cancel()
        for held in (client.udp, client.tcp):
            del self._ready[held.fileno()]
            held.close()  # which takes it out of the epoll, too: nobody else has the socket
        if client.netns_fd >= 0:
            os.close(client.netns_fd)
            client.netns_fd = -1

    def close(self) -> None:
        for container_id in tuple(self._clients):
            self.unbind(container_id)
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _watch(self, fd: int, ready: Callable[[], None]) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._dispatch, self._epoll)
        self._ready[fd] = ready
        self._epoll.register(fd, select.EPOLLIN)

    def _dispatch(self, epoll: select.epoll) -> None:
        for fd, _ in epoll.poll(0, 64):
            ready = self._ready.get(fd)
            if ready is not None:  # a callback before this one may have ended it
                ready()

    # -- UDP -------------------------------------------------------------------------------------------------------

    def _on_datagram(self, client: _Client) -> None:
        for _ in range(32):  # then others get their turn
            try:
                data, peer = client.udp.recvfrom(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.warning("cannot receive DNS queries of %s: %s", client.container_id[:12], error)
                return
            query = dnswire.parse(data)
            if query is None:
                self._reply(client, dnswire.format_error(data), peer)
                continue
            answer = self.local_answer(client.container_id, query, limit=query.size)
            if answer is not None:
                self._reply(client, answer, peer)
            elif self._may_start(client):
                self._spawn(client, self._forward_datagram(client, query, data, peer))
            else:
                self._reply(client, dnswire.failure(query, dnswire.SERVFAIL), peer)

    def _may_start(self, client: _Client) -> bool:
        return client.forwarding < _PENDING_EACH and self._forwarding < _PENDING

    @staticmethod
    def _reply(client: _Client, answer: bytes | None, peer: tuple[str, int]) -> None:
        if answer is None:
            return
        try:
            client.udp.sendto(answer, peer)
        except OSError as error:
            log.debug("cannot answer a DNS query of %s: %s", client.container_id[:12], error)

    def _spawn(self, client: _Client, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        client.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(client, done))

    @staticmethod
    def _ended(client: _Client, task: asyncio.Task[None]) -> None:
        client.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a DNS query of %s failed", client.container_id[:12], exc_info=task.exception())

    async def _forward_datagram(
        self, client: _Client, query: dnswire.Query, data: bytes, peer: tuple[str, int]
    ) -> None:
        answer = await self._forward(client, query, data, tcp=False)
        if len(answer) > query.size:
            answer = dnswire.truncated(query)
        self._reply(client, answer, peer)

    # -- TCP -------------------------------------------------------------------------------------------------------

    def _on_connection(self, client: _Client) -> None:
        try:
            accepted, _ = client.tcp.accept()
        except OSError as error:
            log.debug("cannot accept a DNS connection of %s: %s", client.container_id[:12], error)
            return
        if client.connections >= _CONNECTIONS:
            accepted.close()
            return
        accepted.setblocking(False)
        client.connections += 1
        self._spawn(client, self._serve_connection(client, accepted))

    async def _serve_connection(self, client: _Client, accepted: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=accepted)
            try:
                while True:
                    async with asyncio.timeout(_IDLE):
                        size = int.from_bytes(await reader.readexactly(2), "big")
                        data = await reader.readexactly(size)
                    answer = await self._answer_stream(client, data)
                    if answer is None:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    async with asyncio.timeout(_IDLE):
                        await writer.drain()
            finally:
                writer.close()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return  # the asker is done, or too slow
        finally:
            client.connections -= 1

    async def _answer_stream(self, client: _Client, data: bytes) -> bytes | None:
        query = dnswire.parse(data)
        if query is None:
            return dnswire.format_error(data)
        local = self.local_answer(client.container_id, query, limit=0)
        if local is not None:
            return local
        if not self._may_start(client):
            return dnswire.failure(query, dnswire.SERVFAIL)
        return await self._forward(client, query, data, tcp=True)

    # -- answers ---------------------------------------------------------------------------------------------------

    def local_answer(self, container_id: str, query: dnswire.Query, *, limit: int) -> bytes | None:
        """The answer from the container's own networks; None when the question must be forwarded."""
        if query.type == dnswire.PTR:
            address = dnswire.reverse_address(query.name)
            names = self._zones.reverse(container_id, address) if address is not None else None
            if names:
                return dnswire.pointers(query, names, limit=limit)
            if names is not None:
                return dnswire.failure(query, dnswire.NXDOMAIN)
        else:
            found = self._zones.lookup(container_id, query.name)
            if found is not None:
                random.shuffle(found)
                return dnswire.addresses(query, found, limit=limit)
        if not self._zones.may_forward(container_id):
            return dnswire.failure(query, dnswire.SERVFAIL)
        return None

    async def _forward(self, client: _Client, query: dnswire.Query, data: bytes, *, tcp: bool) -> bytes:
        """The first good answer of the upstream servers; SERVFAIL when there is none in time."""
        client.forwarding += 1
        self._forwarding += 1
        pending: set[asyncio.Task[bytes | None]] = set()
        last: bytes | None = None
        servers = list(client.servers or self._host_servers())[:_SERVERS]
        try:
            async with asyncio.timeout(_TIMEOUT):
                while servers or pending:
                    if servers:
                        work = self._ask(client, servers.pop(0), query, data, tcp=tcp)
                        pending.add(asyncio.get_running_loop().create_task(work))
                    done, pending = await asyncio.wait(
                        pending, timeout=_STAGGER if servers else None, return_when=asyncio.FIRST_COMPLETED
                    )
                    for reply in (task.result() for task in done):
                        if reply is None:
                            continue
                        if dnswire.code_of(reply) in {dnswire.NOERROR, dnswire.NXDOMAIN}:
                            return reply
                        last = reply
        except TimeoutError:
            pass  # whatever was answered so far counts
        finally:
            for task in pending:
                task.cancel()
            client.forwarding -= 1
            self._forwarding -= 1
        return last if last is not None else dnswire.failure(query, dnswire.SERVFAIL)

    async def _ask(
        self, client: _Client, server: str, query: dnswire.Query, data: bytes, *, tcp: bool
    ) -> bytes | None:
        """One server's reply with the asker's id; None when it cannot be reached."""
        ident = secrets.randbits(16)
        message = dnswire.with_id(data, ident)
        inside = client.netns_fd if server in client.servers and is_loopback(server) else -1
        exchange = _exchange_tcp if tcp else _exchange_udp
        try:
            reply = await exchange(
                server, inside, message, lambda got: dnswire.is_reply_to(got, query, ident)
            )
        except (OSError, asyncio.IncompleteReadError) as error:
            log.debug("name server %s does not answer: %s", server, error)
            return None
        return dnswire.with_id(reply, query.id)


def _upstream_socket(server: str, kind: int, inside: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def make() -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    return netns.run_in(inside, make) if inside >= 0 else make()


async def _exchange_udp(server: str, inside: int, message: bytes, fits: Callable[[bytes], bool]) -> bytes:
    """Send, and wait for a datagram of that server that fits. The caller has the deadline."""
    loop = asyncio.get_running_loop()
    with _upstream_socket(server, socket.SOCK_DGRAM, inside) as asked:
        # connect(2): a random port of the kernel's, and datagrams of anybody else are dropped.
        await loop.sock_connect(asked, (server, 53))
        await loop.sock_sendall(asked, message)
        while True:
            reply = await loop.sock_recv(asked, 1 << 16)
            if fits(reply):
                return reply


async def _exchange_tcp(server: str, inside: int, message: bytes, fits: Callable[[bytes], bool]) -> bytes:
    asked = _upstream_socket(server, socket.SOCK_STREAM, inside)
    try:
        await asyncio.get_running_loop().sock_connect(asked, (server, 53))
        reader, writer = await asyncio.open_connection(sock=asked)
    except BaseException:
        asked.close()
        raise
    try:
        writer.write(len(message).to_bytes(2, "big") + message)
        await writer.drain()
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    if not fits(reply):
        raise OSError(errno.EPROTO, "the reply does not fit the question", server)
    return reply
