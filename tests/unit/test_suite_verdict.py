"""scripts/suite.py: what failed at first and passes when repeated is named, and only two such tests are let pass."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "suite.py"
spec = importlib.util.spec_from_file_location("suite", SCRIPT)
suite = importlib.util.module_from_spec(spec)
spec.loader.exec_module(suite)


def test_the_verdict() -> None:
    assert suite.verdict({"a"}, {"a"}) == (1, ["failed twice: a"])
    code, said = suite.verdict({"a", "b"}, set())
    assert code == 0
    assert [line.endswith(f": {name}") for line, name in zip(said, "ab", strict=False)] == [True, True]
    code, said = suite.verdict({"a", "b", "c"}, set())
    assert code == 1
    assert said[-1].startswith("error: 3 flaky tests")
    code, said = suite.verdict({"a", "b"}, {"b"})
    assert (code, said[:2]) == (
        1,
        ["failed twice: b", "flaky, failed at first and passed when repeated: a"],
    )


def test_every_room_is_run_once() -> None:
    tests = SCRIPT.parents[1]
    assert all((tests / room).is_dir() for room in suite.PARALLEL)
