"""DNS messages, zones, and the three files: text and bytes that others read."""

import dnslib
import pytest

from pystack.model.errors import InvalidInput
from pystack.model.observed import EndpointView
from pystack.network import dnswire
from pystack.network.hosts import (
    HostResolver,
    ResolvConf,
    hosts_text,
    parse_resolv_conf,
    resolv_conf_text,
    split_extra_host,
)
from pystack.network.ipam import ip_network
from pystack.network.records import Attachment, Sandbox
from pystack.network.zones import Zones


def test_long_answers_are_cut_by_udp_and_whole_by_tcp():
    query = dnswire.parse(dnslib.DNSRecord.question("many").pack())
    found = [f"10.0.{i // 256}.{i % 256}" for i in range(100)]
    cut = dnswire.addresses(query, found, limit=query.size)
    assert len(cut) <= 512
    assert dnslib.DNSRecord.parse(cut).header.tc == 1
    assert len(dnslib.DNSRecord.parse(dnswire.addresses(query, found, limit=0)).rr) == 100
    assert dnslib.DNSRecord.parse(dnswire.truncated(query)).header.tc == 1


def test_replies_must_fit_the_question():
    question = dnslib.DNSRecord.question("example.com")
    query = dnswire.parse(question.pack())
    reply = question.reply().pack()
    assert dnswire.is_reply_to(reply, query, question.header.id)
    assert not dnswire.is_reply_to(reply, query, question.header.id ^ 1)
    assert not dnswire.is_reply_to(question.pack(), query, question.header.id)
    other = dnslib.DNSRecord.question("example.org")
    other.header.id = question.header.id
    assert not dnswire.is_reply_to(other.reply().pack(), query, question.header.id)


def sandbox(name, *places, links=()):
    attachments = tuple(
        Attachment(
            view=EndpointView(
                network=network,
                network_id=network,
                endpoint_id=f"{name}@{network}",
                ipv4_address=address,
                dns_names=(name, *aliases),
            ),
            interface="eth0",
            link="v",
            bridge="b",
            internal=network.startswith("inner"),
            links=links,
        )
        for network, address, aliases in places
    )
    return Sandbox(container_id=name, name=name, mode="x", hostname=name, attachments=attachments)


def test_zones_show_an_asker_its_own_networks_only():
    zones = Zones()
    for number, network in enumerate(("front", "back", "inner")):
        zones.add_network(network, network, (ip_network(f"10.0.{number}.0/24"),))
    zones.add(sandbox("web", ("front", "10.0.0.2", ["www"])))
    zones.add(sandbox("api", ("front", "10.0.0.3", ["www"]), ("back", "10.0.1.3", [])))
    zones.add(sandbox("db", ("back", "10.0.1.2", []), ("inner", "10.0.2.2", [])))
    zones.add(sandbox("vault", ("inner", "10.0.2.9", []), links=(("db", "store"),)))
    assert zones.lookup("web", "www") == ["10.0.0.2", "10.0.0.3"]
    assert zones.lookup("web", "db") is None
    assert zones.lookup("api", "db") == ["10.0.1.2"]
    assert zones.lookup("api", "db.back") == ["10.0.1.2"]
    assert zones.lookup("api", "db.front") is None
    assert zones.lookup("vault", "store") == ["10.0.2.2"]
    assert zones.lookup("nobody", "web") is None
    assert zones.reverse("web", dnswire.reverse_address("3.0.0.10.in-addr.arpa")) == ["api.front"]
    assert zones.reverse("web", dnswire.reverse_address("77.0.0.10.in-addr.arpa")) == []
    assert zones.reverse("web", dnswire.reverse_address("2.1.0.10.in-addr.arpa")) is None
    assert [zones.may_forward(name) for name in ("web", "db", "vault", "nobody")] == [
        True,
        True,
        False,
        False,
    ]
    zones.remove("api")
    zones.remove("api")
    assert zones.lookup("web", "www") == ["10.0.0.2"]
    assert zones.lookup("db", "api") is None


def test_resolv_conf_and_hosts(tmp_path):
    conf = parse_resolv_conf(
        "# x\nnameserver 127.0.0.53\nnameserver nonsense\nsearch a b ; c\noptions edns0\ndomain z\n"
    )
    assert conf == ResolvConf(servers=("127.0.0.53",), search=("z",), options=("edns0",))
    text = resolv_conf_text(conf, embedded=True, dns=("9.9.9.9",), search=("x.y",), options=())
    assert text == "nameserver 127.0.0.11\nsearch x.y\noptions edns0 ndots:0\n"
    path, behind = tmp_path / "resolv.conf", tmp_path / "behind"
    path.write_text("nameserver 127.0.0.53\n")
    resolver = HostResolver(str(path), str(behind))
    assert resolver.for_containers().servers == ("8.8.8.8", "8.8.4.4")
    behind.write_text("nameserver 192.0.2.53\n")
    assert resolver.for_containers().servers == ("192.0.2.53",)
    path.write_text("nameserver 127.0.0.1\nnameserver 192.0.2.7\n")
    assert resolver.for_containers().servers == ("192.0.2.7",)
    assert resolver.conf.servers == ("127.0.0.1", "192.0.2.7")
    lines = hosts_text(
        hostname="web", domainname="corp", addresses=["10.0.0.2"], extra=[("db", "10.9.9.9")], ipv6=False
    ).splitlines()
    assert lines == ["127.0.0.1\tlocalhost", "10.9.9.9\tdb", "10.0.0.2\tweb.corp web"]
    assert split_extra_host("a:::1") == ("a", "::1")
    assert split_extra_host("a=host-gateway") == ("a", "host-gateway")
    for bad in ("a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3", "a\nb:1.2.3.4"):
        with pytest.raises(InvalidInput, match="bad format for add-host"):
            split_extra_host(bad)
