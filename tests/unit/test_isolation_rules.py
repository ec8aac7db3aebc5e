"""Rules of creation that keep a container from writing where it has no business, without root."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pystack.engine.confine import confinement
from pystack.engine.merge import merge
from pystack.engine.validation import check_names
from pystack.model.container import ContainerSpec, ImageConfig
from pystack.model.errors import InvalidInput
from pystack.network.hosts import split_extra_host

SPEC = ContainerSpec(image="x", command=("true",))


@pytest.mark.parametrize(
    "changes",
    [
        {"hostname": "a\nb"},
        {"hostname": "a" * 64},
        {"domainname": "a\n1.2.3.4 evil"},
        {"domainname": "a b"},
        {"domainname": "x" * 65},
        {"dns_search": ("example.org", "a\nnameserver 6.6.6.6")},
        {"dns_search": ("",)},
        {"dns_options": ("ndots:2\nnameserver 6.6.6.6",)},
        {"dns": ("1.1.1.1\n",)},
        {"dns": ("fe80::1%x\nnameserver 6.6.6.6",)},
        {"dns": ("resolver.example",)},
    ],
)
def test_names_that_would_be_lines_of_their_own(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        check_names(replace(SPEC, **changes))  # type: ignore[arg-type]


def test_names_that_are_names() -> None:
    check_names(
        replace(
            SPEC,
            hostname="web-1.example",
            domainname="_tcp.example.org",
            dns=("1.1.1.1", "fe80::1%eth0"),
            dns_search=(".", "example.org"),
            dns_options=("ndots:2",),
        )
    )


@pytest.mark.parametrize(
    "entry", ["a\nb:1.2.3.4", "a:1.2.3.4\n6.6.6.6 evil", "a:fe80::1%x\n6.6.6.6 evil", "a b:::1"]
)
def test_extra_hosts_are_one_word(entry: str) -> None:
    with pytest.raises(InvalidInput):
        split_extra_host(entry)


def test_an_image_owns_no_containers() -> None:
    image = ImageConfig(labels={"com.docker.compose.project": "victim", "maintainer": "me"})
    assert merge(SPEC, image, "0" * 64).labels == {"maintainer": "me"}
    asked = replace(SPEC, labels={"com.docker.compose.project": "mine"})
    assert merge(asked, image, "0" * 64).labels == {"maintainer": "me", "com.docker.compose.project": "mine"}


def test_exec_privileged_has_the_containers_filter() -> None:
    plain, exec_ = confinement(SPEC), confinement(SPEC, privileged=True)
    assert exec_.seccomp == plain.seccomp != ""
    assert exec_.capabilities["effective"] > plain.capabilities["effective"]
    assert confinement(replace(SPEC, privileged=True)).seccomp == ""
