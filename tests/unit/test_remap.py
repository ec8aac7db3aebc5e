"""`userns-remap`: whose ids the option names, from files of the form of subuid(5), and what it rules out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pystack.engine import bundles, remap
from pystack.kernel.userns import to_host
from pystack.model.container import ContainerSpec, Mount
from pystack.model.errors import InvalidInput

SPEC = ContainerSpec(image="x", network_mode="bridge")


def write(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"subuid": str(path), "subgid": str(path)}


def test_ranges_follow_one_another(tmp_path: Path) -> None:
    files = write(tmp_path / "sub", "other:1:9\nroot:1000:10\n# root:5:5\nbroken\n0:5000:100\n")
    ids = remap.parse("root", **files)
    assert ids == remap.IdMap(uid=((0, 1000, 10), (10, 5000, 100)), gid=((0, 1000, 10), (10, 5000, 100)))
    assert remap.parse("0:0", **files) == ids
    assert [to_host(ids.uid, number) for number in (0, 9, 10, 109, 110)] == [1000, 1009, 5000, 5099, -1]
    assert remap.parse("", **files) is None


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("no-such-user", "", "there is no user"),
        ("root:no-such-group", "root:1:1\n", "there is no group"),
        ("root", "other:1:1\n", "gives no ids to the user root"),
        ("root", "root:0:10\n", "cannot use the range"),
        ("root", "root:4294967295:10\n", "cannot use the range"),
    ],
)
def test_options_that_name_no_ids(tmp_path: Path, option: str, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        remap.parse(option, **write(tmp_path / "sub", text))


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="gives no ids"):
        remap.parse("root", subuid=str(tmp_path / "a"), subgid=str(tmp_path / "b"))


def test_what_needs_the_hosts_ids() -> None:
    ids = remap.IdMap(uid=((0, 1000, 10),), gid=((0, 2000, 10),))
    for changes in ({"privileged": True}, {"network_mode": "host"}, {"pid_mode": "host"}):
        spec = replace(SPEC, **changes)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="user namespaces"):
            remap.check(ids, spec)
        remap.check(ids, replace(spec, userns_mode="host"))
        remap.check(None, spec)
    remap.check(ids, SPEC)
    assert remap.remapped(ids, replace(SPEC, userns_mode="host")) is None


def test_owners_of_a_tmpfs_are_the_hosts_numbers() -> None:
    ids = remap.IdMap(uid=((0, 1000, 10),), gid=((0, 2000, 10),))
    mount = Mount(type="tmpfs", target="/t", tmpfs_options="uid=7,gid=8,mode=700")
    assert bundles.tmpfs_entry(mount, ids)["data"] == "uid=1007,gid=2008,mode=700"
    assert bundles.tmpfs_entry(mount)["data"] == mount.tmpfs_options
    with pytest.raises(InvalidInput, match="no such id"):
        bundles.tmpfs_entry(replace(mount, tmpfs_options="uid=10"), ids)
