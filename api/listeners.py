"""Listening sockets of the API: addresses go in, sockets that accept connections come out, with TLS where it is TCP.

unix:///path         0660, of the group that is configured; there from the first moment with that mode
tcp://host[:port]    with mutual TLS only; port 2376 unless given
fd://                what systemd passed
"""

from __future__ import annotations

import grp
import os
import socket
import stat
from dataclasses import dataclass
from urllib.parse import urlsplit

from pystack.api.configuration import Listening
from pystack.kernel.failpoints import failpoint
from pystack.model.errors import EngineError, InvalidInput

#: Groups whose members may use the socket, as with Docker: being in one is as good as being root.
_GROUPS = ("pystack", "docker")
_TLS_PORT = 2376
_BACKLOG = 1024
#: sizeof(sun_path) - 1, unix(7).
_PATH_MAX = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket that listens. `path` is the file to remove at the end, "" for none of ours; `tls` says whether TLS is due."""

    sock: socket.socket
    address: str
    path: str = ""
    tls: bool = False


def open_all(own: str, listening: Listening, passed: list[socket.socket]) -> list[Listener]:
    """Every listener: the instance's `own` socket unless systemd passed some, and the configured hosts. All or none."""
    group = group_of(listening.group)
    made: list[Listener] = []
    try:
        made += [_of_passed(sock) for sock in passed]
        if not passed:
            made.append(Listener(sock=bind_socket(own, group), address=f"unix://{own}", path=own))
        for host in listening.hosts:
            if listener := _open(host, own, group, activated=bool(passed)):
                made.append(listener)
    except BaseException:
        close_all(made)
        raise
    return made


def close_all(listeners: list[Listener]) -> None:
    """Close them and remove our files: clients must get "no daemon", not "refused"."""
    for listener in listeners:
        listener.sock.close()
        if listener.path:
            try:
                os.unlink(listener.path)
            except FileNotFoundError:
                continue


def _of_passed(sock: socket.socket) -> Listener:
    if sock.type != socket.SOCK_STREAM or sock.family not in {
        socket.AF_UNIX,
        socket.AF_INET,
        socket.AF_INET6,
    }:
        raise EngineError("cannot serve on a socket passed by systemd: only stream sockets are allowed")
    return Listener(sock=sock, address="fd://", tls=sock.family != socket.AF_UNIX)


def _open(host: str, own: str, group: int | None, *, activated: bool) -> Listener | None:
    scheme, _, rest = host.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        if rest == own and not activated:
            return None  # it is there
        return Listener(sock=bind_socket(rest, group), address=host, path=rest)
    if scheme == "tcp":
        return Listener(sock=_bind_tcp(host), address=host, tls=True)
    if scheme == "fd":
        if not activated:
            raise EngineError(
                f"cannot listen on {host}: systemd passed no socket", hint="systemctl start pystack.socket"
            )
        return None
    raise InvalidInput(
        f"cannot listen on {host[:100]!r}: it is none of unix:///path, tcp://address[:port] and fd://"
    )


def _bind_tcp(host: str) -> socket.socket:
    try:
        parts = urlsplit(host)
        name, port = parts.hostname or "", parts.port or _TLS_PORT
    except ValueError as error:
        raise InvalidInput(f"cannot listen on {host[:100]!r}: {error}") from None
    if parts.path not in {"", "/"}:
        raise InvalidInput(f"cannot listen on {host[:100]!r}: a TCP address has no path")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise EngineError(f"cannot listen on {host}: {error.strerror}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise EngineError(f"cannot listen on {host}: {error.strerror}") from error
    return sock


def group_of(name: str | None) -> int | None:
    """The id of the group whose members may connect; None for nobody but root."""
    if name is not None:
        try:
            return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid if name else None
        except KeyError:
            raise EngineError(f"cannot give the API's socket to the group {name}: there is none") from None
    for candidate in _GROUPS:
        try:
            return grp.getgrnam(candidate).gr_gid
        except KeyError:
            continue
    return None


def bind_socket(path: str, group: int | None = None) -> socket.socket:
    """A listening unix socket at `path`, 0660 of `group` (root's without one), which appears there with that mode.

    It is made under another name that nobody but root may use, and renamed. A file that is left over from a daemon that
    died is replaced; whoever calls holds the instance's lock.
    """
    place = f"{os.path.dirname(path)}/.{os.path.basename(path)}"
    if max(len(os.fsencode(path)), len(os.fsencode(place))) > _PATH_MAX:
        raise EngineError(
            f"cannot listen on {path}: a unix socket's path has at most {_PATH_MAX} bytes",
            hint="set PYSTACK_HOST",
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _refuse_taken(path)
        _unlink(place)
        sock.bind(place)
        failpoint("api.socket.bound")
        os.chown(place, 0 if os.geteuid() == 0 else -1, -1 if group is None else group)
        os.chmod(place, 0o660)
        sock.listen(_BACKLOG)
        os.rename(place, path)
        failpoint("api.socket.named")
    except OSError as error:
        sock.close()
        _unlink(place)
        raise EngineError(f"cannot listen on {path}: {error.strerror}") from error
    except BaseException:
        sock.close()
        _unlink(place)
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _refuse_taken(path: str) -> None:
    """EngineError when somebody answers at `path`, or when it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise EngineError(f"cannot listen on {path}: it exists and is no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return
    except OSError as error:
        raise EngineError(f"cannot listen on {path}: {error.strerror}") from error
    else:
        raise EngineError(f"cannot listen on {path}: another program answers there")
    finally:
        probe.close()
