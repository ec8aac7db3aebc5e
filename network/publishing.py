"""Which host ports lead to a container, and where: by the endpoint with its default route, as in Docker.

Sandboxes in, sandboxes with their live ports and the firewall's forwards out.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pystack.model.errors import EngineError
from pystack.network.endpoints import gateway_of
from pystack.network.firewall import Forward
from pystack.network.ports import HostPorts
from pystack.network.records import Sandbox


def reserve(ports: HostPorts, sandbox: Sandbox) -> Sandbox:
    """With its host ports taken; without an endpoint that leads out nothing can be published. EngineError as Docker."""
    gateway = gateway_of(sandbox.attachments)
    if gateway is None or not sandbox.bindings:
        return replace(sandbox, ports=()) if sandbox.ports else sandbox
    families = frozenset(
        version for version, text in ((4, gateway.view.ipv4_address), (6, gateway.view.ipv6_address)) if text
    )
    bindings = [b if b.host_ip else replace(b, host_ip=gateway.host_ip) for b in sandbox.bindings]
    try:
        taken = ports.reserve(sandbox.container_id, bindings, families)
    except EngineError as error:
        short = gateway.view.endpoint_id
        text = (
            f"driver failed programming external connectivity on endpoint {sandbox.name} ({short}): {error}"
        )
        raise EngineError(text, hint=error.hint) from error
    return replace(sandbox, ports=taken)


def forwards(sandbox: Sandbox) -> tuple[Forward, ...]:
    """One for each live port whose family the endpoint has."""
    gateway = gateway_of(sandbox.attachments)
    if gateway is None or not sandbox.ports:
        return ()
    targets = {4: gateway.view.ipv4_address, 6: gateway.view.ipv6_address}
    pairs = ((port, targets[ip_address(port.host_ip).version]) for port in sandbox.ports)
    return tuple(Forward(port=port, target=target) for port, target in pairs if target)
