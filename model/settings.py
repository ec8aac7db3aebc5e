"""What an administrator sets for a whole engine: defaults of containers, and how the engine treats them. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

from pystack.model.container import LogConfig, Ulimit


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool:
    """Networks without a subnet of their own get one of `size` bits out of `base`, a prefix like "10.9.0.0/16"."""

    base: str
    size: int


#: Where Docker looks for plugins: sockets in the first, `.spec` and `.json` files in the others.
PLUGIN_DIRECTORIES = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`shutdown_timeout` in seconds (-1 = for ever), `default_shm_size` in bytes; empty texts and tuples say nothing.

    With `live_restore` containers outlive the daemon; without they are stopped with it.
    """

    debug: bool = False
    labels: tuple[str, ...] = ()
    live_restore: bool = True
    shutdown_timeout: int = 15
    log: LogConfig = field(default_factory=lambda: LogConfig(driver="json-file"))
    default_ulimits: tuple[Ulimit, ...] = ()
    default_shm_size: int = 64 << 20
    default_address_pools: tuple[AddressPool, ...] = ()
    init: bool = False
    no_new_privileges: bool = False
    userns_remap: str = ""  # whose ids containers use, as dockerd takes it; read at the engine's start only
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    authorization_plugins: tuple[str, ...] = ()
    plugin_directories: tuple[str, ...] = PLUGIN_DIRECTORIES
