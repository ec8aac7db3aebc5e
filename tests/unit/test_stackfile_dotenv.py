"""`.env` and `env_file`. The table agrees with docker compose 2.40.3."""

from __future__ import annotations

import pytest

from pystack.stackfile.document import Reporter, Source
from pystack.stackfile.dotenv import parse, parse_raw

ENVIRONMENT = {"HOME": "/h"}


def read(text: str, *, raw: bool = False) -> tuple[dict[str, str | None], Reporter]:
    reporter = Reporter()
    source = Source("/e", "e", text, "/")
    return (parse_raw if raw else parse)(source, ENVIRONMENT.get, reporter), reporter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1", {"A": "1"}),
        ("  export  A=1", {"A": "1"}),
        ("A = x ", {"A": "x"}),
        ("A: x", {"A": "x"}),
        ("A=", {"A": ""}),
        ("A=x#y", {"A": "x#y"}),
        ("A=x # y", {"A": "x"}),
        ("A=#y", {"A": "#y"}),
        ("# c\n\nA=1", {"A": "1"}),
        ("A='$HOME \\n'", {"A": "$HOME \\n"}),
        ('A="$HOME\\n\\$x"', {"A": "/h\n$x"}),
        ("A=$HOME/${B:-d}", {"A": "/h/d"}),
        ("A=\\n", {"A": "\\n"}),
        ("B=1\nA=${B}${B}", {"B": "1", "A": "11"}),
        ('A="x # y" # z', {"A": "x # y"}),
        ("A='a\nb'\nB=2", {"A": "a\nb", "B": "2"}),
        ('A="a\nb"', {"A": "a\nb"}),
        ("A='it\\'s'", {"A": "it's"}),
        ("HOME", {"HOME": "/h"}),
        ("NOPE", {"NOPE": None}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=x\r\nB=y\r\n", {"A": "x", "B": "y"}),
        ("A-b.c=1", {"A-b.c": "1"}),
        ("A=b=c", {"A": "b=c"}),
    ],
)
def test_lines(text: str, expected: dict[str, str | None]) -> None:
    values, reporter = read(text)
    assert values == expected
    assert not reporter.findings.errors


@pytest.mark.parametrize(
    ("text", "line"),
    [("A B=1", 1), ("x=1\nA,b=1", 2), ('A="un', 1), ("A=${B", 1), ('A="a"b"c"', 1), ("=x", 1)],
)
def test_what_cannot_be_read_is_reported_with_its_line(text: str, line: int) -> None:
    _, reporter = read(text)
    (error,) = reporter.findings.errors
    assert (error.code, error.line, error.file) == ("env-file", line, "e")


def test_the_environment_wins_inside_values() -> None:
    values, _ = read("HOME=/mine\nA=$HOME")
    assert values == {"HOME": "/mine", "A": "/h"}


def test_raw_files_are_taken_as_they_stand() -> None:
    values, _ = read('A="x" # y\n# c\nB=$HOME\nHOME\n', raw=True)
    assert values == {"A": '"x" # y', "B": "$HOME", "HOME": "/h"}
