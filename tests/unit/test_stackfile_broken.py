"""116 broken stack files and every word that is said about them: place, message, source line, caret, help."""

from __future__ import annotations

import pytest
from stackfile_cases import BROKEN, complaint, read, reader, request

from pystack.model.errors import StackFileError
from pystack.stackfile.diagnostics import Diagnostic
from pystack.stackfile.load import resolve

CASES = read(BROKEN)
GOLDEN = dict(
    block.split("\n", 1)
    for block in BROKEN.with_suffix(".txt").read_text("utf-8").removeprefix("=== ").split("\n=== ")
)


def test_what_is_said() -> None:
    assert {case.name: complaint(case) for case in CASES} == {k: v.rstrip("\n") for k, v in GOLDEN.items()}


def test_every_place_is_in_its_file_and_the_caret_below_it() -> None:
    for case in CASES:
        with pytest.raises(StackFileError) as caught:
            resolve(request(case), reader(case))
        for found in caught.value.diagnostics:
            assert isinstance(found, Diagnostic)
            text = case.files[found.file].split("\n")
            assert found.source_line == text[found.line - 1], case.name
            assert 1 <= found.column <= len(found.source_line) + 1
            lines = str(found).split("\n")
            shown, caret = lines[2].split("| ", 1)[1], lines[3].split("| ", 1)[1]
            start = caret.index("^")
            assert shown[start:].startswith(found.source_line[found.column - 1 :][:20]), case.name


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80
