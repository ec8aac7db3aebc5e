"""A request to the desired state: every attribute in scope, names, variables, profiles, files, speed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fake.stackfile_reader import MemoryReader

from pystack.model.container import (
    DeviceLimit,
    Healthcheck,
    LogConfig,
    Mount,
    PortBinding,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pystack.model.desired import (
    Dependency,
    FileReference,
    Service,
    ServiceNetwork,
    StackNetwork,
    StackVolume,
)
from pystack.model.errors import InvalidInput, NotFound, StackFileError
from pystack.stackfile.cache import LoadCache
from pystack.stackfile.load import Loaded, LoadRequest, find_files, load
from pystack.stackfile.source import HostReader


def loaded(text: str, files: dict[str, str] | None = None, **request: Any) -> Loaded:
    everything = {"/p/stack.yml": dedent(text)} | {f"/p/{n}": t for n, t in (files or {}).items()}
    return load(
        LoadRequest(**{"files": ("stack.yml",), "working_dir": "/p", **request}), MemoryReader(everything)
    )


def service(attributes: str, rest: str = "", **request: Any) -> Service:
    return loaded(f"services: {{a: {{image: x, {attributes}}}}}\n{rest}", **request).stack.services["a"]


@pytest.mark.parametrize(
    ("attribute", "field", "expected"),
    [
        ("command: echo 'a b' $$x", "command", ("echo", "a b", "$x")),
        ("oom_score_adj: -5", "oom_score_adj", -5),
        ("uts: host", "uts", "host"),
        ("userns_mode: host", "userns_mode", "host"),
        ("cgroup: private", "cgroup", "private"),
        ("cgroup_parent: a/b", "cgroup_parent", "a/b"),
        ("annotations: [a=b]", "annotations", {"a": "b"}),
        (
            "blkio_config: {weight: 300, device_read_bps: [{path: /dev/x, rate: 1mb}]}",
            "resources",
            Resources(
                blkio_weight=300, blkio_device_read_bps=(DeviceLimit(path="/dev/x", value=1024 * 1024),)
            ),
        ),
        ("command: []", "command", ()),
        ('entrypoint: [a, "1"]', "entrypoint", ("a", "1")),
        (
            "environment: {A: 1.10, B: yes, C: , D: true}",
            "environment",
            {"A": "1.1", "B": "yes", "C": None, "D": "true"},
        ),
        ("environment: [A=a=b, HOME]", "environment", {"A": "a=b", "HOME": "/h"}),
        (
            "ports: ['8080:80/udp']",
            "ports",
            (PortBinding(container_port=80, protocol="udp", host_port=8080),),
        ),
        ("ports: [80]", "ports", (PortBinding(container_port=80),)),
        (
            "ports: ['127.0.0.1:8000-8002:80']",
            "ports",
            (PortBinding(container_port=80, host_ip="127.0.0.1", host_port=8000, host_port_end=8002),),
        ),
        ("ports: ['[::1]:1:2']", "ports", (PortBinding(container_port=2, host_ip="::1", host_port=1),)),
        ("expose: [80, '81-82/udp']", "expose", ("80/tcp", "81/udp", "82/udp")),
        (
            "volumes: ['./a:/b:ro,rslave']",
            "mounts",
            (
                Mount(
                    type="bind",
                    source="/p/a",
                    target="/b",
                    read_only=True,
                    propagation="rslave",
                    create_host_path=True,
                ),
            ),
        ),
        (
            "volumes: ['~/a:/b/']",
            "mounts",
            (Mount(type="bind", source="/h/a", target="/b", create_host_path=True),),
        ),
        ("volumes: [/anon]", "mounts", (Mount(type="volume", target="/anon"),)),
        (
            "volumes: [{type: bind, source: /a, target: /b, bind: {create_host_path: false, recursive: disabled}}]",
            "mounts",
            (Mount(type="bind", source="/a", target="/b", recursive=False),),
        ),
        (
            "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 10m, mode: 0700}}]",
            "mounts",
            (Mount(type="tmpfs", target="/t", tmpfs_size=10485760, tmpfs_mode=0o700),),
        ),
        ("tmpfs: '/t:size=1m'", "mounts", (Mount(type="tmpfs", target="/t", tmpfs_options="size=1m"),)),
        ("network_mode: host", "networks", ()),
        ("network_mode: none", "network_mode", "none"),
        (
            "healthcheck: {test: x y, interval: 1m30s, timeout: 500ms, retries: '3', start_period: 1d}",
            "healthcheck",
            Healthcheck(
                test=("CMD-SHELL", "x y"),
                interval=90_000_000_000,
                timeout=500_000_000,
                retries=3,
                start_period=86_400_000_000_000,
            ),
        ),
        ("healthcheck: {disable: true}", "healthcheck", Healthcheck(test=("NONE",))),
        ("restart: on-failure:3", "restart", RestartPolicy(name="on-failure", maximum_retry_count=3)),
        ("restart: 'no'", "restart", RestartPolicy()),
        ("deploy: {restart_policy: {condition: any}}", "restart", RestartPolicy(name="always")),
        (
            "deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}",
            "restart",
            RestartPolicy(name="on-failure", maximum_retry_count=2),
        ),
        ("deploy: {replicas: 3}", "replicas", 3),
        ("scale: 0", "replicas", 0),
        (
            "mem_limit: 1.5g, cpus: '0.5', pids_limit: 10",
            "resources",
            Resources(memory=1610612736, nano_cpus=500_000_000, pids_limit=10),
        ),
        (
            "deploy: {resources: {limits: {cpus: '0.25', memory: 50M, pids: 5}, reservations: {memory: 20M}}}",
            "resources",
            Resources(memory=52428800, nano_cpus=250_000_000, pids_limit=5, memory_reservation=20971520),
        ),
        (
            "ulimits: {nofile: 1024, nproc: {soft: 1, hard: -1}}",
            "resources",
            Resources(
                ulimits=(Ulimit(name="nofile", soft=1024, hard=1024), Ulimit(name="nproc", soft=1, hard=-1))
            ),
        ),
        ("user: 1000:1000", "user", "1000:1000"),
        ("init: true, tty: 'true'", "init", True),
        ("cap_add: [NET_ADMIN], cap_drop: [ALL]", "cap_drop", ("ALL",)),
        ("stop_grace_period: 1m", "stop_grace_period", 60_000_000_000),
        ("shm_size: 64mb", "shm_size", 67108864),
        ("sysctls: [net.core.somaxconn=1024]", "sysctls", {"net.core.somaxconn": "1024"}),
        (
            "security_opt: ['no-new-privileges:true', seccomp:unconfined]",
            "security_opt",
            ("no-new-privileges=true", "seccomp=unconfined"),
        ),
        ("group_add: [1, audio]", "group_add", ("1", "audio")),
        ("labels: [a=b, c]", "labels", {"a": "b", "c": ""}),
        ("extra_hosts: {a: 1.2.3.4, b: '::1'}", "extra_hosts", ("a:1.2.3.4", "b:::1")),
        ("dns: 1.1.1.1", "dns", ("1.1.1.1",)),
        ("dns_opt: ['ndots:1']", "dns_options", ("ndots:1",)),
        (
            "logging: {driver: local, options: {max-file: 3}}",
            "log",
            LogConfig(driver="local", options={"max-file": "3"}),
        ),
        ("pull_policy: if_not_present", "pull_policy", "missing"),
        ("user: x, x-mine: [1]", "user", "x"),
    ],
)
def test_attributes(attribute: str, field: str, expected: object) -> None:
    assert getattr(service(attribute, environment={"HOME": "/h"}), field) == expected


def test_networks_volumes_and_their_names() -> None:
    stack = loaded("""\
        name: shop
        services:
          a:
            image: x
            networks: {front: {aliases: [q], priority: 1}, back: {priority: 9}}
            volumes: [data:/d, "shared:/s:nocopy"]
          b: {image: x}
        networks:
          front: {internal: true, ipam: {config: [{subnet: 10.0.0.0/24}]}, labels: [a=b]}
          back: {external: true, name: realback}
          unused: {}
        volumes: {data: , shared: {external: true}, unused: }
        """).stack
    assert stack.name == "shop"
    assert stack.services["a"].networks == (
        ServiceNetwork(network="back", priority=9),
        ServiceNetwork(network="front", aliases=("q",), priority=1),
    )
    assert stack.services["b"].networks == (ServiceNetwork(network="default"),)
    assert set(stack.networks) == {"front", "back", "default"}
    assert stack.networks["back"] == StackNetwork(key="back", name="realback", external=True)
    assert stack.networks["default"] == StackNetwork(key="default", name="shop_default")
    assert (stack.networks["front"].name, stack.networks["front"].internal) == ("shop_front", True)
    assert stack.networks["front"].ipam_pools[0].subnet == "10.0.0.0/24"
    assert stack.volumes == {
        "data": StackVolume(key="data", name="shop_data"),
        "shared": StackVolume(key="shared", name="shared", external=True),
    }
    assert stack.services["a"].mounts[1] == Mount(type="volume", source="shared", target="/s", nocopy=True)


def test_dependencies_explicit_and_implied() -> None:
    stack = loaded("""\
        services:
          a:
            image: x
            depends_on: {b: {condition: service_healthy, restart: true}, gone: {condition: service_started, required: false}}
            network_mode: service:c
          b: {image: x}
          c: {image: x, depends_on: [b]}
        """).stack
    assert stack.services["a"].depends_on == (
        Dependency(service="b", condition="service_healthy", restart=True),
        Dependency(service="c", restart=True),
    )
    assert stack.services["c"].depends_on == (Dependency(service="b"),)


def test_secrets_and_configs_are_read() -> None:
    stack = loaded(
        """\
        services:
          a:
            image: x
            secrets: [s1, {source: s2, target: t2, uid: "1", gid: "2", mode: 0400}]
            configs: [c1, {source: c1, target: /etc/c}]
        secrets: {s1: {file: ./s1}, s2: {environment: TOKEN}, unused: {file: missing}}
        configs: {c1: {content: "hello $${X} ${TOKEN}"}}
        """,
        {"s1": "file content"},
        environment={"TOKEN": "tö"},
    ).stack
    assert stack.secrets["s1"].content == b"file content"
    assert stack.secrets["s2"].content == "tö".encode()
    assert stack.configs["c1"].content == "hello ${X} tö".encode()
    assert "unused" not in stack.secrets
    assert stack.services["a"].files == (
        FileReference(kind="secret", source="s1", target="/run/secrets/s1"),
        FileReference(kind="secret", source="s2", target="/run/secrets/t2", uid=1, gid=2, mode=0o400),
        FileReference(kind="config", source="c1", target="/c1"),
        FileReference(kind="config", source="c1", target="/etc/c"),
    )


def test_env_files_below_environment() -> None:
    found = loaded(
        "services: {a: {image: x, env_file: [one, {path: two}, {path: nope, required: false}], environment: {C: own}}}",
        {"one": "A=1\nB=1\nC=1\n", "two": "B=2\nD=${H}x\nBARE\n"},
        environment={"H": "h"},
    ).stack.services["a"]
    assert found.environment == {"A": "1", "B": "2", "C": "own", "D": "hx"}


def test_interpolation_environment_precedence() -> None:
    text = 'services: {a: {image: "${A}-${B-none}-${COMPOSE_PROJECT_NAME}"}}\nname: n'
    image = lambda **kw: loaded(text, {".env": "A=dot\nB=dot", "e": "A=file"}, **kw).stack.services["a"].image  # noqa: E731
    assert image() == "dot-dot-n"
    assert image(environment={"A": "shell"}) == "shell-dot-n"
    assert image(env_files=("e",)) == "file-none-n"
    assert image(environment={"COMPOSE_ENV_FILES": "e"}) == "file-none-n"
    assert image(environment={"COMPOSE_DISABLE_ENV_FILE": "1"}) == "-none-n"
    with pytest.raises(NotFound, match="cannot find env file /p/none"):
        image(env_files=("none",))


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({}, "my-app"),
        ({"environment": {"COMPOSE_PROJECT_NAME": "env"}}, "env"),
        ({"environment": {"COMPOSE_PROJECT_NAME": "env"}, "project_name": "flag"}, "flag"),
    ],
)
def test_project_name_precedence(request_: dict[str, Any], name: str) -> None:
    assert loaded('services: {a: {image: x}}\nname: "My-App${E}"', **request_).stack.name == name


def test_project_name_from_the_directory_and_refused_ones() -> None:
    reader = MemoryReader(
        {"/x/My App_1/c.yml": "services: {a: {image: x}}", "/.../c.yml": "services: {a: {image: x}}"}
    )
    assert load(LoadRequest(files=("c.yml",), working_dir="/x/My App_1"), reader).stack.name == "myapp_1"
    with pytest.raises(InvalidInput, match="cannot use `My App` as a project name"):
        loaded("services: {a: {image: x}}", project_name="My App")
    with pytest.raises(InvalidInput, match="cannot make a project name"):
        load(LoadRequest(files=("c.yml",), working_dir="/..."), reader)


PROFILES = """\
services:
  always: {image: x}
  dbg: {image: x, profiles: [debug], depends_on: [helper]}
  helper: {image: x, profiles: [debug]}
  other: {image: x, profiles: [other]}
"""


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        ({}, ["always"]),
        ({"profiles": ("debug",)}, ["always", "dbg", "helper"]),
        ({"profiles": ("*",)}, ["always", "dbg", "helper", "other"]),
        ({"environment": {"COMPOSE_PROFILES": "debug, other"}}, ["always", "dbg", "helper", "other"]),
        ({"services": ("dbg",)}, ["always", "dbg", "helper"]),
    ],
)
def test_profiles(request_: dict[str, Any], names: list[str]) -> None:
    found = loaded(PROFILES, **request_)
    assert list(found.stack.services) == names
    assert set(found.disabled) == {"always", "dbg", "helper", "other"} - set(names)


def test_a_dependency_that_a_profile_disables() -> None:
    with pytest.raises(
        StackFileError, match="depends on `b`, which is enabled only with profile `q`"
    ) as caught:
        loaded("services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [q]}}")
    assert "add --profile q" in str(caught.value)


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(StackFileError, match="no such service: wbe") as caught:
        loaded("services: {web: {image: x}}", services=("wbe",))
    assert "did you mean `web`?" in str(caught.value)


def test_warnings_do_not_stop_the_load() -> None:
    found = loaded(
        "version: '3'\nservices: {a: {image: 'x$Q', deploy: {placement: {}, update_config: {delay: 1s}}}}"
    )
    assert [w.code for w in found.warnings] == ["obsolete", "unset-variable", "unsupported", "unsupported"]


def test_standard_input() -> None:
    text = "services: {a: {image: x, volumes: ['./d:/d']}}"
    found = load(LoadRequest(files=("-",), stdin=text, working_dir="/w/proj"), MemoryReader({}))
    assert (found.stack.name, found.stack.config_files) == ("proj", ())
    assert found.stack.services["a"].mounts[0].source == "/w/proj/d"


def test_project_directory_moves_relative_paths_and_dotenv() -> None:
    reader = MemoryReader(
        {"/p/c.yml": 'services: {a: {image: "x$V", volumes: ["./d:/d"]}}', "/q/.env": "V=1"}
    )
    found = load(LoadRequest(files=("c.yml",), working_dir="/p", project_directory="/q"), reader).stack
    assert (found.name, found.services["a"].image, found.services["a"].mounts[0].source) == (
        "q",
        "x1",
        "/q/d",
    )


def test_files_are_found_upward_with_their_override() -> None:
    reader = MemoryReader({"/a/compose.yaml": "x", "/a/compose.override.yml": "x", "/a/b/stack.yml": "x"})
    assert find_files("/a/b/c", reader) == ("/a/b/stack.yml",)
    assert find_files("/a", reader) == ("/a/compose.yaml", "/a/compose.override.yml")
    with pytest.raises(NotFound, match="cannot find a stack file in /z"):
        find_files("/z", reader)


def test_compose_file_names_the_files() -> None:
    files = {"/p/one.yml": "services: {a: {image: x}}", "/p/two.yml": "services: {a: {command: y}}"}
    environment = {"COMPOSE_FILE": "one.yml:two.yml"}
    found = load(LoadRequest(working_dir="/p", environment=environment), MemoryReader(files)).stack
    assert found.services["a"].command == ("y",)
    assert found.config_files == ("/p/one.yml", "/p/two.yml")
    dotenv = {**files, "/p/.env": "COMPOSE_FILE=two.yml,one.yml\nCOMPOSE_PATH_SEPARATOR=,"}
    assert load(LoadRequest(working_dir="/p"), MemoryReader(dotenv)).stack.config_files == (
        "/p/two.yml",
        "/p/one.yml",
    )


def test_the_host_reader_refuses_what_is_no_plain_file(tmp_path: Path) -> None:
    reader = HostReader()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="it is a directory"):
        reader.read_text(str(tmp_path))
    with pytest.raises(InvalidInput, match="not a regular file"):
        reader.read_text(str(tmp_path / "fifo"))
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        reader.read_text(str(tmp_path / "bytes"))
    with pytest.raises(NotFound, match="cannot find"):
        reader.read_text(str(tmp_path / "none"))
    (tmp_path / "long").write_text("abc")
    with pytest.raises(InvalidInput, match="larger than 2 bytes"):
        reader.read_bytes(str(tmp_path / "long"), 2)


def old(path: Path, text: str) -> None:
    """Writes a file whose time of change lies in the past, as a cache needs it."""
    path.write_text(text)
    past = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(past, past))


def test_the_cache_answers_until_a_file_changes(tmp_path: Path) -> None:
    file, dotenv = tmp_path / "stack.yml", tmp_path / ".env"
    old(file, "services: {a: {image: 'x$V'}}")
    request = LoadRequest(working_dir=str(tmp_path), environment={})
    cache, reader = LoadCache(), HostReader()
    first = cache.load(request, reader, 0)
    assert cache.load(request, reader, 0) is first
    assert cache.load(request, reader, 1) is not first  # another caller's credentials
    old(dotenv, "V=1")
    second = cache.load(request, reader, 0)
    assert second.stack.services["a"].image == "x1"
    old(file, "services: {a: {image: 'yy'}}")
    assert cache.load(request, reader, 0).stack.services["a"].image == "yy"
