"""DNS messages: any bytes are a query or are refused; answers say what was meant to another library."""

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from pystack.network import dnswire


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_are_refused(data):
    query = dnswire.parse(data)
    if query is not None:
        assert dnslib.DNSRecord.parse(dnswire.failure(query, dnswire.SERVFAIL)).header.rcode == 2
    answer = dnswire.format_error(data)
    assert answer is None or answer[:2] == data[:2]


@given(st.lists(st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True), min_size=1, max_size=5), st.booleans())
def test_answers_read_by_another_library_say_what_was_meant(labels, edns):
    question = dnslib.DNSRecord.question(".".join(labels))
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=4096))
    query = dnswire.parse(question.pack())
    assert query is not None
    assert (query.name, query.edns) == (".".join(labels), edns)
    record = dnslib.DNSRecord.parse(
        dnswire.addresses(query, ["10.0.0.2", "fd00::2", "10.0.0.3"], limit=query.size)
    )
    assert record.header.id == question.header.id
    assert [str(rr.rdata) for rr in record.rr] == ["10.0.0.2", "10.0.0.3"]
    assert str(record.q.qname) == ".".join(labels) + "."
    assert [rr.rtype for rr in record.ar] == ([dnslib.QTYPE.OPT] if edns else [])
