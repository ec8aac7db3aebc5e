"""TLS of the API's TCP listeners: certificate files go in, a context that lets in only known clients comes out.

Being able to reach the API is as good as being root on this host, so that there is no listener on TCP without client
certificates. TLS 1.2 is the least.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from pystack.api.configuration import Listening
from pystack.model.errors import EngineError, InvalidInput

log = logging.getLogger("pystack.api")

#: Seconds that a client has for the handshake: until then it is nobody.
_HANDSHAKE_LIMIT = 10


def context_of(listening: Listening, address: str) -> ssl.SSLContext:
    """The context for a listener at `address`. InvalidInput unless mutual TLS is configured, EngineError for bad files."""
    files = {
        "tlscacert": listening.tls_ca,
        "tlscert": listening.tls_certificate,
        "tlskey": listening.tls_key,
    }
    missing = [name for name, path in files.items() if not path]
    if not listening.tls_verify or missing:
        lacks = "tlsverify" if not listening.tls_verify else ", ".join(missing)
        raise InvalidInput(
            f"cannot listen on {address} without {lacks}: whoever reaches the API is root on this host",
            hint="give --tlsverify, --tlscacert, --tlscert and --tlskey",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=listening.tls_ca)
        context.load_cert_chain(listening.tls_certificate, listening.tls_key)
        if os.stat(listening.tls_key).st_mode & 0o007:
            log.warning("every user of this host can read the TLS key %s", listening.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise EngineError(
            f"cannot listen on {address}: the TLS files {', '.join(files.values())}: {reason}"
        ) from error
    return context


class HalfClosing(sslproto.SSLProtocol):
    """asyncio's TLS, but a client that will send no more (close_notify) still gets the rest of the output.

    Docker's clients end stdin that way, RFC 8446 §6.1 allows it, and asyncio closes both directions. What stands in
    for `_app_protocol` decides by what `eof_received` returns, as it does on a plain socket.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            make(),
            context,
            None,  # type: ignore[arg-type]  # a server has nobody who waits for the handshake
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE_LIMIT,
        )
        self._kept_open = False
        self._app_state: sslproto.AppProtocolState
        self._app_protocol: asyncio.Protocol

    def _call_eof_received(self, *_context: Any) -> None:
        if self._app_state is not sslproto.AppProtocolState.STATE_CON_MADE:
            return
        self._app_state = sslproto.AppProtocolState.STATE_EOF
        try:
            self._kept_open = bool(self._app_protocol.eof_received())
        except Exception as error:
            self._fatal_error(error, "cannot handle the end of a client's input")

    def _start_shutdown(self, *context: Any) -> None:
        closed_by_us = self._app_transport is None or self._app_transport._closed
        if closed_by_us or not self._kept_open:
            super()._start_shutdown(*context)
