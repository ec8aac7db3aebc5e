"""A host of a test's own: a network namespace that the test's thread has entered, with an engine's networks in it.

The machine's own network is not touched. Kernel tests of the network use this.
"""

import asyncio
import contextlib
import os
import socket
import threading
from dataclasses import dataclass, field

import dnslib
import pytest
from fake.documents import MemoryDocuments

from pystack.kernel import netns, rtnetlink, sysctl
from pystack.kernel.nftables import Nft
from pystack.model.names import Instance
from pystack.network.service import NetworkService, Sandbox, SandboxRequest


def on_own_host(scenario):
    """Run the coroutine function in a thread that has a fresh network namespace: a host with nothing but lo."""

    def run(tmp_path):
        failures = []

        def body():
            try:
                netns.syscalls.unshare(netns.syscalls.CLONE_NEWNET)
                with rtnetlink.Socket() as own:
                    own.batch([rtnetlink.link_up(1)])
                sysctl.write("ipv4/ip_forward", "0")  # IPv4 settings are inherited from the machine's
                asyncio.run(scenario(tmp_path))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    run.__name__ = scenario.__name__
    run.__doc__ = scenario.__doc__
    return run


@dataclass
class Host:
    """One engine, and the containers that were started with it."""

    root: str
    documents: MemoryDocuments = field(default_factory=MemoryDocuments)
    events: list = field(default_factory=list)
    live: dict = field(default_factory=dict)  # container id -> (sandbox, netns fd)

    def __post_init__(self):
        self.instance = Instance(root=self.root, run=self.root + "/run", socket=self.root + "/sock")
        self.service = self.new_service()

    def new_service(self):
        return NetworkService(self.instance, self.documents, lambda *event: self.events.append(event))

    async def run(self, name, network="default", **request):
        container_id = os.urandom(32).hex()
        sandbox = await self.service.prepare(
            SandboxRequest(container_id=container_id, name=name, network_mode=network, **request)
        )
        fd = netns.create()
        await self.service.wire(sandbox, fd)
        self.live[container_id] = sandbox, fd
        return Box(sandbox, fd)

    async def stop(self, box):
        await self.service.release(box.sandbox.container_id)
        self.live.pop(box.sandbox.container_id)
        os.close(box.fd)


@dataclass
class Box:
    sandbox: Sandbox
    fd: int

    @property
    def ip(self):
        return self.sandbox.endpoints[0].ipv4_address


@contextlib.asynccontextmanager
async def engine(tmp_path, name="a"):
    host = Host(str(tmp_path / name))
    await host.service.open()
    await host.service.recover([])
    try:
        yield host
    finally:
        await host.service.destroy()
        await host.service.close()
        for _, fd in host.live.values():
            os.close(fd)
        left = [link.name for link in own_links() if link.name.startswith(host.instance.link_prefix)]
        assert not left
        assert host.instance.nft_table not in Nft().run("list tables")


def own_links():
    with rtnetlink.Socket() as own:
        return own.links()


def outside(wire="wire0", net="192.0.2"):
    """A neighbour of the host on a wire of their own: host .1, neighbour .2."""
    fd = netns.create()
    with rtnetlink.Socket() as own:
        own.batch([rtnetlink.veth(wire, "eth0", peer_netns_fd=fd), rtnetlink.link_up(wire)])
        own.batch([rtnetlink.address(socket.if_nametoindex(wire), rtnetlink.ip_address(f"{net}.1"), 24)])

    def inside():
        with rtnetlink.Socket() as inner:
            inner.batch([rtnetlink.link_up(1), rtnetlink.link_up("eth0")])
            index = socket.if_nametoindex("eth0")
            inner.batch(
                [
                    rtnetlink.address(index, rtnetlink.ip_address(f"{net}.2"), 24),
                    rtnetlink.default_route(rtnetlink.ip_address(f"{net}.1"), index),
                ]
            )

    netns.run_in(fd, inside)
    return fd


def inside(fd, make):
    return make() if fd is None else netns.run_in(fd, make)


def serve(fd, port, word, *, kind=socket.SOCK_STREAM, address="0.0.0.0"):
    """Answer everybody with `word` and the asker's address, until the loop ends."""

    def make():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(8)
        made.setblocking(False)
        return made

    server = inside(fd, make)

    def ready():
        if kind == socket.SOCK_STREAM:
            peer, name = server.accept()
            peer.sendall(f"{word} {name[0]}".encode())
            peer.close()
        else:
            _, name = server.recvfrom(100)
            server.sendto(f"{word} {name[0]}".encode(), name)

    asyncio.get_running_loop().add_reader(server, ready)
    SERVERS.append(server)


SERVERS: list = []


@pytest.fixture(autouse=True)
def close_servers():
    yield
    for server in SERVERS:
        server.close()
    SERVERS.clear()


async def ask(fd, address, port, *, kind=socket.SOCK_STREAM, timeout=3):
    """What the server says, "refused" or "timeout"."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = inside(fd, lambda: socket.socket(family, kind | socket.SOCK_NONBLOCK))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            await loop.sock_connect(made, (address, port))
            if kind == socket.SOCK_DGRAM:
                await loop.sock_sendall(made, b"?")
            return (await loop.sock_recv(made, 100)).decode()
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return error.strerror
    finally:
        made.close()


async def eventually(attempt, word):
    answers = []
    for _ in range(8):
        answers.append(await attempt())
        if answers[-1].startswith(word):
            return
    pytest.fail(f"never {word}: {answers}")


async def resolve(box, name, kind="A", *, tcp=False):
    """(rcode, [answers]) of a query to 127.0.0.11 from inside."""
    query = dnslib.DNSRecord.question(name, kind).pack()
    loop = asyncio.get_running_loop()
    made = netns.run_in(
        box.fd, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    )
    with made:
        made.setblocking(False)
        async with asyncio.timeout(6):
            await loop.sock_connect(made, ("127.0.0.11", 53))
            await loop.sock_sendall(made, (len(query).to_bytes(2, "big") if tcp else b"") + query)
            data = (await loop.sock_recv(made, 4096))[2 if tcp else 0 :]
    record = dnslib.DNSRecord.parse(data)
    return dnslib.RCODE[record.header.rcode], sorted(str(answer.rdata) for answer in record.rr)
