"""Stack files are read with the rights of whoever asks, and the daemon's threads keep their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pystack.api.callers import Caller, with_rights_of
from pystack.kernel.rootpath import remove_tree
from pystack.model.errors import Forbidden
from pystack.stackfile.source import HostReader

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    remove_tree(str(made))


async def test_files_are_read_with_the_callers_rights(directory: Path) -> None:
    for name, group, mode in (("secret", 0, 0o600), ("shared", 4242, 0o640), ("own", 1234, 0o040)):
        path = directory / name
        path.write_text(name)
        os.chown(path, 0, group)
        path.chmod(mode)
    caller = Caller(uid=1234, gid=1234, groups=(4242,))

    async def read(name: str, who: Caller) -> str:
        return await with_rights_of(who, lambda: HostReader().read_text(str(directory / name)))

    with pytest.raises(Forbidden, match="permission denied"):
        await read("secret", caller)
    assert await read("shared", caller) == "shared"
    assert await read("own", caller) == "own"
    with pytest.raises(Forbidden):
        await read("shared", Caller(uid=1234, gid=1234))
    assert await read("secret", Caller(uid=0, gid=0)) == "secret"
    assert (directory / "secret").read_text() == "secret"
