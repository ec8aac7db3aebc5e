"""References: what is taken, what is shown, what is refused."""

from __future__ import annotations

import pytest

from pystack.image.references import is_digest, normalise, parse
from pystack.model.errors import InvalidInput

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("redis", "docker.io/library/redis:latest", "redis:latest"),
        ("redis:7-alpine", "docker.io/library/redis:7-alpine", "redis:7-alpine"),
        ("library/redis", "docker.io/library/redis:latest", "redis:latest"),
        ("docker.io/redis", "docker.io/library/redis:latest", "redis:latest"),
        ("index.docker.io/me/app:1", "docker.io/me/app:1", "me/app:1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("[::1]:5000/a/b", "[::1]:5000/a/b:latest", "[::1]:5000/a/b:latest"),
        ("ghcr.io/me/app__x/y-z.w", "ghcr.io/me/app__x/y-z.w:latest", "ghcr.io/me/app__x/y-z.w:latest"),
        ("host.local/base", "host.local/base:latest", "host.local/base:latest"),
        ("Host.example/app", "Host.example/app:latest", "Host.example/app:latest"),
        (f"redis@{DIGEST}", f"docker.io/library/redis@{DIGEST}", f"redis@{DIGEST}"),
        (f"redis:7@{DIGEST}", f"docker.io/library/redis:7@{DIGEST}", f"redis:7@{DIGEST}"),
    ],
)
def test_normal_forms(text: str, canonical: str, familiar: str) -> None:
    reference = normalise(text)
    assert (str(reference), reference.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "a:", "../x", "a/../b", "a//b", "/a", "a/", "a b", "a:b:c", "a:" + "t" * 129, "a@sha256:abc",
        "a@sha256:" + "A" * 64, "a@md5:" + "0" * 64, "a@", "-a", "a-", "a___b", "a..b", "x/.wh.a", "a\0", "a\n",
        "repo:tag/../..", "http://a/b", "é", "a" * 256, f"a@{DIGEST}@{DIGEST}", "0" * 64, "[::1/a", "-.x/a",
    ],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid re"):
        parse(text)


def test_upper_case_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"repository name \(library/Redis\) must be lowercase"):
        parse("Redis")


def test_digests() -> None:
    assert is_digest(DIGEST)
    for bad in (
        "sha256:../../x",
        "sha999:" + "0" * 64,
        DIGEST.upper(),
        DIGEST + "0",
        DIGEST + "\n",
        "sha256:",
    ):
        assert not is_digest(bad)
