"""JSON on the wire: Python objects to compact UTF-8 bytes and request bodies to validated models.

Bodies are strict as Go's decoder is: one document, no coercion between types; unknown fields are ignored. Errors name
the field and never repeat the value, which may be a secret.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from pystack.api.context import BODY
from pystack.model.errors import InvalidInput

#: No JSON body of the API is larger; what is, is an attack or a mistake.
MAX_BODY = 16 << 20

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def _integer(text: str) -> int | float:
    """An int of 64 bits as in Go; a larger one as a float, which no field of a body takes."""
    value = int(text) if len(text) < 21 else 1 << 64
    return value if -(1 << 63) <= value < 1 << 63 else float("inf")


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
#: Half of a surrogate pair, which is no character: Go reads it as this one.
_LONE = re.compile("[\ud800-\udfff]")


class Wire(BaseModel):
    """Base of the models of request bodies: field names are Docker's own."""

    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)


W = TypeVar("W", bound=Wire)


def dumps(value: object) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "surrogateescape")


def parse(data: bytes) -> Any:
    """One JSON document. Raises InvalidInput."""
    try:
        text = data.decode()
        value, end = _DECODER.raw_decode(text.lstrip())
        if "\\ud" in text or "\\uD" in text:
            value = _whole(value)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"invalid JSON: {error.__class__.__name__} in the request's body") from None
    if text.lstrip()[end:].strip():
        raise InvalidInput("invalid JSON: unexpected content after JSON")
    return value


def _whole(value: Any) -> Any:
    """The value with U+FFFD for every surrogate that stands alone."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def validate(model: type[W], value: object) -> W:
    if value is None:
        value = {}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidInput(f"invalid JSON: {where}: {first['msg']}") from None


def is_json(request: web.Request) -> bool:
    """Whether the body is said to be JSON: only then does any handler read it as such."""
    kind = request.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"


async def read_body(request: web.Request, limit: int = MAX_BODY) -> bytes:
    """The whole body. InvalidInput when it is larger than `limit` bytes."""
    if BODY in request:
        return request[BODY]
    if request.content_length is not None and request.content_length > limit:
        raise InvalidInput("cannot read the request: its body is too large")
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise InvalidInput("cannot read the request: its body is too large")
    return bytes(data)


async def read_json(request: web.Request, model: type[W], *, optional: bool = False) -> W:
    """The body as `model`. With `optional` an empty body means all defaults; otherwise it is refused."""
    data = await read_body(request)
    if not data.strip():
        if optional:
            return validate(model, {})
        raise InvalidInput("invalid JSON: got EOF while reading request body")
    if not is_json(request):
        kind = request.headers.get("Content-Type", "")
        raise InvalidInput(f"unsupported Content-Type header ({kind[:80]}): must be 'application/json'")
    return validate(model, parse(data))
