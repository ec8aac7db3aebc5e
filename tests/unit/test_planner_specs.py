"""A service as a container spec, and the hash that stands for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake.stacks import after, service, stack

from pystack.model.container import SECOND, Healthcheck, Mount, PortBinding, Resources
from pystack.model.desired import FileReference, ServiceNetwork, StackFileContent, StackNetwork
from pystack.model.errors import InvalidInput
from pystack.planner import labels
from pystack.planner.specs import container_spec, service_hash

FULL = stack(
    service("db"),
    service(
        "web",
        environment={"A": "b", "EMPTY": "", "UNSET": None},
        expose=("9000", "53/udp"),
        ports=(PortBinding(container_port=80, host_port=8080),),
        mounts=(
            Mount(type="volume", source="data", target="/data"),
            Mount(type="volume", target="/anonymous"),
            Mount(type="bind", source="/src", target="/app", read_only=True),
        ),
        networks=(
            ServiceNetwork(network="back", aliases=("api", "web"), ipv4_address="10.0.0.5"),
            ServiceNetwork(network="front", priority=10),
        ),
        depends_on=after("db:healthy", restart=True),
        healthcheck=Healthcheck(test=("CMD", "true"), interval=SECOND),
        stop_grace_period=1_500_000_000,
        files=(FileReference(kind="config", source="conf", target="/etc/conf", uid=5, mode=0o400),),
        labels={"mine": "yes"},
        resources=Resources(memory=64 << 20),
        pid="service:db",
    ),
    configs={"conf": StackFileContent(key="conf", content=b"x=1")},
)


def test_everything_of_a_service_arrives_in_its_spec() -> None:
    web = FULL.services["web"]
    spec = container_spec(
        FULL, web, 2, config_hash="1:h", image_id="sha256:i", parents={"db": "db-container"}
    )
    assert spec.env == ("A=b", "EMPTY=", "UNSET")
    assert spec.exposed_ports == ("9000/tcp", "53/udp", "80/tcp")
    assert [mount.source for mount in spec.mounts] == ["shop_data", "", "/src"]
    assert [(item.network, item.aliases) for item in spec.endpoints] == [
        ("shop_front", ("web",)),
        ("shop_back", ("web", "api")),
    ]
    assert spec.network_mode == "shop_front"
    assert spec.pid_mode == "container:db-container"
    assert spec.stop_timeout == 2  # a second half begun is a second
    assert spec.files[0].content == b"x=1"
    assert (spec.files[0].uid, spec.files[0].mode) == (5, 0o400)
    assert spec.resources.memory == 64 << 20
    assert dict(spec.labels) == {
        "mine": "yes",
        labels.PROJECT: "shop",
        labels.SERVICE: "web",
        labels.CONFIG_HASH: "1:h",
        labels.NUMBER: "2",
        labels.ONEOFF: "False",
        labels.WORKING_DIR: "/work/shop",
        labels.CONFIG_FILES: "/work/shop/stack.yml",
        labels.DEPENDS_ON: "db:service_healthy:true",
        labels.IMAGE: "sha256:i",
        labels.VERSION: spec.labels[labels.VERSION],
    }


@pytest.mark.parametrize("mode", ["none", "host", "bridge", "container:abc"])
def test_a_network_mode_joins_no_network_of_the_stack(mode: str) -> None:
    wanted = stack(service("web", network_mode=mode))
    spec = container_spec(wanted, wanted.services["web"], 1, config_hash="", image_id="", parents={})
    assert (spec.network_mode, spec.endpoints) == (mode, ())


def test_what_the_stack_lacks_is_an_error_that_names_it() -> None:
    for broken, message in (
        (service("web", mounts=(Mount(type="volume", source="x", target="/x"),)), "volume 'x'"),
        (service("web", files=(FileReference(kind="secret", source="s", target="/s"),)), "secret 's'"),
        (service("web", networks=(ServiceNetwork(network="n"),)), "network 'n'"),
    ):
        wanted = stack(broken, volumes={}, networks={})
        with pytest.raises(InvalidInput, match=message):
            container_spec(wanted, broken, 1, config_hash="", image_id="", parents={})


def test_labels_read_back_what_they_say() -> None:
    web = FULL.services["web"]
    spec = container_spec(FULL, web, 1, config_hash="", image_id="", parents={"db": "x"})
    assert labels.dependencies_of(spec.labels) == web.depends_on
    assert labels.dependencies_of({labels.DEPENDS_ON: "a,b:service_healthy:false:x,c:nonsense:true"}) == (
        *after("a"),
        *after("b:healthy"),
    )


def test_the_hash_is_that_of_what_a_container_is_made_from() -> None:
    web = FULL.services["web"]
    base = service_hash(FULL, web)
    assert base.startswith("1:")
    same = replace(web, replicas=9, depends_on=(), profiles=("p",), pull_policy="always")
    assert service_hash(FULL, same) == base
    reordered = replace(web, environment=dict(reversed(web.environment.items())))
    assert service_hash(FULL, reordered) == base
    other_content = replace(FULL, configs={"conf": StackFileContent(key="conf", content=b"x=2")})
    assert service_hash(other_content, web) != base
    front = StackNetwork(key="front", name="renamed")
    assert service_hash(replace(FULL, networks={**FULL.networks, "front": front}), web) != base
    assert service_hash(FULL, replace(web, environment={**web.environment, "UNSET": ""})) != base


def test_the_hash_does_not_change_by_itself() -> None:
    """A different value here means that every container of every user is recreated by an upgrade: raise VERSION instead."""
    plain = stack(service("web", environment={"A": "b"}))
    assert service_hash(plain, plain.services["web"]) == (
        "1:25575dcd1f6f7024dafbacd904a5bb88da767cf44f13fd73abd9eb879633b0b4"
    )
