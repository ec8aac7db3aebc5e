"""Errors as replies: an exception goes in, a response with Docker's `{"message": …}` body comes out.

What a user may be told is a PystackError; everything else becomes a 500 that names an incident, whose traceback is in
the daemon's log only (it may hold environment variables or file contents).
"""

from __future__ import annotations

import logging
import secrets

from aiohttp import web

from pystack.api import jsons
from pystack.model.errors import PystackError

log = logging.getLogger("pystack.api")


def json_response(body: object, *, status: int = 200) -> web.Response:
    """A JSON reply whose content type is exactly `application/json`: the docker CLI compares the string."""
    return web.Response(body=jsons.dumps(body), status=status, headers={"Content-Type": "application/json"})


def error_response(status: int, message: str, hint: str | None = None) -> web.Response:
    if status in {204, 304}:
        return web.Response(status=status)
    return json_response({"message": message} | ({"hint": hint} if hint else {}), status=status)


def incident(error: BaseException, what: str) -> str:
    """Log an unexpected error with its traceback; returns the sentence that the client is told."""
    number = secrets.token_hex(4)
    log.error("incident %s in %s", number, what, exc_info=error)
    return f"cannot finish the request: internal error {number}, see the daemon's log"


def response_of(error: BaseException, what: str) -> web.Response:
    """The reply for an exception that a handler let through."""
    if isinstance(error, PystackError):
        return error_response(error.status, error.message, error.hint)
    if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return error_response(404, "page not found")
    if isinstance(error, web.HTTPException):
        return error_response(error.status, error.text or error.reason)
    return error_response(500, incident(error, what))


def message_of(error: BaseException, what: str) -> str:
    """The same for an error that comes after the headers have gone, as one sentence."""
    return error.message if isinstance(error, PystackError) else incident(error, what)
