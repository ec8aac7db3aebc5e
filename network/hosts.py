"""The three files that a container sees: hosts, hostname, resolv.conf. Facts in, text out; and the host's resolv.conf.

Texts follow Docker's (moby `libnetwork/etchosts`, `internal/resolvconf`). Source: resolv.conf(5), hosts(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pystack.model.errors import InvalidInput

EMBEDDED = "127.0.0.11"
_FALLBACK = ("8.8.8.8", "8.8.4.4")
_LOCAL = "127.0.0.1\tlocalhost\n"
_LOCAL6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
_MAX = 1 << 16  # bytes of a host file that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvConf:
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """Servers, search list and options; the last `search` or `domain` line counts, as in glibc."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        match words[0]:
            case "nameserver" if _is_address(words[1]):
                servers.append(words[1])
            case "search" | "domain":
                search = tuple(words[1:])
            case "options":
                options += words[1:]
    return ResolvConf(servers=tuple(servers), search=search, options=tuple(options))


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(server: str) -> bool:
    return ip_address(server.partition("%")[0]).is_loopback


class HostResolver:
    """The host's resolv.conf, read again when it changes. With systemd-resolved's stub, the real one behind it."""

    def __init__(
        self, path: str = "/etc/resolv.conf", behind: str = "/run/systemd/resolve/resolv.conf"
    ) -> None:
        self._path, self._behind = path, behind
        self._stamp: tuple[int, int, int] | None = None
        self._conf = ResolvConf()

    @property
    def conf(self) -> ResolvConf:
        """As the host itself uses it, loopback servers included."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return ResolvConf()
        stamp = found.st_mtime_ns, found.st_ino, found.st_size
        if stamp != self._stamp:
            self._conf, self._stamp = parse_resolv_conf(read_text(self._path)), stamp
        return self._conf

    def for_containers(self) -> ResolvConf:
        """For a container that asks by itself: no loopback servers, public ones when none is left (as Docker)."""
        conf = self.conf
        if (
            conf.servers
            and all(server == "127.0.0.53" for server in conf.servers)
            and os.path.exists(self._behind)
        ):
            conf = parse_resolv_conf(read_text(self._behind))
        servers = tuple(server for server in conf.servers if not is_loopback(server))
        return ResolvConf(servers=servers or _FALLBACK, search=conf.search, options=conf.options)


def read_text(path: str) -> str:
    """The beginning of a small file of the host; "" when it is missing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX)
    except FileNotFoundError:
        return ""


def resolv_conf_text(
    base: ResolvConf, *, embedded: bool, dns: Sequence[str], search: Sequence[str], options: Sequence[str]
) -> str:
    """What the container's resolver reads. What was asked for replaces what `base` says, section by section."""
    servers = (EMBEDDED,) if embedded else tuple(dns) or base.servers
    wanted_search = [name for name in (search or base.search) if name != "."]
    wanted = list(options or base.options)
    if embedded and not any(option.startswith("ndots:") for option in wanted):
        wanted.append("ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    if wanted_search:
        lines.append(f"search {' '.join(wanted_search)}")
    if wanted:
        lines.append(f"options {' '.join(wanted)}")
    return "\n".join(lines) + "\n"


def split_extra_host(entry: str) -> tuple[str, str]:
    """("name", "address") of "name:ip" or "name=ip". InvalidInput when malformed; "host-gateway" passes."""
    separator = "=" if "=" in entry else ":"
    name, _, address = entry.partition(separator)
    address = address.strip("[]")
    if entry.split() != [entry] or not name or (address != "host-gateway" and not _is_address(address)):
        raise InvalidInput(f'bad format for add-host: "{entry}"')
    return name, address


def hosts_text(
    *,
    hostname: str,
    domainname: str,
    addresses: Iterable[str],
    extra: Iterable[tuple[str, str]],
    ipv6: bool,
    links: Mapping[str, str] | None = None,
) -> str:
    """`addresses` are the container's own, `extra` (name, address) pairs, `links` address -> names."""
    text = _LOCAL + (_LOCAL6 if ipv6 else "")
    text += "".join(f"{address}\t{name}\n" for name, address in extra)
    text += "".join(f"{address}\t{names}\n" for address, names in (links or {}).items())
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    return text + "".join(f"{address}\t{names}\n" for address in addresses)
