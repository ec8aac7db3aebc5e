"""Address management: sentences about pools that hold for every sequence of requests."""

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from pystack.network.ipam import Pool

few = settings(max_examples=60, deadline=None)
SUBNETS = st.sampled_from(
    ["10.0.0.0/29", "10.0.0.0/28", "192.168.7.0/27", "fd00::/125", "10.1.0.0/16", "fd00:1::/64"]
)
STEPS = st.lists(st.one_of(st.just("allocate"), st.integers(0, 40)), max_size=60)


@few
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


@few
@given(SUBNETS, st.integers(1, 5))
def test_a_released_address_rests_until_the_pool_was_gone_through(subnet, count):
    pool = Pool(ip_network(subnet))
    first = [pool.allocate() for _ in range(count)]
    pool.release(first[0])
    following = pool.allocate()
    if following is not None and int(first[-1]) < pool._high:
        assert following not in first


@few
@given(SUBNETS, STEPS)
def test_a_pool_seeded_from_records_equals_the_one_before(subnet, steps):
    pool = Pool(ip_network(subnet))
    held = {address for step in steps if step == "allocate" and (address := pool.allocate())}
    fresh = Pool(ip_network(subnet))
    assert all(fresh.seed(address) for address in held)
    assert not any(fresh.seed(address) for address in held)
    assert fresh._used == pool._used
