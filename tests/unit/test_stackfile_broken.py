"""116 broken stack files and every word that is said about them: place, message, source line, caret, help."""

from __future__ import annotations

import re

import pytest
from stackfile_cases import BROKEN, Case, complaint, read, reader, request

from pystack.model.errors import StackFileError
from pystack.stackfile.load import resolve

CASES = read(BROKEN)
GOLDEN = dict(
    block.split("\n", 1)
    for block in BROKEN.with_suffix(".txt").read_text("utf-8").removeprefix("=== ").split("\n=== ")
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_is_said(case: Case) -> None:
    assert complaint(case) == GOLDEN[case.name].rstrip("\n")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_place_is_in_the_file_and_the_caret_below_it(case: Case) -> None:
    with pytest.raises(StackFileError) as caught:
        resolve(request(case), reader(case))
    for found in caught.value.diagnostics:
        text = case.files[found.file].split("\n")
        assert found.source_line == text[found.line - 1]
        assert 1 <= found.column <= len(found.source_line) + 1
        lines = str(found).split("\n")
        shown, caret = lines[2].split("| ", 1)[1], lines[3].split("| ", 1)[1]
        start = re.search(r"\^", caret)
        assert start is not None
        assert shown[start.start() :].startswith(found.source_line[found.column - 1 :][:20])


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80
