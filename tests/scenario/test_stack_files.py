"""Stack files through the real command: attributes that reach the kernel, and the forms of `pystack config`."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from harness import Engine, write_stack

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

ATTRIBUTES = """
name: attributes
services:
  one:
    image: host.local/base
    command: ["sleep", "600"]
    stop_signal: SIGKILL
    oom_score_adj: 321
    uts: host
    userns_mode: host
    cgroup: private
    cgroup_parent: batch/low
    annotations: {"org.example.note": "kept"}
    networks: {front: {gw_priority: 9}, back: {gw_priority: 1}}
networks: {front: {}, back: {}}
"""
FILE = """
name: shown
services:
  web: {image: "host.local/base:${TAG:-latest}", ports: ["8080:80"], volumes: ["data:/data"], networks: [front]}
  extra: {image: busybox, profiles: [debug]}
networks: {front: {}}
volumes: {data: {}}
"""


def test_attributes_reach_the_container(engine: Engine, tmp_path: Path) -> None:
    stack = str(write_stack(tmp_path / "stack.yml", ATTRIBUTES))
    engine.run("up", "-d", "-f", stack)
    assert "no change" in engine.run("plan", "-f", stack).stdout.lower()
    (found,) = json.loads(engine.docker("inspect", "attributes-one-1").stdout)
    host = found["HostConfig"]
    assert (host["OomScoreAdj"], host["UTSMode"], host["UsernsMode"]) == (321, "host", "host")
    assert (host["CgroupnsMode"], host["CgroupParent"]) == ("private", "batch/low")
    assert host["Annotations"]["org.example.note"] == "kept"
    pid = found["State"]["Pid"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "321"
    assert Path(f"/proc/{pid}/ns/uts").readlink() == Path("/proc/self/ns/uts").readlink()
    assert Path(f"/proc/{pid}/ns/cgroup").readlink() != Path("/proc/self/ns/cgroup").readlink()
    assert "/batch/low/" in Path(f"/proc/{pid}/cgroup").read_text()
    networks = found["NetworkSettings"]["Networks"]
    assert {name: item["GwPriority"] for name, item in networks.items()} == {
        "attributes_front": 9,
        "attributes_back": 1,
    }
    gateway = found["NetworkSettings"]["Networks"]["attributes_front"]["Gateway"]  # not the first by name
    routes = [line.split() for line in Path(f"/proc/{pid}/net/route").read_text().splitlines()]
    assert [f[2] for f in routes if f[1] == "00000000"] == [
        f"{int(IPv4Address(gateway).packed[::-1].hex(), 16):08X}"
    ]


def test_what_config_prints(engine: Engine, tmp_path: Path) -> None:
    stack = str(write_stack(tmp_path / "stack.yml", FILE))

    def config(*options: str, check: bool = True) -> str:
        return engine.run("config", "-f", stack, *options, check=check).stdout

    assert config("--services").split() == ["web"]
    assert config("--volumes").split() == ["data"]
    assert config("--networks").split() == ["front"]
    assert config("--images").split() == ["host.local/base:latest"]
    assert config("--profiles").split() == ["debug"]
    assert config("-q") == ""
    assert config("--hash", "web").split()[0] == "web"
    assert json.loads(config("--variables", "--format", "json"))["TAG"]["DefaultValue"] == "latest"
    assert "COMPOSE_PROJECT_NAME=shown" in config("--environment")
    whole = json.loads(config("--format", "json"))
    assert whole["networks"]["front"]["name"] == "shown_front"
    assert whole["services"]["web"]["ports"][0]["published"] == "8080"
    bare = json.loads(config("--format", "json", "--no-interpolate", "--no-normalize"))
    assert bare["services"]["web"]["image"] == "host.local/base:${TAG:-latest}"
    assert "name" not in (bare["networks"]["front"] or {})
    config("-o", str(tmp_path / "out.yml"))
    assert "shown_front" in (tmp_path / "out.yml").read_text()
    engine.run("config", "-f", str(tmp_path / "out.yml"), "-q")
    (tmp_path / "stack.yml").write_text(FILE.replace("ports:", "prots:"))
    failed = engine.run("config", "-f", stack, "--format", "json", check=False)
    assert failed.returncode == 1
    (said,) = json.loads(failed.stdout)["diagnostics"]
    assert (said["line"], said["path"]) == (4, "services.web.prots")
