"""Rules of creation that keep a container from writing where it has no business, without root."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pystack.engine.confine import confinement
from pystack.engine.merge import merge
from pystack.engine.validation import check_modes, check_mounts, check_names, check_sysctls
from pystack.model.container import ContainerSpec, ImageConfig, Mount
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


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("kernel.core_pattern", {}, "not in a separate kernel namespace"),
        ("kernel.hostname", {}, "conflicts with the OCI"),
        ("kernel.domainname", {"uts_mode": "host"}, "not in a separate kernel namespace"),
        ("vm.swappiness", {}, "not in a separate kernel namespace"),
        ("fs.file-max", {}, "not in a separate kernel namespace"),
        ("net.core.somaxconn", {"network_mode": "host"}, "not allowed in host network namespace"),
        ("kernel.shmmax", {"ipc_mode": "host"}, "not allowed in the hosts ipc namespace"),
        ("fs.mqueue.msg_max", {"ipc_mode": "host"}, "not allowed in the hosts ipc namespace"),
        ("net/../kernel/core_pattern", {}, "invalid sysctl"),
        ("net..kernel", {}, "invalid sysctl"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", {}, "not in a separate kernel namespace"),
    ],
)
def test_sysctls_of_the_host(name: str, changes: dict[str, object], message: str) -> None:
    modes = {"network_mode": "bridge", "ipc_mode": "private", **changes}
    with pytest.raises(InvalidInput, match=message):
        check_sysctls(replace(SPEC, sysctls={name: "1"}, **modes))  # type: ignore[arg-type]


def test_sysctls_of_the_containers_own() -> None:
    names = ("net.core.somaxconn", "kernel.shmmax", "fs.mqueue.msg_max", "kernel.domainname")
    check_sysctls(replace(SPEC, network_mode="bridge", ipc_mode="private", sysctls=dict.fromkeys(names, "1")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc_mode": "container:"}, "invalid IPC mode"),
        ({"ipc_mode": "foo"}, "invalid IPC mode"),
        ({"pid_mode": "container:"}, "invalid PID mode"),
        ({"uts_mode": "container:x"}, "invalid UTS mode"),
        ({"userns_mode": "private"}, "invalid userns mode"),
        ({"cgroupns_mode": "foo"}, "invalid cgroup namespace mode"),
        ({"uts_mode": "host", "hostname": "x"}, "hostname and the UTS mode"),
        ({"uts_mode": "host", "domainname": "x"}, "domainname and the UTS mode"),
    ],
)
def test_modes_that_are_none(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_modes(replace(SPEC, **{"ipc_mode": "private", **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("subpath", ["/a", "..", "a/../../b", "./../x", "a\0b"])
def test_subpaths_that_lead_out(subpath: str) -> None:
    mount = Mount(type="volume", target="/m", source="v", subpath=subpath)
    with pytest.raises(InvalidInput, match="relative path"):
        check_mounts(replace(SPEC, mounts=(mount,)))


def test_subpaths_that_stay() -> None:
    for subpath in ("a", "a/b/", "a/../b", "./a", "..a"):
        check_mounts(replace(SPEC, mounts=(Mount(type="volume", target="/m", source="v", subpath=subpath),)))
