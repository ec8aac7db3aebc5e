"""Names: what an engine instance calls its kernel objects, and the grammars of container, volume and network names.

Every kernel object that an engine makes carries the instance's id, so that engines with different roots never touch
one another's objects and recovery finds them by name without the database.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

#: Docker's grammar for container and volume names (moby `daemon/names`).
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
ID = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One engine on this host: where its state lives and how its kernel objects are named.

    `root` holds durable state, `run` holds sockets and what a reboot may lose, `socket` is the API's unix socket;
    all are absolute paths. `id` is 5 hex digits derived from `root`.
    """

    root: str
    run: str
    socket: str

    @property
    def id(self) -> str:
        return hashlib.sha256(self.root.encode()).hexdigest()[:5]

    @property
    def cgroup(self) -> str:
        """Name of the engine's cgroup below the root of each hierarchy."""
        return f"pystack-{self.id}"

    @property
    def nft_table(self) -> str:
        return f"pystack-{self.id}"

    @property
    def link_prefix(self) -> str:
        """What the name of every network interface of this engine begins with."""
        return f"ps{self.id}"

    def bridge(self, network_id: str) -> str:
        """Interface name of a network's bridge: 15 characters, the kernel's limit (IFNAMSIZ - 1)."""
        return f"{self.link_prefix}b{network_id[:7]}"

    def veth(self, endpoint_id: str) -> str:
        """Interface name of the host's end of an endpoint's veth pair."""
        return f"{self.link_prefix}v{endpoint_id[:7]}"

    def container_dir(self, container_id: str) -> str:
        """Durable files of one container: `<id>-json.log`, `exit.json`, configs, its root's layer. Mode 0700."""
        return f"{self.root}/containers/{container_id}"

    def shim_dir(self, container_id: str) -> str:
        """Files of one run of a container: the shim's socket, hosts, hostname, resolv.conf. Mode 0700, flat.

        Short, for the 108-byte limit of sun_path.
        """
        return f"{self.run}/c/{container_id[:32]}"


def digest_id(*parts: str) -> str:
    """A 64-digit hex id that is the same for the same parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def short_id(full: str) -> str:
    """The 12 digits that Docker shows."""
    return full.removeprefix("sha256:")[:12]
