"""The same docker client gives the same commands to pystack and to Docker's own daemon: what both answer is compared.

peer_script.sh has the commands, peer_differences.toml each one that is answered differently, with the reason. A listed
difference that is none any more fails too.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import harness
import images
import peer_docker
import pytest
from peer import PeerMissing, docker_daemon

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

HERE = Path(__file__).parent

#: What differs from run to run, in the order in which it is replaced.
VARYING = (
    (r"sha256:[0-9a-f]{64}", "<digest>"),
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<short id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"(?<=:) ?([0-9a-f]{2}:){5}[0-9a-f]{2}|\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    (r"\b(Less than a second|About a minute|\d+ (second|minute)s?)( ago)?", "<ago>"),
    (r"\b(10\.21[34]|172\.\d+)\.\d+\.\d+\b", "<address>"),
    (r'"(Pid|SandboxKey|HostPort)":("[^"]*"|\d+)', r'"\1":<varies>'),
    (r"(?<=<address>)/\d+|(?<=IPPrefixLen\":)\d+", "/<length>"),
    (r"127\.0\.0\.1:\d{5}\b", "127.0.0.1:<port>"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    out: str
    err: str


def commands() -> list[str]:
    lines = (HERE / "peer_script.sh").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def normal(text: str, place: Path) -> str:
    text = text.replace(str(place), "<dir>")
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    lines = (re.sub(r"[ \t]{2,}", "  ", line).rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def answers(environment: dict[str, str], place: Path) -> list[Answer]:
    place.mkdir()
    place.chmod(0o755)
    given = []
    for command in commands():
        done = subprocess.run(
            ["sh", "-c", command],
            env=environment | {"W": str(place), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        given.append(Answer(done.returncode, normal(done.stdout, place), normal(done.stderr, place)))
    return given


def differences(ours: list[Answer], theirs: list[Answer]) -> dict[str, str]:
    """Command to both answers, of those that are not equal."""
    return {
        f"{number}: {command}": f"pystack: {mine}\nDocker:  {peer}"
        for number, (command, mine, peer) in enumerate(zip(commands(), ours, theirs, strict=True), 1)
        if mine != peer
    }


def test_docker_answers_the_same(daemon: harness.Engine, tmp_path: Path) -> None:
    programs = peer_docker.programs()
    archive = images.busybox_archive(tmp_path / "busybox.tar")
    listed = tomllib.loads((HERE / "peer_differences.toml").read_text())["difference"]
    expected = {command: entry["why"] for entry in listed for command in entry["commands"]}
    try:
        with docker_daemon(programs=programs) as peer, ThreadPoolExecutor(2) as pool:
            subprocess.run(
                ["docker", "load", "-qi", str(archive)], env=peer.environment, check=True, capture_output=True
            )
            docker = pool.submit(answers, peer.environment, tmp_path / "docker")
            host = {"DOCKER_HOST": daemon.environment["PYSTACK_HOST"]}
            mine = pool.submit(answers, daemon.environment | host, tmp_path / "pystack")
            theirs, ours = docker.result(), mine.result()
            version = peer.version
    except PeerMissing as error:
        pytest.skip(str(error))
    found = differences(ours, theirs)
    if place := os.environ.get("PEER_DIFFERENCES"):  # to look at them all
        Path(place).write_text("\n\n".join(f"{key}\n{value}" for key, value in found.items()))
    different = {key.partition(": ")[2] for key in found}
    unknown = {key: value for key, value in found.items() if key.partition(": ")[2] not in expected}
    assert not unknown, f"beside Docker {version}:\n" + "\n".join(
        f"{key}\n{value}" for key, value in unknown.items()
    )
    assert not set(expected) - different, "listed as different, but the same"
    assert len(ours) >= 150
