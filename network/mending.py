"""What the kernel should have of each network, and what it lacks: bridges, their addresses and ports, forwarding, rules.

Networks and sandboxes in memory are the desired state; kernel objects follow. The same steps make a network, mend it after
a start of the daemon, and mend it when something else took part of it away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pystack.kernel import sysctl
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError
from pystack.network import forwarding
from pystack.network.bridge import Bridges
from pystack.network.firewall import Firewall
from pystack.network.forwarding import Forwarder
from pystack.network.records import Sandbox
from pystack.network.registry import NetworkRegistry, NetworkState

log = logging.getLogger(__name__)


class Mender:
    """`sandboxes` are the live ones, by container id (shared with the service)."""

    def __init__(
        self,
        registry: NetworkRegistry,
        bridges: Bridges,
        firewall: Firewall,
        forwarder: Forwarder,
        sandboxes: Mapping[str, Sandbox],
    ) -> None:
        self._registry, self._bridges, self._firewall = registry, bridges, firewall
        self._forwarder, self._sandboxes = forwarder, sandboxes

    def ensure(self, state: NetworkState) -> None:
        """A network's bridge as it shall be (idempotent). Rules first: it is never open, not even for a moment."""
        links = self._bridges.links()
        record = state.record
        self._firewall.add_bridge(state.rules())
        if not record.spec.internal:
            self._forwarder.enable(links, self._firewall.set_uplinks)
        if record.spec.enable_ipv6 and not record.spec.internal:
            forwarding.enable_ipv6()
        self._bridges.ensure(record, links)

    def mend(self, state: NetworkState) -> bool:
        """Make the network's bridge again, and the links of running containers its ports. A fault is logged, and False."""
        try:
            self.ensure(state)
            self._bridges.reattach(
                [
                    a
                    for s in self._sandboxes.values()
                    for a in s.attachments
                    if a.bridge == state.record.bridge
                ],
                hairpin=forwarding.frames_are_filtered(),
            )
        except (EngineError, OSError) as error:
            log.warning("network %s does not work: %s", state.name, error)
            return False
        failpoint("network.mended")
        return True

    def watched(self) -> list[NetworkState]:
        """The networks whose bridge this engine has made."""
        return [state for state in self._registry if self._bridges.is_up(state.record.bridge)]

    def indexes(self) -> frozenset[int]:
        """Interface indexes of their bridges."""
        return frozenset(self._bridges.index(state.record.bridge) for state in self.watched())

    def losses(self) -> list[tuple[NetworkState, str]]:
        """Networks of which something else took a part away, and what it is."""
        states = self.watched()
        if not states:
            return []
        links = {link.name: link for link in self._bridges.links()}
        found = ((state, self._bridges.loss(state.record, links)) for state in states)
        return [(state, what) for state, what in found if what]

    def forwarding_is_off(self) -> bool:
        """Whether something else turned forwarding off while networks need it."""
        if sysctl.read("ipv4/ip_forward") != "0":
            return False
        return any(not state.record.spec.internal for state in self.watched())

    def forward(self) -> None:
        """Turn forwarding on again."""
        self._forwarder.enable(self._bridges.links(), self._firewall.set_uplinks)
