"""Address management: what a pool is made of, and what is refused."""

from ipaddress import ip_address, ip_network

import pytest

from pystack.model.container import IpamPool
from pystack.model.errors import Forbidden, InvalidInput
from pystack.network.ipam import DEFAULT_POOLS, Pool, choose_pool, choose_ula, find_overlap, make_pool


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
