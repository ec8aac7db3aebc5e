"""How much one nftables table holds: rules of each chain and elements of each set, straight from the kernel.

A table's name and the expected numbers in, yes or no out. While nothing in any table of the namespace has changed since
the last yes, the answer costs one message (the ruleset's generation number). Source:
`include/uapi/linux/netfilter/nf_tables.h`.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Mapping

from pystack.kernel import nfnetlink
from pystack.kernel.nfnetlink import attribute, attributes

_GET_RULE, _GET_ELEMENTS, _GET_GENERATION = 0xA07, 0xA0D, 0xA10  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GET*
_INET = 1  # NFPROTO_INET
_TABLE = 1  # NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_TABLE
_RULE_CHAIN = 2
_LIST_SET, _LIST_ELEMENTS, _ELEMENT_FLAGS = 2, 3, 3
_GENERATION_ID = 1
_INTERVAL_END = 1


class TableCounts:
    """Not for use by two threads at once; acts on the network namespace of the thread that first uses it."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._good: tuple[int, str] | None = None  # generation and table of the last yes

    def close(self) -> None:
        """Idempotent."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def are(self, table: str, rules: Mapping[str, int], elements: Mapping[str, int]) -> bool:
        """Whether the inet table has exactly so many rules in each chain and elements in each set.

        OSError when the kernel does not say.
        """
        if self._netlink is None:
            self._netlink = nfnetlink.connect()
        generation = self._generation(self._netlink)
        if self._good == (generation, table):
            return True
        self._good = None
        same = self._rules(self._netlink, table) == rules and all(
            self._elements(self._netlink, table, name) == count for name, count in elements.items()
        )
        if same:
            self._good = generation, table
        return same

    @staticmethod
    def _generation(netlink: socket.socket) -> int:
        netlink.send(nfnetlink.request(_GET_GENERATION, 0, 0))
        for body in nfnetlink.answers(netlink, "nftables generation"):
            number = dict(attributes(body)).get(_GENERATION_ID)
            if number is not None:
                return int(struct.unpack("!I", number)[0])
        raise OSError(errno.EPROTO, "the kernel does not say", "nftables generation")

    @staticmethod
    def _rules(netlink: socket.socket, table: str) -> Counter[str]:
        body = attribute(_TABLE, table.encode() + b"\0")
        netlink.send(nfnetlink.request(_GET_RULE, nfnetlink.DUMP, _INET, body))
        found: Counter[str] = Counter()
        for answer in nfnetlink.answers(netlink, f"rules of table {table}"):
            parts = dict(attributes(answer))
            if parts[_TABLE].rstrip(b"\0") == table.encode():
                found[parts[_RULE_CHAIN].rstrip(b"\0").decode()] += 1
        return found

    @staticmethod
    def _elements(netlink: socket.socket, table: str, name: str) -> int:
        """How many elements; -1 when there is no such set."""
        body = attribute(_TABLE, table.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")
        netlink.send(nfnetlink.request(_GET_ELEMENTS, nfnetlink.DUMP, _INET, body))
        count = 0
        try:
            for answer in nfnetlink.answers(netlink, f"set {name} of table {table}"):
                listed = dict(attributes(answer)).get(_LIST_ELEMENTS, b"")
                for _, element in attributes(listed):
                    flags = dict(attributes(element)).get(_ELEMENT_FLAGS, bytes(4))
                    # An interval is two elements, its beginning and its end.
                    count += not struct.unpack("!I", flags)[0] & _INTERVAL_END
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return -1
        return count
