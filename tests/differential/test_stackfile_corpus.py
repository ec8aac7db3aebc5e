"""175 real stack files against what docker compose makes of them: a measure with a floor, not a gate for each file."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pystack.model.errors import PystackError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.load import LoadRequest, resolve
from pystack.stackfile.source import HostReader

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
FLOOR = 175  # of the cases agree: equal output, or an error where compose has one


def run(cwd: Path, arguments: str, *, consistency: bool = True) -> dict[str, Any]:
    files: list[str] = []
    profiles: list[str] = []
    words = iter(shlex.split(arguments))
    for word in words:
        if word == "-f":
            files.append(next(words))
        elif word == "--profile":
            profiles.append(next(words))
        elif word != "config":
            raise ValueError(word)
    request = LoadRequest(
        files=tuple(files),
        working_dir=str(cwd),
        profiles=tuple(profiles),
        environment={"PATH": "/usr/bin:/bin", "TZ": "UTC", "HOME": "/nonexistent-home"},
    )
    return to_canonical(resolve(request, HostReader(), consistency=consistency))


def case(row: dict[str, str]) -> str:
    """ "" when we agree with compose, else why not."""
    cwd = CORPUS / "files" / row["cwd"]
    try:
        ours = run(cwd, row["args"])
    except PystackError as error:
        if row["exit"] == "0":
            return f"refused: {str(error).splitlines()[0]}"
        if not row["expected_json"]:
            return ""
        try:
            ours = run(cwd, row["args"], consistency=False)
        except PystackError as other:
            return f"refused without consistency: {str(other).splitlines()[0]}"
    else:
        if row["exit"] != "0":
            return f"accepted, compose says {row['first_error']}"
    text = (CORPUS / row["expected_json"]).read_text()
    text = text.replace("@CORPUS@", str(CORPUS / "files")).replace("@HOME@", "/nonexistent-home")
    theirs = json.loads(text)
    ours = json.loads(json.dumps(ours))
    return "" if ours == theirs else "differs at " + "; ".join(differences(ours, theirs, "")[:3])


def differences(ours: Any, theirs: Any, path: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        out = []
        for key in sorted({*ours, *theirs}):
            if key not in ours:
                out.append(f"{path}.{key} missing, theirs {theirs[key]!r:.80}")
            elif key not in theirs:
                out.append(f"{path}.{key} extra, ours {ours[key]!r:.80}")
            else:
                out += differences(ours[key], theirs[key], f"{path}.{key}")
        return out
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            d
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
            for d in differences(a, b, f"{path}[{i}]")
        ]
    return (
        []
        if ours == theirs and type(ours) is type(theirs)
        else [f"{path}: ours {ours!r:.80}, theirs {theirs!r:.80}"]
    )


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real stack files is not beside the checkout")
def test_real_files_agree_with_compose() -> None:
    with (CORPUS / "index.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    failures = {f"{row['cwd']} {row['args']}": why for row in rows if (why := case(row))}
    agreed = len(rows) - len(failures)
    print(f"\ncorpus: {agreed} of {len(rows)} agree with docker compose")
    for name, why in failures.items():
        print(f"  {name}: {why}")
    assert agreed >= FLOOR
