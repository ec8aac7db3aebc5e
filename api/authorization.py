"""Authorization plugins: each request and each reply is shown to them, and goes on only when all of them allow it.

The plugin sees what the handler sees: a JSON body is read once and the same bytes go to both (CVE-2024-41110), one over
the limit is refused instead of being hidden, and the path is given as it is routed, without odd escapes. When a plugin
does not answer, nothing is allowed. (moby `pkg/authorization`, docs.docker.com "Access authorization plugin")
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aiohttp import web

from pystack.api.context import ASKED_VERSION, BODY, STREAMING
from pystack.api.errors import response_of
from pystack.api.hijack import Hijacked
from pystack.api.jsons import is_json, read_body
from pystack.model.errors import EngineError, Forbidden
from pystack.volume.plugins import Plugins

KIND = "authz"
#: Largest body that plugins are shown, and so the largest that is allowed with them.
MAX_BODY = 1 << 20
#: Credentials that plugins have no need of.
_HIDDEN = frozenset({"x-registry-auth", "x-registry-config"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def authorized(
    request: web.Request, handler: Handler, plugins: Plugins, names: Sequence[str]
) -> web.StreamResponse:
    """The handler's reply, if every plugin allows the request and then the reply. Forbidden or EngineError otherwise."""
    asked = await _question(request)
    for name in names:
        await _ask(plugins, name, "AuthZReq", asked)
    try:
        response = await handler(request)
    except Exception as error:
        if isinstance(error, ConnectionError) or request.get(STREAMING):
            raise
        response = response_of(error, f"{request.method} {request.path}")
    if response.prepared or isinstance(response, Hijacked):
        return response  # a stream: the request was the only question
    shown = asked | _answer(response)
    for name in reversed(names):
        await _ask(plugins, name, "AuthZRes", shown)
    return response


async def _ask(plugins: Plugins, name: str, method: str, question: Mapping[str, Any]) -> None:
    try:
        verdict = await plugins.call(name, KIND, f"AuthZPlugin.{method}", question)
    except Exception as error:
        raise EngineError(f"authorization plugin {name} failed with error: {error}") from error
    if verdict.get("Err"):
        raise EngineError(f"plugin {name} failed with error: {method}: {str(verdict['Err'])[:1000]}")
    if verdict.get("Allow") is not True:
        raise Forbidden(f"authorization denied by plugin {name}: {str(verdict.get('Msg') or '')[:1000]}")


async def _question(request: web.Request) -> dict[str, Any]:
    version = request.get(ASKED_VERSION, "")
    path = quote(request.rel_url.path, safe="/:@!$&'()*+,;=~")
    query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
    user, certificates = _peer(request)
    question: dict[str, Any] = {
        "RequestMethod": request.method,
        "RequestUri": (f"/v{version}" if version else "") + path + query,
        "RequestHeaders": {k: v for k, v in request.headers.items() if k.lower() not in _HIDDEN},
    }
    if user:
        question |= {"User": user, "UserAuthNMethod": "TLS"}
    if certificates:
        question["RequestPeerCertificates"] = certificates
    if is_json(request) and request.body_exists:
        body = await read_body(request, MAX_BODY)
        request[BODY] = body
        question["RequestBody"] = base64.b64encode(body).decode()
    return question


def _answer(response: web.StreamResponse) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ResponseStatusCode": response.status,
        "ResponseHeaders": dict(response.headers),
    }
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, bytes) and len(body) <= MAX_BODY:
        shown["ResponseBody"] = base64.b64encode(body).decode()
    return shown


def _peer(request: web.Request) -> tuple[str, list[str]]:
    """(common name, certificates as PEM) of a client over TLS, or nothing."""
    tls: Any = request.transport.get_extra_info("ssl_object") if request.transport else None
    raw = tls.getpeercert(binary_form=True) if tls is not None else None
    if not raw:
        return "", []
    names = dict(pair for rdn in tls.getpeercert().get("subject", ()) for pair in rdn)
    return names.get("commonName", ""), [ssl.DER_cert_to_PEM_cert(raw)]
