"""Reading json-file logs: tail, time, rotation, following."""

import asyncio
import json
import os

import pytest

from pystack.engine import clock, logs
from pystack.engine.interface import LogOptions
from pystack.kernel.inotify import DirectoryWatcher

T0 = clock.parse_ns("2026-11-24T13:00:00Z")


def line(number, stream="stdout", text=None):
    entry = {"log": text or f"{number}\n", "stream": stream, "time": clock.format_ns(T0 + number * 10**9)}
    return json.dumps(entry).encode() + b"\n"


def write(path, numbers, mode="wb", **more):
    with open(path, mode) as file:
        file.writelines(line(number, **more) for number in numbers)


def read(path, ended=lambda: True, **options):
    async def scene():
        watcher = DirectoryWatcher()
        try:
            return [
                e.line async for e in logs.read(path, LogOptions(**options), ended=ended, watcher=watcher)
            ]
        finally:
            watcher.close()

    return asyncio.run(scene())


@pytest.fixture
def rotated(tmp_path):
    path = str(tmp_path / "c-json.log")
    write(f"{path}.2", range(10))
    write(f"{path}.1", range(10, 20))
    write(path, range(20, 30))
    return path


def numbers(found):
    return [int(text) for text in found]


def test_everything_in_order_across_rotated_files(rotated):
    assert numbers(read(rotated)) == list(range(30))


@pytest.mark.parametrize("count", [0, 1, 10, 15, 29, 30, 99])
def test_tail_from_the_end(rotated, count):
    assert numbers(read(rotated, tail=count)) == list(range(30))[max(0, 30 - count) :]


def test_since_and_until(rotated):
    found = read(rotated, since=T0 + 5 * 10**9, until=T0 + 25 * 10**9)
    assert numbers(found) == list(range(5, 26))
    assert numbers(read(rotated, since=T0 + 28 * 10**9, tail=10)) == [28, 29]


def test_streams_torn_lines_and_garbage(tmp_path):
    path = str(tmp_path / "l")
    write(path, [1])
    write(path, [2], "ab", stream="stderr")
    with open(path, "ab") as file:
        file.write(b"garbage\n" + line(3) + b'{"log":"torn')
    assert numbers(read(path)) == numbers(read(path, tail=10)) == [1, 2, 3]
    assert numbers(read(path, stdout=False)) == [2]


def test_a_tail_over_many_blocks(tmp_path):
    path = str(tmp_path / "l")
    write(path, range(400), text="y" * 1500 + "\n")
    assert len(read(path, tail=300)) == 300
    assert read(path, tail=1) == [b"y" * 1500 + b"\n"]


def test_an_absent_log_is_empty(tmp_path):
    assert read(str(tmp_path / "none")) == read(str(tmp_path / "none"), tail=5) == []


@pytest.mark.parametrize("tail", [None, 0, 2])
def test_following_across_rotation_loses_nothing(tmp_path, tail):
    path, over = str(tmp_path / "l"), []
    write(path, range(5))

    async def writer():
        number = 5
        for _ in range(4):
            await asyncio.sleep(0.01)
            for step in range(2):  # two rotations between two looks of the reader
                write(path, range(number, number + 3), "ab")
                number += 3
                for index in (3, 2, 1):
                    if os.path.exists(f"{path}.{index}"):
                        os.rename(f"{path}.{index}", f"{path}.{index + 1}")
                os.rename(path, f"{path}.1")
                write(path, [], "wb")
                del step
        write(path, [number], "ab")
        over.append(1)
        write(path, [number + 1], "ab")
        return number + 2

    async def scene():
        watcher = DirectoryWatcher()
        stream = logs.read(
            path, LogOptions(follow=True, tail=tail), ended=lambda: bool(over), watcher=watcher
        )
        task = asyncio.ensure_future(writer())
        found = [int(e.line) async for e in stream]
        watcher.close()
        return found, await task

    found, end = asyncio.run(scene())
    assert found == list(range(5 - (5 if tail is None else tail), end))


def test_a_container_removed_before_it_is_followed(tmp_path):
    """There is nothing to wait for: the stream ends, although nobody says that the container has ended."""
    assert read(str(tmp_path / "gone" / "c-json.log"), ended=lambda: False, follow=True) == []
