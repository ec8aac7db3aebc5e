"""What a client may ask next is known when a stream ends: the shim is made slow at the very moment between the two."""

import asyncio

import pytest
from engines import read, scene, shell, spec

from pystack.model.container import ExecSpec

pytestmark = pytest.mark.kernel


def test_an_execs_streams_end_after_its_exit_code_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSTACK_FAILPOINTS", "shim.exec.ended=sleep:0.3")

    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        await containers.create(spec("sleep", "1000"), "web")
        await containers.start("web")

        async def one(tty):
            asked = ExecSpec(
                command=("sh", "-c", "echo out; exit 5"), tty=tty, attach_stdout=True, attach_stderr=True
            )
            exec_id = await containers.exec_create("web", asked)
            session = await containers.exec_start(exec_id)
            said = await read(session)
            view = await containers.exec_inspect(exec_id)
            await session.close()
            return said["stdout"].strip(), view.running, view.exit_code

        assert await one(tty=False) == (b"out", False, 5)
        assert await one(tty=True) == (b"out", False, 5)


def test_a_container_that_was_waited_for_has_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSTACK_FAILPOINTS", "shim.exit.written=sleep:0.3,shim.socket.removed=sleep:0.3")

    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        for tty in (False, True):
            made = await containers.create(shell("echo out; exit 6", tty=tty))
            session = await containers.attach(made.id, stdin=False, stdout=True, stderr=True)
            waiting = asyncio.create_task(containers.wait(made.id, "next-exit"))
            await containers.start(made.id)
            assert (await read(session))["stdout"].strip() == b"out"
            assert (await waiting).exit_code == 6
            view = await containers.inspect(made.id)
            assert (view.state, view.exit_code) == ("exited", 6)
            await session.close()
