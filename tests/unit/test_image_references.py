"""References: what is taken, what is shown, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystack.image.references import Reference, is_digest, normalise, parse
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


components = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,5})?\.[a-z]{2,5}(:[0-9]{1,5})?|localhost", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    domain = draw(st.one_of(st.just("docker.io"), domains))
    parts = draw(st.lists(components, min_size=1, max_size=4))
    if domain == "docker.io" and len(parts) == 1:
        parts = ["library", *parts]
    digest = draw(st.sampled_from(["", DIGEST]))
    tag = draw(st.one_of(st.just(""), tags)) if digest else draw(tags)
    return Reference(domain=domain, path="/".join(parts), tag=tag, digest=digest)


@given(references())
def test_what_is_shown_reads_back_as_the_same(reference: Reference) -> None:
    # A path whose first part looks like a host is read as one: only the full form names it.
    assert normalise(str(reference)) == reference
    first = reference.familiar_name.partition("/")[0]
    if (
        reference.domain != "docker.io"
        or ("." not in first and first != "localhost")
        or "/" not in reference.familiar_name
    ):
        assert normalise(reference.familiar) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_our_own_error(text: str) -> None:
    try:
        reference = normalise(text)
    except InvalidInput:
        return
    assert normalise(str(reference)) == reference
    assert ".." not in reference.path
    assert "\0" not in str(reference)


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
