"""Updates of limits: what is merged, what conflicts, in Docker's words, and what is written to the kernel."""

import pytest

from pystack.engine.resources import check_restart, merged, to_write, undoing
from pystack.model.container import Resources, RestartPolicy
from pystack.model.errors import Conflict, InvalidInput

MIB = 1 << 20
ID = "ab" * 32


def test_what_is_not_asked_for_stays():
    current = Resources(memory=64 * MIB, cpu_shares=512, pids_limit=5, device_cgroup_rules=("c 1:3 r",))
    found = merged(ID, current, Resources(cpuset_cpus="0"))
    assert found == Resources(
        memory=64 * MIB, cpu_shares=512, pids_limit=5, device_cgroup_rules=("c 1:3 r",), cpuset_cpus="0"
    )
    assert to_write(found, Resources(cpuset_cpus="0")) == Resources(cpuset_cpus="0")


def test_a_limit_of_processes_can_be_taken_away():
    current = Resources(pids_limit=5)
    found = merged(ID, current, Resources(pids_limit=0))
    assert found == Resources()
    assert to_write(found, Resources(pids_limit=0)) == Resources(pids_limit=0)
    assert merged(ID, current, Resources(memory=64 * MIB, memory_swap=-1)).pids_limit == 5


def test_memory_and_swap_go_together():
    current = Resources(memory=64 * MIB)
    found = merged(ID, current, Resources(memory=100 * MIB))
    assert (found.memory, found.memory_and_swap) == (100 * MIB, 128 * MIB)
    assert to_write(found, Resources(memory=100 * MIB)) == Resources(memory=100 * MIB, memory_swap=128 * MIB)
    for before in (current, Resources(), Resources(memory=64 * MIB, memory_swap=-1)):
        with pytest.raises(Conflict) as refused:
            merged(ID, before, Resources(memory=300 * MIB))
        assert str(refused.value) == (
            f"Cannot update container {ID}: Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
    assert merged(ID, current, Resources(memory=300 * MIB, memory_swap=-1)).memory_and_swap == -1


@pytest.mark.parametrize(
    ("current", "asked", "message"),
    [
        (
            {"cpu_period": 1000},
            {"nano_cpus": 5},
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            {"cpu_quota": 1000},
            {"nano_cpus": 5},
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            {"nano_cpus": 5},
            {"cpu_period": 1000},
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            {"nano_cpus": 5},
            {"cpu_quota": 1000},
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ],
)
def test_conflicts(current, asked, message):
    with pytest.raises(Conflict, match=f"Cannot update container {ID}: Conflicting options: {message}"):
        merged(ID, Resources(**current), Resources(**asked))


def test_a_quota_is_written_with_its_period():
    found = merged(ID, Resources(cpu_period=50_000), Resources(cpu_quota=25_000))
    assert to_write(found, Resources(cpu_quota=25_000)) == Resources(cpu_period=50_000, cpu_quota=25_000)


def test_what_was_is_written_back():
    assert undoing(Resources(), Resources(memory=1, memory_swap=2, pids_limit=4, nano_cpus=5)) == Resources(
        memory=-1, memory_swap=-1, pids_limit=0, cpu_quota=-1
    )
    assert undoing(Resources(memory=5, cpu_shares=7), Resources(memory=1, cpu_shares=2)) == Resources(
        memory=5, memory_swap=10, cpu_shares=7
    )


def test_retry_counts():
    for policy, message in (
        (RestartPolicy(name="always", maximum_retry_count=2), "can only be used with 'on-failure'"),
        (
            RestartPolicy(name="no", maximum_retry_count=-2),
            "can only be used with 'on-failure' and cannot be negative",
        ),
        (RestartPolicy(name="on-failure", maximum_retry_count=-1), "maximum retry count cannot be negative"),
    ):
        with pytest.raises(InvalidInput, match=message + r"\Z"):
            check_restart(policy)
    check_restart(RestartPolicy(name="on-failure", maximum_retry_count=3))
