"""Plugins over Docker's protocol: a name goes in, an address that answers to it and JSON calls come out.

A plugin is found by its name in the configured directories: `NAME.sock` or `NAME/NAME.sock` is its socket, `NAME.spec`
holds its address, `NAME.json` its address and TLS files. The first call is the handshake, `/Plugin.Activate`, in which it
says what it implements. (docs.docker.com, "Docker Plugin API"; moby `pkg/plugins`)
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import ssl
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pystack.model.errors import EngineError, NotFound

if TYPE_CHECKING:
    import aiohttp

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_MEDIA = "application/vnd.docker.plugins.v1.2+json"
#: Seconds: for one call, and for a plugin that is only just starting, with pauses that double.
CALL_LIMIT = 30.0
START_LIMIT = 10.0
_FIRST_PAUSE = 0.1
#: No answer of a plugin is larger.
_LARGEST = 4 << 20
_FILE_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`socket` is the path of a unix socket, "" for `url`, which is http or https."""

    socket: str = ""
    url: str = "http://plugin"
    context: ssl.SSLContext | None = None


def find(name: str, directories: Sequence[str]) -> Address:
    """Where a plugin answers. NotFound, or EngineError for a file that cannot be used."""
    short = name.removesuffix(":latest")
    if _NAME.match(short):
        for directory in directories:
            for path in (f"{directory}/{short}.sock", f"{directory}/{short}/{short}.sock"):
                if _is_socket(path):
                    return Address(socket=path)
        for directory in directories:
            for base in (f"{directory}/{short}", f"{directory}/{short}/{short}"):
                if text := _text(f"{base}.spec"):
                    return _address(f"{base}.spec", text.strip())
                if text := _text(f"{base}.json"):
                    return _from_json(f"{base}.json", text)
    raise NotFound(f'plugin "{name[:128]}" not found')


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_FILE_LIMIT)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read the plugin's file {path}: {error}") from error


def _address(source: str, text: str, context: ssl.SSLContext | None = None) -> Address:
    scheme, _, rest = text.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return Address(socket=rest)
    if scheme in {"tcp", "http", "https"} and rest:
        secure = scheme == "https" or context is not None
        return Address(url=f"{'https' if secure else 'http'}://{rest.rstrip('/')}", context=context)
    raise EngineError(f"cannot use the plugin's file {source}: {text[:80]!r} is no address")


def _from_json(source: str, text: str) -> Address:
    try:
        value = json.loads(text)
        address, tls = value["Addr"], value.get("TLSConfig") or {}
        context = None
        if tls:
            if tls.get("InsecureSkipVerify"):
                raise EngineError(f"cannot use the plugin's file {source}: InsecureSkipVerify is not allowed")
            context = ssl.create_default_context(cafile=tls.get("CAFile") or None)
            if tls.get("CertFile"):
                context.load_cert_chain(tls["CertFile"], tls.get("KeyFile") or None)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise EngineError(f"cannot use the plugin's file {source}: {error}") from error
    return _address(source, str(address), context)


class Plugins:
    """The plugins of one engine. Each is found and greeted when it is first called; after an error, once more."""

    def __init__(self) -> None:
        self.directories: Sequence[str] = ()
        self._known: dict[str, tuple[Address, frozenset[str], aiohttp.ClientSession]] = {}

    async def call(
        self, name: str, kind: str, method: str, body: Mapping[str, Any], *, limit: float = CALL_LIMIT
    ) -> dict[str, Any]:
        """POST `/method`, e.g. "AuthZPlugin.AuthZReq", to a plugin of that `kind`; its answer.

        NotFound without such a plugin, EngineError when it does not answer in time or not in JSON.
        """
        if name not in self._known:
            await self._activate(name)
        _, kinds, session = self._known[name]
        if kind not in kinds:
            raise NotFound(f'plugin "{name}" does not implement "{kind}"')
        try:
            return await self._post(session, name, method, body, limit)
        except EngineError:
            await self.forget(name)  # it may have moved, or be another one by now
            raise

    async def forget(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            await known[2].close()

    async def close(self) -> None:
        for name in tuple(self._known):
            await self.forget(name)

    async def _activate(self, name: str) -> None:
        import aiohttp  # 10 MB, for engines with plugins only

        address = await asyncio.to_thread(find, name, tuple(self.directories))
        connector = (
            aiohttp.UnixConnector(path=address.socket)
            if address.socket
            else aiohttp.TCPConnector(ssl=address.context or True)
        )
        session = aiohttp.ClientSession(address.url, connector=connector)
        try:
            answer = await self._greet(session, name)
        except BaseException:
            await session.close()
            raise
        implements = answer.get("Implements")
        kinds = frozenset(k for k in implements if isinstance(k, str)) if isinstance(implements, list) else ()
        old = self._known.get(name)
        self._known[name] = (address, frozenset(kinds), session)
        if old is not None:
            await old[2].close()

    async def _greet(self, session: aiohttp.ClientSession, name: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + START_LIMIT, _FIRST_PAUSE
        while True:
            try:
                return await self._post(session, name, "Plugin.Activate", None, START_LIMIT)
            except EngineError:
                if loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(
        self,
        session: aiohttp.ClientSession,
        name: str,
        method: str,
        body: Mapping[str, Any] | None,
        limit: float,
    ) -> dict[str, Any]:
        import aiohttp

        headers = {"Accept": _MEDIA, "Content-Type": "application/json"}
        data = io.BytesIO(b"" if body is None else json.dumps(body).encode())
        try:
            async with (
                asyncio.timeout(limit),
                session.post(f"/{method}", data=data, headers=headers, allow_redirects=False) as reply,
            ):
                text = await reply.content.read(_LARGEST)
                value = json.loads(text) if text.strip() else {}
        except TimeoutError:
            raise EngineError(f"plugin {name} has not answered {method} within {limit:.0f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineError(f"cannot call {method} of plugin {name}: {error}") from error
        if not isinstance(value, dict) or reply.status != 200:
            said = value.get("Err") if isinstance(value, dict) else ""
            raise EngineError(
                f"plugin {name} answered {method} with status {reply.status}: {str(said)[:200]}"
            )
        return value
