"""A small HTTP/1.1 client over the engine's unix socket: requests out, JSON, byte streams and upgraded connections back.

`http.client` costs the start-up of a command 25 ms (it brings `email`); this needs `socket` and `json` only and speaks
just what the engine's own server answers: Content-Length, chunked, read-until-close, and 101.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, cast

API = "/v1.50"


class ApiError(Exception):
    """The engine refused: HTTP status, its message and, where it gave one, the next step."""

    def __init__(
        self, status: int, message: str, hint: str = "", diagnostics: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.diagnostics = diagnostics or []


class EngineUnreachable(Exception):  # noqa: N818 - says what is the matter
    """Nobody answers on the socket."""


class Response:
    """One answer. Read it once: `json()`, `chunks()` or `lines()`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ", 2)[1])
        self.headers: dict[str, str] = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()

    def _more(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except ConnectionResetError as error:
            raise EngineUnreachable("the engine ended before it had answered") from error
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            if not self._more():
                raise EngineUnreachable("the engine closed the connection before it had answered")
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise EngineUnreachable("the engine closed the connection in the middle of an answer")
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""
        if self.status in {204, 304}:
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                yield self._exactly(size)
                self._exactly(2)
            self._until(b"\r\n")
        elif "content-length" in self.headers:
            if size := int(self.headers["content-length"]):
                yield self._exactly(size)
        else:
            while self._buffer or self._more():
                data = bytes(self._buffer)
                self._buffer.clear()
                yield data

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        return json.loads(self.read() or b"null")

    def lines(self) -> Iterator[dict[str, Any]]:
        """The objects of a stream of JSON lines, each as soon as it is complete."""
        rest = b""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield cast("dict[str, Any]", json.loads(line))
        if rest.strip():
            yield cast("dict[str, Any]", json.loads(rest))

    def upgraded(self) -> tuple[socket.socket, bytes]:
        """The connection itself after a 101 (or a 200 without length), and what had already arrived on it."""
        return self._sock, bytes(self._buffer)

    def close(self) -> None:
        self._sock.close()


class Client:
    """Requests to one engine. `host` is `unix:///path`."""

    def __init__(self, host: str) -> None:
        scheme, _, path = host.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise EngineUnreachable(
                f"cannot use {host!r} as PYSTACK_HOST: only unix:///absolute/path is supported"
            )
        self.path = path

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise EngineUnreachable(
                f"cannot connect to the engine at {self.path}: {error.strerror}"
            ) from error
        return sock

    def request(
        self, method: str, path: str, body: object = None, *, upgrade: bool = False, check: bool = True
    ) -> Response:
        """Send one request on its own connection; raises ApiError for a status of 400 and above unless `check` is off."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", "Host: pystack", f"Content-Length: {len(payload)}"]
        if body is not None:
            head.append("Content-Type: application/json")
        head += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else ["Connection: close"]
        sock = self.connect()
        try:
            sock.sendall("\r\n".join([*head, "", ""]).encode() + payload)
            response = Response(sock)
            if check and response.status >= 400:
                raise _error(response)
        except (BrokenPipeError, ConnectionResetError) as error:
            sock.close()
            raise EngineUnreachable("the engine closed the connection") from error
        except BaseException:
            sock.close()
            raise
        return response

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        response = self.request("GET", API + path + encode(query))
        try:
            return response.json()
        finally:
            response.close()

    def post(self, path: str, body: object = None, query: Mapping[str, object] | None = None) -> Any:
        response = self.request("POST", API + path + encode(query), {} if body is None else body)
        try:
            data = response.read()
        finally:
            response.close()
        return json.loads(data) if data else None

    def delete(self, path: str, query: Mapping[str, object] | None = None) -> None:
        self.request("DELETE", API + path + encode(query)).close()


_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


def quote(text: str) -> str:
    """Percent-encoding (RFC 3986) without `urllib`, whose import costs 10 ms."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def encode(query: Mapping[str, object] | None) -> str:
    """`?a=b&c=d`; objects become JSON (Docker's filters), booleans 1 or 0, None is left out."""
    if not query:
        return ""
    pairs = []
    for name, value in query.items():
        if value is None:
            continue
        if isinstance(value, bool):
            text = "1" if value else "0"
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        pairs.append(f"{name}={quote(text)}")
    return "?" + "&".join(pairs) if pairs else ""


def _error(response: Response) -> ApiError:
    data = response.read()
    try:
        body = json.loads(data)
    except ValueError:
        body = {"message": data.decode(errors="replace").strip() or f"status {response.status}"}
    return ApiError(
        response.status, str(body.get("message", "")), str(body.get("hint") or ""), body.get("diagnostics")
    )
