"""What the network service remembers: networks (durable, in the store) and sandboxes (the engine stores their JSON).

A `Sandbox` is the network life of one container from `prepare` to `release`; it is plain data, so a restarted daemon
takes the container over from it. A `SandboxRequest` is what the engine asks for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from pystack.model.container import EndpointSpec, NetworkSpec, PortBinding
from pystack.model.observed import EndpointView, PublishedPort

OPTION = "com.docker.network.bridge."
OPTION_NAME = OPTION + "name"
OPTION_MASQUERADE = OPTION + "enable_ip_masquerade"
OPTION_ICC = OPTION + "enable_icc"
OPTION_HOST_IP = OPTION + "host_binding_ipv4"
OPTION_DEFAULT = OPTION + "default_bridge"
OPTION_MTU = "com.docker.network.driver.mtu"
KNOWN_OPTIONS = frozenset(
    {OPTION_NAME, OPTION_MASQUERADE, OPTION_ICC, OPTION_HOST_IP, OPTION_DEFAULT, OPTION_MTU}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """One network as it is kept. `spec.ipam_pools` has real subnets and gateways; empty: not chosen yet (predefined)."""

    id: str
    created: str
    spec: NetworkSpec
    bridge: str = ""  # interface name, "" for host and none
    mac: str = ""
    user_subnet: bool = False  # the subnet was asked for: static addresses are allowed
    predefined: bool = False

    def option(self, name: str, default: str = "") -> str:
        return self.spec.options.get(name, default)

    def flag(self, name: str) -> bool:
        """A boolean option that is true unless it says otherwise."""
        return self.option(name, "true").lower() not in {"false", "0", "f"}

    @property
    def mtu(self) -> int:
        """Bytes; 0 = the kernel's default, 1500."""
        return int(self.option(OPTION_MTU, "0"))

    @property
    def embedded_dns(self) -> bool:
        """Names are resolved on networks that a user made, as in Docker."""
        return not self.predefined


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One endpoint of a sandbox. `interface` is the name inside, `link` the host's end; `links` are (target, alias)."""

    view: EndpointView
    interface: str
    link: str
    bridge: str
    internal: bool = False
    embedded_dns: bool = True
    gateway_priority: int = 0
    mtu: int = 0
    isolated: bool = False
    host_ip: str = ""  # where this network publishes ports that name no address
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The network of one container: what was allocated, and the three files that are mounted into it."""

    container_id: str
    name: str
    mode: str
    hostname: str
    domainname: str = ""
    attachments: tuple[Attachment, ...] = ()
    passive: tuple[EndpointView, ...] = ()  # mode host or none: the network, without addresses
    ports: tuple[PublishedPort, ...] = ()  # live
    bindings: tuple[PortBinding, ...] = ()  # asked, with those of publish_all
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    hosts_text: str = ""
    resolv_conf_text: str = ""
    hostname_text: str = ""

    @property
    def endpoints(self) -> tuple[EndpointView, ...]:
        return (*self.passive, *(attachment.view for attachment in self.attachments))

    @property
    def embedded_dns(self) -> bool:
        return any(attachment.embedded_dns for attachment in self.attachments)

    def to_json(self) -> str:
        return _sandbox_adapter().dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> Sandbox:
        """ValueError when the text is no sandbox."""
        return _sandbox_adapter().validate_json(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """What a container wants of the network. `network_mode` as in ContainerSpec, but never `container:`."""

    container_id: str
    name: str
    hostname: str = ""
    domainname: str = ""
    network_mode: str = "default"
    endpoints: tuple[EndpointSpec, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    publish_all: bool = False
    exposed: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """That this engine turned forwarding on in the boot `boot_id`, when the host had the interfaces `uplinks`."""

    boot_id: str
    uplinks: tuple[str, ...] = field(default=())
    ipv6: bool = False


@functools.cache
def _sandbox_adapter() -> TypeAdapter[Sandbox]:
    return TypeAdapter(Sandbox)


@functools.cache
def _network_adapter() -> TypeAdapter[NetworkRecord]:
    return TypeAdapter(NetworkRecord)


@functools.cache
def _forwarding_adapter() -> TypeAdapter[Forwarding]:
    return TypeAdapter(Forwarding)


def dump_network(record: NetworkRecord) -> str:
    return _network_adapter().dump_json(record).decode()


def load_network(text: str) -> NetworkRecord:
    """ValueError when the text is no network."""
    return _network_adapter().validate_json(text)


def dump_forwarding(record: Forwarding) -> str:
    return _forwarding_adapter().dump_json(record).decode()


def load_forwarding(text: str) -> Forwarding:
    """ValueError when the text is no record of forwarding."""
    return _forwarding_adapter().validate_json(text)
