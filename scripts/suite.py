"""Run the whole test suite and say what is flaky; standard library only.

In: nothing. Out: pytest's own output, a list of what failed only at first, and an exit status that is 0 only when every
test passed at last and at most `MAX_FLAKY` needed a second time. Rooms that touch nothing of the host's kernel run on all
processors at once; the others, which share bridges, cgroups and mounts, one test after another. What failed is run once
more: on a busy machine a deadline of a real program may pass, and what fails twice has failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Flaky tests that a run may have; more of them, and the suite proves nothing.
MAX_FLAKY = 2
#: Above this many failures something is broken, and running them again only takes time.
MAX_REPEATED = 20
#: Tests that share nothing: pure functions, servers of their own on sockets of their own, other programs on own files.
PARALLEL = ("tests/unit", "tests/property", "tests/differential", "tests/fake")
#: Of these rooms, what measures CPU: two workers take it from each other.
ALONE = ("tests/property/test_stackfile_hostile.py",)
#: What pytest leaves of its last run: the ids of the tests that failed, and of files that could not be collected.
RECORD = Path(".pytest_cache/v/cache/lastfailed")
FAILED, NOTHING_COLLECTED = 1, 5


def pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def failed() -> set[str]:
    """Ids of what failed and did not pass since."""
    return set(json.loads(RECORD.read_text(encoding="utf-8"))) if RECORD.exists() else set()


def verdict(first: set[str], second: set[str]) -> tuple[int, list[str]]:
    """Exit status and what to print, from what failed at first and what of it failed again."""
    flaky = sorted(first - second)
    said = [f"failed twice: {name}" for name in sorted(second)]
    said += [f"flaky, failed at first and passed when repeated: {name}" for name in flaky]
    if len(flaky) > MAX_FLAKY:
        said.append(f"error: {len(flaky)} flaky tests, at most {MAX_FLAKY} are let pass: mend them first")
    elif flaky:
        said.append(f"{len(flaky)} flaky, {MAX_FLAKY} are let pass: mend them before anything else")
    return int(bool(second) or len(flaky) > MAX_FLAKY), said


def _rooms() -> list[str]:
    """The rooms that touch the kernel, one test at a time."""
    rooms = {str(file.parent) for file in Path("tests").glob("*/test_*.py")}
    return sorted(rooms - set(PARALLEL))


def main() -> int:
    workers = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
    kept_back = [f"--ignore={file}" for file in ALONE]
    statuses = [pytest("--cache-clear", *workers, "--durations=5", *kept_back, *PARALLEL)]
    statuses.append(pytest("--durations=25", *ALONE, *_rooms()))
    if any(status not in (0, FAILED) for status in statuses):
        print(f"error: pytest ended with {statuses}: not a matter of a test", file=sys.stderr)
        return max(statuses)
    first = failed()
    if not first:
        return 0
    if len(first) > MAX_REPEATED:
        print(f"error: {len(first)} tests failed, too many to run once more", file=sys.stderr)
        return 1
    print(f"running {len(first)} tests that failed once more", file=sys.stderr)
    status = pytest("--last-failed", "--last-failed-no-failures", "none")
    if status not in (0, FAILED, NOTHING_COLLECTED):
        return status
    code, said = verdict(first, failed())
    print("\n".join(said), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
