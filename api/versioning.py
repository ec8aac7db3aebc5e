"""API versions: a request path comes in, the version asked for and the bare path go out; headers that every reply has.

Source: moby v28.2.2 `api/common.go` and `api/server/middleware/version.go`.
"""

from __future__ import annotations

import re
from typing import Final

from pystack.model.errors import InvalidInput

Version = tuple[int, int]

API_VERSION: Final[Version] = (1, 50)
MIN_API_VERSION: Final[Version] = (1, 24)

#: Headers of every reply. `Server` is what clients parse: the Docker release whose behaviour is served.
HEADERS: Final = {
    "Api-Version": "1.50",
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": "Docker/28.2.2 (linux)",
}

_PREFIX = re.compile(r"/v([0-9][0-9.]*)(?=/|\Z)")


def split_version(path: str) -> tuple[str, str]:
    """("1.47", "/info?x=1") for "/v1.47/info?x=1"; the version is "" for a bare path."""
    match = _PREFIX.match(path)
    return (match[1], path[match.end() :] or "/") if match else ("", path)


def parse_version(text: str) -> Version:
    """The version as numbers, the newest for "". Raises InvalidInput with Docker's text when it is not served."""
    if not text:
        return API_VERSION
    try:
        numbers = [int(part) for part in text.split(".")]
    except ValueError:
        raise InvalidInput(f"cannot use API version {text!r}: it is not a version") from None
    version = (numbers[0], numbers[1] if len(numbers) > 1 else 0)
    if version < MIN_API_VERSION:
        raise InvalidInput(
            f"client version {text} is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version"
        )
    if version > API_VERSION:
        raise InvalidInput(f"client version {text} is too new. Maximum supported API version is 1.50")
    return version
