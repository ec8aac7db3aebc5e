"""Log drivers against servers on this host: what a container says arrives, also when either end was away meanwhile."""

import asyncio
import gzip
import json
import os
import socket
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
import trustme
from engines import engine_at, output, scene, shell, until

from pystack.engine.interface import LogOptions
from pystack.engine.logdrivers.senders import JOURNAL
from pystack.model.container import LogConfig
from pystack.model.errors import EngineError, InvalidInput, Unsupported

pytestmark = pytest.mark.kernel


def logging_to(driver, **given):
    return LogConfig(driver=driver, options={k.replace("_", "-"): str(v) for k, v in given.items()})


class Server:
    """A log server on a TCP port: what comes is kept; with `answer` each piece is answered."""

    def __init__(self, answer=None):
        self.got, self.port, self._answer, self._open = b"", 0, answer, []

    async def start(self, tls=None):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        self._open.append(writer)
        try:
            while data := await reader.read(65536):
                self.got += data
                if self._answer:
                    self._answer(data, writer)
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def stop(self):
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()


def datagrams(family=socket.AF_INET, address=("127.0.0.1", 0)):
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(address)
    return sock


async def start(engine, script, log, name="", **more):
    made = await engine.containers.create(shell(script, log=log, **more), name)
    await engine.containers.start(made.id)
    return made.id


def test_datagrams_and_their_cache(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        loop = asyncio.get_running_loop()
        with datagrams() as sock:
            port = sock.getsockname()[1]
            log = logging_to("syslog", syslog_address=f"udp://127.0.0.1:{port}", tag="{{.Name}}")
            await start(engine, "echo one; sleep 0.2; echo two >&2", log, "web")
            async with asyncio.timeout(15):
                first, second = [await loop.sock_recv(sock, 9000) for _ in range(2)]
            assert first.startswith(b"<30>")
            assert first.endswith(b": one\n")
            assert b" web[" in first
            assert second.startswith(b"<27>")
            await engine.containers.wait("web")
            assert await output(engine, "web") == "one\ntwo\n"  # dual logging
            log = logging_to("gelf", gelf_address=f"udp://127.0.0.1:{port}", cache_disabled="true")
            big = await start(engine, "head -c 9000 /dev/urandom | base64 -w 0; echo", log)
            async with asyncio.timeout(15):
                chunks = [await loop.sock_recv(sock, 9000)]
                while len(chunks) < chunks[0][11]:
                    chunks.append(await loop.sock_recv(sock, 9000))
            found = json.loads(gzip.decompress(b"".join(c[12:] for c in chunks)))
            assert (found["_container_id"], len(found["short_message"])) == (big, 12000)
            await engine.containers.wait(big)
            with pytest.raises(Unsupported, match="does not support reading"):
                await output(engine, big)


def test_fluentd_acknowledges_and_a_server_that_is_away_loses_nothing(tmp_path):
    messages = []

    def answer(data, writer):
        unpacker.feed(data)
        for message in unpacker:
            messages.append(message)
            writer.write(msgpack.packb({"ack": message[3]["chunk"]}))

    unpacker = msgpack.Unpacker()

    @scene(tmp_path)
    async def _(engine):
        server = await Server(answer).start()
        given = {"fluentd_address": f"127.0.0.1:{server.port}", "fluentd_retry_wait": "100ms"}
        log = logging_to("fluentd", fluentd_request_ack="true", tag="t.{{.Name}}", **given)
        script = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.02; done; head -c 20000 /dev/zero | tr '\\0' x; echo"
        await start(engine, script, log, "web")
        await until(lambda: len(messages) > 5, 20)
        await server.stop()
        count = len(messages)
        await asyncio.sleep(0.3)  # the container goes on by itself
        await server.start()
        await until(lambda: messages and messages[-1][2].get("partial_last") == "true", 30)
        said = [m[2]["log"] for m in messages]
        assert list(dict.fromkeys(said[:-2])) == [str(n) for n in range(60)]  # in order; some may come twice
        assert len(said) > count
        assert [m[2]["partial_ordinal"] for m in messages[-2:]] == ["1", "2"]
        assert {m[0] for m in messages} == {"t.web"}
        await server.stop()
        with pytest.raises(EngineError, match=r"failed to initialize logging driver: .*[Cc]onnect"):
            await start(engine, "true", log)
        late = logging_to("fluentd", fluentd_async="true", fluentd_max_retries=1, **given)
        await start(engine, "echo unheard", late, "late")  # asynchronous: starts without a server
        assert (await engine.containers.wait("late")).exit_code == 0
        assert await output(engine, "late") == "unheard\n"


def sent(directory):
    """Whether all that is written is remembered as sent."""
    try:
        place = json.loads((directory / "log-place.json").read_text())
    except FileNotFoundError:
        return False
    return place["offset"] == (directory / "container-cached.log").stat().st_size


@asynccontextmanager
async def killed(place):
    """An engine that ends without a word, as by SIGKILL: its containers stay."""
    async with engine_at(place, clean=False) as engine:
        yield engine


def test_what_is_said_while_no_engine_runs_is_sent_by_the_next(tmp_path):
    async def main():
        server = await Server().start()
        log = logging_to("gelf", gelf_address=f"tcp://127.0.0.1:{server.port}")
        script = "seq 0 9; sleep 0.5; seq 10 29"
        async with killed(tmp_path) as engine:
            made = await start(engine, script, log)
            place = Path(tmp_path, "root/containers", made)
            await until(lambda: server.got.count(b"\0") >= 10 and sent(place), 20)
        await asyncio.sleep(1)
        async with engine_at(tmp_path) as engine:
            await until(lambda: server.got.count(b"\0") >= 30, 20)
            await engine.containers.remove(made, force=True)
        said = [json.loads(m)["short_message"] for m in server.got.split(b"\0")[:-1]]
        assert said == [str(n) for n in range(30)]  # none lost, none twice: the first engine had remembered
        await server.stop()

    asyncio.run(main())


def test_tls_journal_and_removal(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    @scene(tmp_path)
    async def _(engine):
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        server = await Server().start(tls)
        address = {"syslog_address": f"tcp+tls://127.0.0.1:{server.port}", "syslog_format": "rfc5424"}
        log = logging_to("syslog", syslog_tls_ca_cert=tmp_path / "ca.pem", **address)
        await start(engine, "echo secret", log, auto_remove=True)  # removed only when it is sent
        await until(lambda: b" - secret\n" in server.got, 20)
        length, _, message = server.got.partition(b" ")
        assert int(length) == len(message)
        async with asyncio.timeout(15):
            while await engine.containers.list(all=True):
                await asyncio.sleep(0.01)
        with pytest.raises(EngineError, match="certificate verify failed"):
            await start(engine, "true", logging_to("syslog", **address))
        await server.stop()
        if os.path.exists(JOURNAL):
            return  # a journal runs here: it is not disturbed
        with pytest.raises(EngineError, match="journald is not enabled on this host"):
            await start(engine, "true", logging_to("journald"))
        Path(JOURNAL).parent.mkdir(parents=True, exist_ok=True)
        try:
            with datagrams(socket.AF_UNIX, JOURNAL) as sock:
                await start(
                    engine, "echo hi >&2", logging_to("journald", labels="tier"), labels={"tier": "a"}
                )
                async with asyncio.timeout(15):
                    message = await asyncio.get_running_loop().sock_recv(sock, 65536)
                assert {b"MESSAGE=hi", b"PRIORITY=3", b"TIER=a"} <= set(message.splitlines())
        finally:
            os.unlink(JOURNAL)
            Path(JOURNAL).parent.rmdir()


def test_files_tags_and_following_over_compressed_rotation(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        log = logging_to("json-file", tag="{{.Name}}", env_regex="^MO", labels_regex="^t")
        await start(engine, "echo x", log, "web", env=("MODE=a",), labels={"tier": "b", "x": "c"})
        await engine.containers.wait("web")
        (found,) = [e async for e in engine.containers.logs("web", LogOptions())]
        assert found.attributes == {"tag": "web", "MODE": "a", "tier": "b"}
        local = logging_to("local", max_size="64k", max_file=5, compress="true")
        made = await start(engine, "seq 1 4000; sleep 0.2; seq 4001 6000", local, "local")
        numbers = [int(e.line) async for e in engine.containers.logs(made, LogOptions(follow=True))]
        assert numbers[-1] == 6000
        assert numbers == list(range(numbers[0], 6001))
        kept = [int(n) for n in (await output(engine, made)).split()]
        assert kept == list(range(kept[0], 6001))
        tail = [int(n) for n in (await output(engine, made, tail=1500)).split()]
        assert tail == list(range(4501, 6001))
        names = sorted(
            n for n in os.listdir(Path(tmp_path, "root/containers", made)) if "log" in n or "cached" in n
        )
        assert names[0] == "container-cached.log"
        assert names[1].endswith(".1.gz")
        with pytest.raises(InvalidInput, match="there is no field"):
            await engine.containers.create(shell("true", log=logging_to("json-file", tag="{{.X}}")))
