"""Containers by the thousand, sixteen at a time: nothing is left, and the last are made as fast as the first.

    python tests/faults/soak_cycles.py [--cycles 2000] [--at-once 16]

Each cycle creates a container, starts it, runs a program in it, stops and removes it. Figures are the daemon's: memory
(PSS), descriptors and threads, after a warm-up and at the end. `make leaks` runs it; tests/faults/test_leaks.py a short one.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import oracle  # noqa: E402 - the path above comes first
from cycling import soak  # noqa: E402
from harness import Engine, run_parent  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pystack-soak-", dir="/var/lib"))
    run = Path(tempfile.mkdtemp(prefix="pss-", dir=run_parent()))
    run.chmod(0o755)
    (base / "root").mkdir()
    engine = Engine(base / "root", run)
    clean = oracle.snapshot(engine.instance)
    try:
        before, after, took = soak(engine, options.cycles, options.at_once, warm_up=100)
    finally:
        engine.remove_everything()
    oracle.wait_for_nothing_leaked(engine.instance, clean)
    tenth = max(1, len(took) // 10)
    slower = statistics.mean(took[-tenth:]) / statistics.mean(took[:tenth])
    rows = {
        "memory": (
            after.memory - before.memory < 10,
            f"{before.memory:.1f} -> {after.memory:.1f} MB, at most 10 more",
        ),
        "descriptors": (
            after.descriptors <= before.descriptors,
            f"{before.descriptors} -> {after.descriptors}",
        ),
        "threads": (after.threads <= before.threads, f"{before.threads} -> {after.threads}"),
        "last tenth": (slower <= 1.2, f"{slower:.2f} times the first, at most 1.2"),
    }
    print(
        f"{len(took)} cycles, {options.at_once} at once, {statistics.median(took) * 1000:.0f} ms each; oracle clean"
    )
    for what, (kept, figures) in rows.items():
        print(f"{'ok  ' if kept else 'FAIL'} {what}: {figures}")
    shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    return 0 if all(kept for kept, _ in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
