"""Capabilities by Docker's rules."""

import pytest

from pystack.kernel import capabilities
from pystack.model.errors import InvalidInput


def test_the_default_is_dockers():
    assert capabilities.effective_set(False, (), ()) == 0xA80425FB
    assert len(capabilities.names(capabilities.DEFAULT)) == 14


def test_adding_and_dropping():
    chown, admin = capabilities.bit("CHOWN"), capabilities.bit("cap_net_admin")
    assert (chown, admin) == (1 << 0, 1 << 12)
    assert capabilities.effective_set(False, ["NET_ADMIN"], ["chown"]) == (0xA80425FB & ~chown) | admin
    assert capabilities.effective_set(False, ["NET_ADMIN"], ["ALL"]) == admin
    assert capabilities.effective_set(False, [], ["all"]) == 0
    assert capabilities.effective_set(False, ["CAP_ALL"], ["CAP_CHOWN"]) == capabilities.full_set() & ~chown
    assert capabilities.effective_set(False, ["SYS_TIME", "CAP_SYS_TIME"], ()) == 0xA80425FB | 1 << 25


def test_privileged_is_all_of_the_running_kernel_and_leaves_no_trace():
    assert capabilities.effective_set(True, (), ("ALL",)) == (1 << (capabilities.last_capability() + 1)) - 1
    assert capabilities.effective_set(False, (), ()) == 0xA80425FB


@pytest.mark.parametrize("name", ["NOPE", "CAP_", "", "CAP_CAP_CHOWN"])
def test_unknown_names_are_refused(name):
    for privileged in (False, True):
        with pytest.raises(InvalidInput, match="unknown capability"):
            capabilities.effective_set(privileged, [name], ())
        with pytest.raises(InvalidInput, match="unknown capability"):
            capabilities.effective_set(privileged, (), [name])


def test_inheritable_and_ambient_stay_empty():
    sets = capabilities.masks(capabilities.full_set())
    assert sets["inheritable"] == sets["ambient"] == 0
    assert sets["bounding"] == sets["permitted"] == sets["effective"] == capabilities.full_set()
