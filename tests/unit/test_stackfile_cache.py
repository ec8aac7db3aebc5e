"""Loads that are kept: the same object again, until a file changes, and never for somebody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pystack.stackfile.cache import LoadCache
from pystack.stackfile.project import LoadRequest
from pystack.stackfile.source import HostReader

TEXT = "name: kept\nservices:\n  web:\n    image: busybox\n    env_file: [web.env]\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "stack.yml").write_text(TEXT)
    (tmp_path / "web.env").write_text("A=1\n")
    for name in ("stack.yml", "web.env"):
        os.utime(tmp_path / name, (1, 1))  # long ago: a file that has just changed is never kept
    return tmp_path


def request(place: Path, **more: object) -> LoadRequest:
    return LoadRequest(files=(str(place / "stack.yml"),), working_dir=str(place), **more)


def test_what_is_kept_serves_the_same_request(place: Path) -> None:
    cache, reader = LoadCache(), HostReader()
    assert cache.find(request(place), reader, 0) is None
    first = cache.load(request(place), reader, 0)
    assert cache.load(request(place), reader, 0) is first
    assert cache.find(request(place), reader, 0) is first


def test_other_callers_and_environments_get_their_own(place: Path) -> None:
    cache, reader = LoadCache(), HostReader()
    first = cache.load(request(place), reader, 0)
    assert cache.find(request(place), reader, 1000) is None
    assert cache.find(request(place, environment={"A": "2"}), reader, 0) is None
    assert cache.load(request(place), reader, 1000) is not first


@pytest.mark.parametrize("name", ["stack.yml", "web.env"])
def test_a_change_of_any_file_read_is_seen(place: Path, name: str) -> None:
    cache, reader = LoadCache(), HostReader()
    first = cache.load(request(place), reader, 0)
    text = (place / name).read_text()
    (place / name).write_text(text + "\n")
    os.utime(place / name, (2, 2))
    assert cache.find(request(place), reader, 0) is None
    assert cache.load(request(place), reader, 0) is not first
    (place / "web.env").unlink()
    assert cache.find(request(place), reader, 0) is None


def test_the_oldest_goes_first(place: Path) -> None:
    cache, reader = LoadCache(size=2), HostReader()
    for identity in range(3):
        cache.load(request(place), reader, identity)
    assert [cache.find(request(place), reader, i) is not None for i in range(3)] == [False, True, True]
