"""The json-file log: entries, chunks, rotation, compression, and a disk that refuses."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from pystack.engine.runtime.bundle import LogFile
from pystack.engine.runtime.logfile import CHUNK, LogWriter, split_entries, timestamp


def config(path: Path | str, **changes) -> LogFile:
    base: LogFile = {"path": str(path), "max_size": -1, "max_file": 1, "compress": False, "attributes": {}}
    return {**base, **changes}  # type: ignore[typeddict-item]


def entries(*paths: Path) -> list[dict]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_timestamps_have_nine_digits() -> None:
    assert timestamp(1_764_000_000_000_000_042) == "2025-11-24T16:00:00.000000042Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize(
    ("pending", "data", "complete", "rest"),
    [
        (b"", b"a\nb\n", [b"a\n", b"b\n"], b""),
        (b"", b"a\nb", [b"a\n"], b"b"),
        (b"a", b"b\n", [b"ab\n"], b""),
        (b"", b"\n\n", [b"\n", b"\n"], b""),
        (b"", b"", [], b""),
        (b"", b"x" * CHUNK, [], b"x" * CHUNK),
        (b"x" * CHUNK, b"y", [b"x" * CHUNK], b"y"),
        (b"x" * CHUNK, b"\n", [b"x" * CHUNK, b"\n"], b""),
        (b"", b"x" * (2 * CHUNK + 1) + b"\nz", [b"x" * CHUNK, b"x" * CHUNK, b"x\n"], b"z"),
    ],
)
def test_split_entries(pending: bytes, data: bytes, complete: list[bytes], rest: bytes) -> None:
    assert split_entries(pending, data) == (complete, rest)


def test_a_chunk_never_cuts_a_character() -> None:
    line = b"x" + "é".encode() * CHUNK
    chunks, rest = split_entries(b"", line + b"\n")
    assert rest == b""
    assert b"".join(chunks) == line + b"\n"
    assert all(chunk.decode() for chunk in chunks)
    assert max(len(chunk) for chunk in chunks) <= CHUNK


def test_binary_rubbish_is_still_cut() -> None:
    data = b"\x80" * (CHUNK * 3)
    chunks, rest = split_entries(b"", data)
    assert b"".join(chunks) + rest == data
    assert all(CHUNK - 3 <= len(chunk) <= CHUNK for chunk in chunks)


def test_lines_are_docker_s(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", attributes={"label": 'a"b'}))
    log.write("stdout", b'quo"te\\ \x01\n')
    log.write("stderr", "é \U0001f600 ".encode() + b"\xff\n")
    log.write("stdout", b"no newline")
    log.close()
    first, second, third = entries(tmp_path / "log")
    assert list(first) == ["log", "stream", "attrs", "time"]
    assert first["log"] == 'quo"te\\ \x01\n'
    assert first["attrs"] == {"label": 'a"b'}
    assert (second["log"], second["stream"]) == ("é \U0001f600 \ufffd\n", "stderr")
    assert third["log"] == "no newline"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_streams_do_not_mix_within_a_line(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log"))
    log.write("stdout", b"o")
    log.write("stderr", b"e\n")
    log.write("stdout", b"ut\n")
    log.close()
    assert [(e["stream"], e["log"]) for e in entries(tmp_path / "log")] == [
        ("stderr", "e\n"),
        ("stdout", "out\n"),
    ]


def test_a_log_is_continued(tmp_path: Path) -> None:
    for number in range(2):
        log = LogWriter(config(tmp_path / "log"))
        log.write("stdout", b"%d\n" % number)
        log.close()
    assert [e["log"] for e in entries(tmp_path / "log")] == ["0\n", "1\n"]


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", max_size=300, max_file=3))
    for number in range(40):
        log.write("stdout", b"%d\n" % number)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    numbers = [int(e["log"]) for e in entries(tmp_path / "log.2", tmp_path / "log.1", tmp_path / "log")]
    assert numbers == list(range(numbers[0], 40))
    assert len(numbers) >= 8


def test_one_batch_may_rotate_more_than_once(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", max_size=200, max_file=100))
    log.write("stdout", b"".join(b"%d\n" % number for number in range(30)))
    log.close()
    assert len(os.listdir(tmp_path)) == 10
    assert log.dropped == 0


def test_max_file_one_starts_over(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", max_size=200))
    for number in range(20):
        log.write("stdout", b"%d\n" % number)
    log.close()
    assert os.listdir(tmp_path) == ["log"]
    assert entries(tmp_path / "log")[-1]["log"] == "19\n"


def test_rotated_files_are_compressed_in_slices(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", max_size=1_000_000, max_file=4, compress=True))
    for number in range(12):
        log.write("stdout", b"%d\n" % number * 12_000)
    assert log.work()  # one slice is done, there is more
    log.close()
    names = sorted(os.listdir(tmp_path))
    assert [name for name in names if "tmp" in name] == []
    assert "log.1.gz" in names
    assert "log.1" not in names
    first = json.loads(gzip.decompress((tmp_path / "log.1.gz").read_bytes()).splitlines()[0])
    assert first["stream"] == "stdout"


def test_a_full_disk_drops_and_counts(tmp_path: Path) -> None:
    log = LogWriter(config("/dev/full"))
    log.write("stdout", b"a\nb\n")
    log.write("stderr", b"c")
    log.close()
    assert log.dropped == 3


def test_a_new_file_takes_the_place_of_a_full_one(tmp_path: Path) -> None:
    log = LogWriter(config(tmp_path / "log", max_size=200))
    with open(tmp_path / "log", "rb") as follower:
        for number in range(20):
            log.write("stdout", b"%d\n" % number)
        log.close()
        first = [json.loads(line)["log"] for line in follower]
    assert first == ["0\n", "1\n", "2\n"][: len(first)]
    assert len(first) >= 2  # what a follower has not read yet is still there


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"log":"to')
    log = LogWriter(config(tmp_path / "log"))
    log.write("stdout", b"whole\n")
    log.close()
    torn, whole = (tmp_path / "log").read_bytes().splitlines()
    assert torn == b'{"log":"to'
    assert json.loads(whole)["log"] == "whole\n"
