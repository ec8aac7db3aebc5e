"""`${VAR}` in its every form. The table agrees with docker compose 2.40.3."""

from __future__ import annotations

import pytest

from pystack.stackfile.document import Reporter, plain
from pystack.stackfile.interpolate import TemplateError, interpolate, substitute
from pystack.stackfile.yamldoc import parse_text

VARIABLES = {"A": "va", "B": "vb", "E": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "va"),
        ("${A}", "va"),
        ("${A}${B}", "vavb"),
        ("x${A}y", "xvay"),
        ("$A_b", ""),
        ("$A.b", "va.b"),
        ("${X}", ""),
        ("${X:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${X-d}", "d"),
        ("${A:-d}", "va"),
        ("${X:-}", ""),
        ("${X:-$A}", "va"),
        ("${X:-${Y:-${A}}}", "va"),
        ("${X:-a:b}", "a:b"),
        ("${X-:-}", ":-"),
        ("${A:+p}", "p"),
        ("${E:+p}", ""),
        ("${E+p}", "p"),
        ("${X+p}", ""),
        ("${A:?m}", "va"),
        ("${E?m}", ""),
        ("$$", "$"),
        ("$$A", "$A"),
        ("$${A}", "${A}"),
        ("${X:-$$}", "$"),
        ("$", "$"),
        ("a$", "a$"),
        ("$1", "$1"),
        ("$ x", "$ x"),
        ("$(date)", "$(date)"),
        ("$-", "$-"),
        ("${X:-a}b}", "ab}"),
        ("$A$", "va$"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert substitute(text, VARIABLES.get) == expected


@pytest.mark.parametrize(
    "text", ["${", "${}", "${1}", "${A", "${A-", "${A b}", "${A.b}", "${A:=x}", "${ A }", "${X:-${B}"]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        substitute(text, VARIABLES.get)
    assert caught.value.code == "interpolation"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${X:?need it}", "`X` is not set: need it"),
        ("${E:?m}", "`E` is empty: m"),
        ("${X?$A}", "`X` is not set: va"),
    ],
)
def test_required_variables(text: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        substitute(text, VARIABLES.get)


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    with pytest.raises(TemplateError):
        substitute("${X:-" * 5000 + "}" * 5000, VARIABLES.get)


def test_a_value_is_never_parsed_as_yaml_or_filled_in_again() -> None:
    document = parse_text("a: x${V}y\n")[0]
    hostile = 'a"\n  privileged: true\n# ${A} $$'
    filled = interpolate(document, {"V": hostile, "A": "no"}.get, Reporter())
    assert plain(filled) == {"a": f"x{hostile}y"}


def test_only_text_values_are_filled_in_not_keys() -> None:
    document = parse_text("${A}: 1\nb: {c: [$A, 2]}\n")[0]
    assert plain(interpolate(document, VARIABLES.get, Reporter())) == {"${A}": 1, "b": {"c": ["va", 2]}}


def test_findings_stand_at_the_dollar_sign() -> None:
    reporter = Reporter()
    document = parse_text('a: "text ${X} $A"\nb: |\n  line\n  ${Y:?no}\n')[0]
    interpolate(document, VARIABLES.get, reporter)
    warning, error = reporter.findings.items
    assert (warning.severity, warning.code, warning.line, warning.column) == (
        "warning",
        "unset-variable",
        1,
        10,
    )
    assert (error.severity, error.code, error.line, error.column) == ("error", "required-variable", 4, 3)


def test_what_aliases_share_stays_shared() -> None:
    document = parse_text("a: &x {k: $A}\nb: *x\n")[0]
    filled = interpolate(document, VARIABLES.get, Reporter())
    assert filled.items["a"] is filled.items["b"]  # type: ignore[union-attr,call-overload]
