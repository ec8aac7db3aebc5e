"""Restart policies and health checks on real containers: what a signal by hand means, counts, and what is kept."""

import asyncio

import pytest
from engines import engine_at, scene, shell, spec, state, until

from pystack.model.container import SECOND, Healthcheck, RestartPolicy
from pystack.model.states import ContainerState, Health

pytestmark = pytest.mark.kernel

ENDS_ON_USR1 = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done"
TICK = SECOND // 20


def of(engine, name):
    return engine._services.registry.get(name).record


async def ready(engine, name, runs):
    def lines():
        path = engine._services.registry.get(name).log_path
        with open(path) as file:
            return file.read().count("ready")

    await until(lambda: of(engine, name).state is ContainerState.RUNNING and lines() >= runs, 15)


def test_signals_by_hand_and_policies(tmp_path):
    @scene(tmp_path)
    async def _(engine):
        containers = engine.containers
        cases = {
            "own": ("always", "QUIT"),  # another than its stop signal: it comes back
            "any": ("always", ""),  # it has none: every signal means that it shall end
            "unless": ("unless-stopped", "QUIT"),  # a signal by hand is enough
            "failure": ("on-failure", "QUIT"),
        }
        for name, (policy, stop_signal) in cases.items():
            script = shell(ENDS_ON_USR1, restart=RestartPolicy(name=policy), stop_signal=stop_signal)
            await containers.create(script, name)
            await containers.start(name)
        for name in cases:
            await ready(engine, name, 1)
            await containers.kill(name, signal="USR1")
        for name in ("own", "failure"):
            await ready(engine, name, 2)
            assert of(engine, name).restart_count == 1
        for name in ("any", "unless"):
            await until(lambda n=name: of(engine, n).state is ContainerState.EXITED)
            assert (of(engine, name).exit_code, of(engine, name).restart_count) == (3, 0)
        await containers.start("any")  # by hand: the policy counts again
        assert not of(engine, "any").restart_cancelled
        # a stop ends it, and is not taken back by another exit
        await containers.stop("own", timeout=0)
        assert (await state(engine, "own"), of(engine, "own").restart_cancelled) == ("exited", True)
        # a policy that is given while it runs
        await containers.create(shell(ENDS_ON_USR1, stop_signal="QUIT"), "late")
        await containers.start("late")
        await ready(engine, "late", 1)
        await containers.update("late", resources=None, restart=RestartPolicy(name="always"))
        await containers.kill("late", signal="USR1")
        await ready(engine, "late", 2)
        # between two runs it shows the count of the run to come, and a kill is enough
        await containers.create(shell("exit 1", restart=RestartPolicy(name="always")), "again")
        await containers.start("again")
        await until(lambda: of(engine, "again").state is ContainerState.RESTARTING)
        assert of(engine, "again").restart_count >= 1
        await until(lambda: of(engine, "again").restart_count >= 3)
        while of(engine, "again").state is not ContainerState.RESTARTING:
            await asyncio.sleep(0.01)
        await containers.kill("again")
        assert await state(engine, "again") == "exited"
        await asyncio.sleep(1)
        assert await state(engine, "again") == "exited"


def test_health_is_kept_over_a_restart_of_the_engine(tmp_path):
    async def before():
        async with engine_at(tmp_path, clean=False) as engine:
            check = Healthcheck(test=("CMD-SHELL", "yes | head -c 9000; exit 1"), interval=TICK, retries=100)
            await engine.containers.create(spec("sleep", "1000", healthcheck=check), "sick")
            await engine.containers.start("sick")
            health = engine._services.registry.get("sick")
            await until(lambda: health.health.failing_streak >= 7, 15)
            return (await engine.containers.inspect("sick")).failing_streak

    streak = asyncio.run(before())

    @scene(tmp_path)
    async def _(engine):
        view = await engine.containers.inspect("sick")
        assert view.health is Health.STARTING
        assert view.failing_streak >= streak >= 7
        assert len(view.health_log) == 5
        assert view.health_log[0].output == "y\n" * 2048 + "..."
        await engine.containers.restart("sick", timeout=0)
        found = await engine.containers.inspect("sick")
        assert found.failing_streak < streak
        assert len(found.health_log) == 5, "the log is the container's, not the run's"
