"""Attach as clients do it: detach keys, half-close, several at once, WebSockets, and what is refused."""

from __future__ import annotations

import asyncio
import subprocess
import time

import aiohttp
import harness
import pytest
from terminal import Terminal

from pystack.cli.client import ApiError

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]


def _events(daemon: harness.Engine, since: str, kind: str) -> list[str]:
    shown = daemon.docker(
        "events", "--since", since, "--until", "0s", "--filter", f"event={kind}", "--format", "{{.Action}}"
    )
    return shown.stdout.split()


def test_detach_keys_of_attach_and_exec(daemon: harness.Engine) -> None:
    daemon.docker("run", "-dit", "--name", "box", "busybox", "sh")
    terminal = Terminal(daemon, "attach", "--detach-keys", "ctrl-a,x", "box")
    terminal.send(b"echo a$((1+1))b\n")
    terminal.expect(b"a2b")
    terminal.send(b"\x01x")
    terminal.expect(b"read escape sequence")
    terminal.wait()
    inside = Terminal(daemon, "exec", "-it", "box", "sh")
    inside.send(b"echo a$((1+2))b\n")
    inside.expect(b"a3b")
    inside.send(b"\x10\x11")
    inside.expect(b"read escape sequence")
    inside.wait()
    assert daemon.inspect("box")["State"]["Running"]
    with pytest.raises(ApiError, match=r"[Ii]nvalid") as caught:
        daemon.client.post("/containers/box/attach?stream=1&stdout=1&detachKeys=nonsense")
    assert caught.value.status == 400


def test_half_close_several_at_once_and_no_stdin(daemon: harness.Engine) -> None:
    daemon.docker("run", "-di", "--name", "box", "busybox", "sh", "-c", "cat; echo over")
    daemon.docker("pause", "box")
    with pytest.raises(ApiError, match="paused, unpause the container before attach") as caught:
        daemon.client.post("/containers/box/attach?stream=1&stdout=1")
    assert caught.value.status == 409
    daemon.docker("unpause", "box")
    watcher = subprocess.Popen(
        ["docker", "attach", "--no-stdin", "box"],
        env=daemon.environment | {"DOCKER_HOST": daemon.environment["PYSTACK_HOST"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    harness.wait_until(lambda: _events(daemon, "1m", "attach"), what="the first attach")
    time.sleep(1)  # the client looks at the state once more after it has attached
    daemon.docker("kill", "box")
    assert watcher.wait(20) == 137
    again = daemon.docker("run", "-i", "busybox", "sh", "-c", "cat; echo over", input="one\ntwo\n")
    assert again.stdout == "one\ntwo\nover\n"


def test_websocket(daemon: harness.Engine) -> None:
    daemon.docker("run", "-di", "--name", "box", "busybox", "cat")
    daemon.docker("run", "-dit", "--name", "tty", "busybox", "cat")

    async def said(name: str, text: bytes, query: str) -> list[aiohttp.WSMsgType]:
        path = daemon.environment["PYSTACK_HOST"].removeprefix("unix://")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            url = f"http://d/v1.50/containers/{name}/attach/ws?stream=1&stdin=1&stdout=1{query}"
            async with session.ws_connect(url) as socket, asyncio.timeout(20):
                await socket.send_bytes(text)
                kinds = [(await socket.receive()).type]
                while query and kinds[-1] is aiohttp.WSMsgType.BINARY:
                    kinds.append((await socket.receive()).type)
                return kinds

    assert asyncio.run(said("box", b"hello\n", "")) == [aiohttp.WSMsgType.BINARY]
    assert daemon.docker("logs", "box").stdout == "hello\n"
    # The keys are seen by the engine, too, for clients that do not look for them; what is before them is passed on.
    kinds = asyncio.run(said("tty", b"hello\n\x01x", "&detachKeys=ctrl-a,x"))
    assert kinds[-1] is not aiohttp.WSMsgType.BINARY
    harness.wait_until(lambda: _events(daemon, "1m", "detach") == ["detach"], what="the event")
    harness.wait_until(lambda: "hello" in daemon.docker("logs", "tty").stdout, what="the text")
