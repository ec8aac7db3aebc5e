"""IP forwarding of the host: turned on when the first network needs it, and remembered that it was us.

Documents in and out; `Forwarder.uplinks` are the interfaces between which nothing shall be forwarded: they could not
reach one another before, so they still shall not (Docker sets the FORWARD policy to DROP for that).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable

from pystack.kernel import rtnetlink, sysctl
from pystack.kernel.failpoints import failpoint
from pystack.model.documents import Documents
from pystack.network.records import Forwarding, dump_forwarding, load_forwarding

log = logging.getLogger(__name__)

KEY = "@forwarding"


class Forwarder:
    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._record: Forwarding | None = None
        self._saved = True

    @property
    def uplinks(self) -> tuple[str, ...]:
        return self._record.uplinks if self._record else ()

    @property
    def turned_on(self) -> bool:
        """Whether IPv4 forwarding is on because of this engine."""
        return self._record is not None

    def load(self) -> None:
        """Read the record. One of an earlier boot says nothing about this one."""
        text = self._documents.get(KEY)
        if text is None:
            return
        try:
            record = load_forwarding(text)
        except ValueError as error:
            log.warning("cannot read whether forwarding was turned on here: %s", error)
            return
        if record.boot_id == sysctl.boot_id():
            self._record = record

    def enable(self, links: Iterable[rtnetlink.Link], guard: Callable[[tuple[str, ...]], object]) -> None:
        """Turn IPv4 forwarding on if it is off, after `guard` has closed it between the host's own interfaces."""
        if sysctl.read("ipv4/ip_forward") != "0":
            return
        # Bridges and their ports are other engines', which judge them.
        own = (link for link in links if link.name != "lo" and link.kind != "bridge" and not link.master)
        uplinks = tuple(link.name for link in own)
        guard(uplinks)
        sysctl.write("ipv4/ip_forward", "1")
        self._record = Forwarding(boot_id=sysctl.boot_id(), uplinks=uplinks)
        self._saved = False
        failpoint("network.forwarding.enabled")

    async def keep(self) -> None:
        """Make what `enable` did durable (nothing to do: returns at once)."""
        if not self._saved and self._record is not None:
            await self._documents.put(KEY, dump_forwarding(self._record))
            self._saved = True

    async def restore(self) -> None:
        """Turn forwarding off again if it was turned on here."""
        if self._record is not None:
            sysctl.write("ipv4/ip_forward", "0")
            self._record, self._saved = None, True
            await self._documents.delete(KEY)


def enable_ipv6() -> None:
    """Turn IPv6 forwarding on, keeping the host's own router advertisements: accept_ra 2 hears them also then."""
    if sysctl.get("ipv6/conf/all/forwarding", "1") != "0":
        return
    for _, name in socket.if_nameindex():
        if sysctl.get(f"ipv6/conf/{name}/accept_ra", "0") == "1":
            sysctl.write_if_known(f"ipv6/conf/{name}/accept_ra", "2")
    sysctl.write("ipv6/conf/all/forwarding", "1")


def frames_are_filtered() -> bool:
    """Whether br_netfilter passes bridged frames to the IP hooks: a DNAT back to the sender then needs hairpin mode."""
    return sysctl.get("bridge/bridge-nf-call-iptables", "0") == "1"
