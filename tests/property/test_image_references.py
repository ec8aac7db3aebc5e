"""References: any is read back as it is shown, any text is one or is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pystack.image.references import Reference, normalise
from pystack.model.errors import InvalidInput

DIGEST = "sha256:" + "0123456789abcdef" * 4

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
