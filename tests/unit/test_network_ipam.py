"""Address management: sentences about pools that hold for every sequence of requests."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystack.model.container import IpamPool
from pystack.model.errors import Forbidden, InvalidInput
from pystack.network.ipam import DEFAULT_POOLS, Pool, choose_pool, choose_ula, find_overlap, make_pool

settings.register_profile("network", max_examples=60, deadline=None)
settings.load_profile("network")

SUBNETS = st.sampled_from(
    ["10.0.0.0/29", "10.0.0.0/28", "192.168.7.0/27", "fd00::/125", "10.1.0.0/16", "fd00:1::/64"]
)
STEPS = st.lists(st.one_of(st.just("allocate"), st.integers(0, 40)), max_size=60)


@given(SUBNETS, STEPS)
def test_no_address_is_ever_given_twice(subnet, steps):
    pool = Pool(ip_network(subnet))
    held = []
    for step in steps:
        if step == "allocate":
            address = pool.allocate()
            if address is None:
                usable = pool._last - pool._first + 1
                assert len(held) + 1 == usable  # full: everything but the gateway is held
                continue
            assert address not in held
            assert address != pool.gateway
            assert address in pool.subnet
            held.append(address)
        elif held:
            pool.release(held.pop(step % len(held)))
    assert pool.used == len(held) + 1


@given(SUBNETS, st.integers(1, 5))
def test_a_released_address_rests_until_the_pool_was_gone_through(subnet, count):
    pool = Pool(ip_network(subnet))
    first = [pool.allocate() for _ in range(count)]
    pool.release(first[0])
    following = pool.allocate()
    if following is not None and int(first[-1]) < pool._high:
        assert following not in first


@given(SUBNETS, STEPS)
def test_a_pool_seeded_from_records_equals_the_one_before(subnet, steps):
    pool = Pool(ip_network(subnet))
    held = {address for step in steps if step == "allocate" and (address := pool.allocate())}
    fresh = Pool(ip_network(subnet))
    assert all(fresh.seed(address) for address in held)
    assert not any(fresh.seed(address) for address in held)
    assert fresh._used == pool._used


def test_sequence_gateway_range_and_auxiliary_addresses():
    pool = Pool(ip_network("172.17.0.0/16"))
    assert [str(pool.allocate()) for _ in range(3)] == ["172.17.0.2", "172.17.0.3", "172.17.0.4"]
    config = IpamPool(
        subnet="10.0.0.0/16", ip_range="10.0.5.0/24", gateway="10.0.0.1", aux_addresses={"router": "10.0.5.0"}
    )
    ranged = make_pool(config)
    assert (str(ranged.gateway), str(ranged.allocate())) == ("10.0.0.1", "10.0.5.1")
    ranged.take(ip_address("10.0.9.9"))
    with pytest.raises(Forbidden, match=r"Address already in use: 10\.0\.9\.9"):
        ranged.take(ip_address("10.0.9.9"))
    with pytest.raises(Forbidden):
        ranged.take(ranged.gateway)
    ranged.release(ranged.gateway)
    assert ranged.is_used(ranged.gateway)


@pytest.mark.parametrize(
    "config",
    [
        IpamPool(subnet="10.0.0.0"),
        IpamPool(subnet="10.0.0.1/24"),
        IpamPool(subnet="10.0.0.0/24", gateway="10.0.1.1"),
        IpamPool(subnet="10.0.0.0/24", gateway="10.0.0.0"),
        IpamPool(subnet="10.0.0.0/24", ip_range="10.1.0.0/25"),
        IpamPool(subnet="10.0.0.0/24", aux_addresses={"a": "10.0.0.255"}),
        IpamPool(subnet="10.0.0.0/24", aux_addresses={"a": "x"}),
        IpamPool(subnet="nonsense"),
    ],
)
def test_what_does_not_fit_is_refused(config):
    if config.subnet == "10.0.0.0":  # a host route: no room
        pool = make_pool(config)
        assert pool.allocate() is None
        return
    with pytest.raises(InvalidInput):
        make_pool(config)


def test_default_pools_are_dockers_and_skip_what_is_taken():
    assert len(DEFAULT_POOLS) == 31
    assert str(choose_pool([])) == "172.17.0.0/16"
    assert str(choose_pool([ip_network("172.17.3.0/24"), ip_network("fd00::/8")])) == "172.18.0.0/16"
    assert str(choose_pool([ip_network("172.16.0.0/12")])) == "192.168.0.0/20"
    assert choose_pool(DEFAULT_POOLS) is None
    first = choose_ula("/var/lib/pystack", [])
    assert first.prefixlen == 64
    assert not first.overlaps(choose_ula("/var/lib/pystack", [first]))
    assert (
        find_overlap(
            ip_network("10.0.0.0/8"), [("a", ip_network("fd00::/8")), ("b", ip_network("10.2.0.0/24"))]
        )
        == "b"
    )
