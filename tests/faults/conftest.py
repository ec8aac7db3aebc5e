"""Orphans are reaped at once, as under a real init, so that the oracle need not wait for this machine's; a summary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from orphans import adopt_orphans

#: Lines that tests add and the end of the run shows.
SUMMARY = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session", autouse=True)
def reaper() -> Iterator[None]:
    with adopt_orphans():
        yield


@pytest.fixture(scope="session")
def summary(pytestconfig: pytest.Config) -> list[str]:
    return pytestconfig.stash.setdefault(SUMMARY, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(SUMMARY, [])
    if found:
        terminalreporter.section("failpoints")
        for line in found:
            terminalreporter.write_line(line)
