"""Failpoints: what acts at which pass, in one process and in several that count together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pystack
from pystack.kernel import failpoints
from pystack.kernel.failpoints import configure, failpoint, passes


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    configure("")


def test_an_action_at_one_pass_only():
    configure("a.b=2*error,c.d=error")
    failpoint("a.b")
    with pytest.raises(OSError, match=r"failpoint a\.b"):
        failpoint("a.b")
    failpoint("a.b")
    for _ in range(2):
        with pytest.raises(OSError, match=r"failpoint c\.d"):
            failpoint("c.d")
    failpoint("not.planned")


def test_without_a_plan_nothing_is_counted():
    configure("")
    failpoint("a.b")
    assert failpoints._SEEN == {}


def test_forks_and_new_processes_count_together(tmp_path):
    counts = tmp_path / "passes"
    plan = f"x.y=error,a.b=3*kill,passes={counts}"
    configure(plan)
    failpoint("a.b")
    child = os.fork()
    if child == 0:
        failpoint("a.b")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert passes(str(counts))[:2] == [0, 2]
    code = "from pystack.kernel.failpoints import failpoint; failpoint('a.b'); print('alive')"
    environment = {
        "PYSTACK_FAILPOINTS": plan,
        "PYTHONPATH": str(Path(pystack.__file__).parent.parent),
        "PATH": os.environ["PATH"],
    }
    died = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert again.stdout == "alive\n"
    assert passes(str(counts))[:2] == [0, 4]
