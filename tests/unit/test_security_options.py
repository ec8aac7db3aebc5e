"""`--security-opt`: what is understood, what is refused and in which words; AppArmor profiles where there are none and some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pystack.engine.confine import confinement, parse_security_options
from pystack.engine.validation import check
from pystack.kernel import apparmor
from pystack.kernel.host import facts
from pystack.model.container import ContainerSpec, LogConfig
from pystack.model.errors import InvalidInput

SPEC = ContainerSpec(
    image="x", command=("true",), network_mode="bridge", shm_size=1 << 20, log=LogConfig(driver="json-file")
)


def test_options_that_are_understood() -> None:
    found = parse_security_options(
        ("no-new-privileges", "label=disable", "label:disable", "seccomp=builtin", "systempaths=unconfined")
    )
    assert (found.no_new_privileges, found.seccomp, found.unmasked) == (True, "", True)
    for word, meant in (("true", True), ("1", True), ("false", False), ("0", False)):
        assert parse_security_options((f"no-new-privileges={word}",)).no_new_privileges is meant
        assert parse_security_options((f"no-new-privileges:{word}",)).no_new_privileges is meant


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("nonsense", 'invalid --security-opt 1: "nonsense"'),
        ("nonsense=1", 'invalid --security-opt 2: "nonsense=1"'),
        ("seccomp=", "invalid --security-opt 2"),
        ("apparmor=", "invalid --security-opt 2"),
        ("systempaths=other", "invalid --security-opt 2"),
        ("no-new-privileges=maybe", "invalid --security-opt"),
        ("label=type:container_t", "does not label for SELinux"),
        ("label=level:s0:c1,c2", "does not label for SELinux"),
    ],
)
def test_options_that_are_refused(option: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_security_options((option,))


def test_profiles_where_there_is_no_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "enabled", lambda: False)
    assert apparmor.choose("", privileged=False) == apparmor.choose("unconfined", privileged=True) == ""
    with pytest.raises(InvalidInput, match="AppArmor is not enabled"):
        confinement(replace(SPEC, security_opt=("apparmor=mine",)))


def test_profiles_where_there_is_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "enabled", lambda: True)
    monkeypatch.setattr(apparmor, "loaded_profiles", lambda: {"pystack-default", "docker-default", "mine"})
    apparmor.default_profile.cache_clear()
    try:
        assert confinement(SPEC).apparmor == "pystack-default"
        assert (
            confinement(SPEC, privileged=True).apparmor == "pystack-default"
        )  # exec --privileged: the container's
        assert confinement(replace(SPEC, privileged=True)).apparmor == ""
        assert confinement(replace(SPEC, security_opt=("apparmor=unconfined",))).apparmor == ""
        assert confinement(replace(SPEC, security_opt=("apparmor:mine",), privileged=True)).apparmor == "mine"
        with pytest.raises(InvalidInput, match="it is not loaded"):
            confinement(replace(SPEC, security_opt=("apparmor=other",)))
    finally:
        apparmor.default_profile.cache_clear()


def test_writable_cgroups_only_where_they_are_no_way_out() -> None:
    asked = replace(SPEC, ipc_mode="private", security_opt=("writable-cgroups",))
    v1 = replace(facts(), cgroups=replace(facts().cgroups, mode="v1"))
    v2 = replace(facts(), cgroups=replace(facts().cgroups, mode="v2"))
    features = _Everything()
    with pytest.raises(InvalidInput, match="needs cgroup v2"):
        check(asked, v1, features)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="host's cgroup namespace"):
        check(replace(asked, cgroupns_mode="host"), v2, features)  # type: ignore[arg-type]
    check(asked, v2, features)  # type: ignore[arg-type]
    check(replace(asked, security_opt=("writable-cgroups=false",)), v1, features)  # type: ignore[arg-type]


class _Everything:
    """A kernel that has every control file."""

    def __getattr__(self, name: str) -> bool:
        return True
