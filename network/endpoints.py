"""Wiring: a container's endpoints into its network namespace, and live changes of a running one.

Attachments and a namespace's fd in, links, addresses, routes and settings out. The namespace's end takes all of it
with it; nothing here deletes a veth on the hot path (the kernel waits 17-36 ms for that).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import TypeVar

from pystack.kernel import netns, rtnetlink, sysctl
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError
from pystack.network.bridge import Bridges
from pystack.network.records import Attachment

_T = TypeVar("_T")
_GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT})

#: (setting, the kernel's value, Docker's): any user may bind low ports and ping. One that a container's `sysctls`
#: changed before is not the kernel's value any more and stays.
_NAMESPACE_SETTINGS = (
    ("ipv4/ip_unprivileged_port_start", "1024", "0"),
    ("ipv4/ping_group_range", "1\t0", "0 2147483647"),
)


def gateway_of(attachments: Iterable[Attachment]) -> Attachment | None:
    """The endpoint with the default route: highest priority, then first by network name, as Docker."""
    candidates = [a for a in attachments if not a.internal and (a.view.gateway or a.view.ipv6_gateway)]
    return min(candidates, key=lambda a: (-a.gateway_priority, a.view.network), default=None)


def add_links(bridges: Bridges, attachments: Sequence[Attachment], netns_fd: int, *, hairpin: bool) -> None:
    """One veth pair for each endpoint: our end on its bridge and up, the other straight in the namespace, down."""
    messages: list[rtnetlink.Message] = []
    for attachment in attachments:
        messages += (
            rtnetlink.veth(
                attachment.link,
                attachment.interface,
                peer_netns_fd=netns_fd,
                peer_mac=attachment.view.mac_address,
                master=bridges.index(attachment.bridge),
                mtu=attachment.mtu,
            ),
            rtnetlink.no_link_local(attachment.link),
        )
        if hairpin or attachment.isolated:
            messages.append(
                rtnetlink.bridge_port(attachment.link, hairpin=hairpin, isolated=attachment.isolated)
            )
        messages.append(rtnetlink.link_up(attachment.link))
    if messages:
        bridges.netlink.batch(messages)
        failpoint("network.endpoint.linked")


def configure(attachments: Sequence[Attachment], *, gateway: Attachment | None, first: bool) -> None:
    """Inside the namespace: settings, addresses, routes, links up. `first`: the namespace is new."""
    if first:
        for name, kernel, ours in _NAMESPACE_SETTINGS:
            sysctl.replace(name, kernel, ours)
    messages = [rtnetlink.link_up(1)] if first else []
    late: list[rtnetlink.Message] = []
    for attachment in attachments:
        view, index = attachment.view, socket.if_nametoindex(attachment.interface)
        # Without it a v4-only container would hear router advertisements and get addresses (CVE-2024-32473).
        if not view.ipv6_address:
            sysctl.write_if_known(f"ipv6/conf/{attachment.interface}/disable_ipv6", "1")
        else:
            sysctl.write_if_known(f"ipv6/conf/{attachment.interface}/disable_ipv6", "0")
            sysctl.write_if_known(f"ipv6/conf/{attachment.interface}/accept_ra", "0")
        if view.ipv4_address:
            messages.append(rtnetlink.address(index, ip_address(view.ipv4_address), view.ipv4_prefix))
        if view.ipv6_address:
            messages.append(rtnetlink.address(index, ip_address(view.ipv6_address), view.ipv6_prefix))
        messages.append(rtnetlink.link_up(index))
        if attachment is gateway:
            late += default_routes(attachment, index)
    with rtnetlink.Socket() as inner:
        inner.batch([*messages, *late])
    failpoint("network.endpoint.configured")


def default_routes(attachment: Attachment, index: int) -> list[rtnetlink.Message]:
    gateways = (attachment.view.gateway, attachment.view.ipv6_gateway)
    return [rtnetlink.default_route(ip_address(gateway), index) for gateway in gateways if gateway]


def move_default_route(old: Attachment | None, new: Attachment | None) -> None:
    """Inside the namespace: the default route from one endpoint to another, either may be None."""
    with rtnetlink.Socket() as inner:
        if old is not None:
            gateways = (old.view.gateway, old.view.ipv6_gateway)
            inner.batch([rtnetlink.delete_default_route(ip_address(g)) for g in gateways if g], ignore=_GONE)
        if new is not None:
            inner.batch(default_routes(new, socket.if_nametoindex(new.interface)))


def remove_link(attachment: Attachment) -> None:
    """Delete a running container's endpoint. Waits for the kernel: run it in a thread. Idempotent."""
    with rtnetlink.Socket() as own:
        own.batch([rtnetlink.delete_link(attachment.link)], ignore=_GONE)
    failpoint("network.endpoint.removed")


def wire(
    bridges: Bridges,
    attachments: Sequence[Attachment],
    netns_fd: int,
    *,
    hairpin: bool,
    then: Callable[[], _T],
) -> _T:
    """A fresh namespace's whole network, from lo to the default route, and what `then` makes inside.

    EngineError says which step failed.
    """
    gateway = gateway_of(attachments)

    def inside() -> _T:
        configure(attachments, gateway=gateway, first=True)
        return then()

    try:
        add_links(bridges, attachments, netns_fd, hairpin=hairpin)
        return netns.run_in(netns_fd, inside)
    except OSError as error:
        raise EngineError(f"cannot wire the container's network: {error}") from error


def free_interface(attachments: Iterable[Attachment], prefix: str = "eth") -> str:
    """The first interface name that no endpoint has."""
    used = {attachment.interface for attachment in attachments}
    return next(name for name in (f"{prefix}{n}" for n in range(len(used) + 1)) if name not in used)
