"""YAML text to documents: scalars as Compose sees them, marks, and what is refused."""

from __future__ import annotations

import time

import pytest

from pystack.model.errors import StackFileError
from pystack.stackfile import yamldoc
from pystack.stackfile.diagnostics import Diagnostic
from pystack.stackfile.document import Mapping, Scalar, locate, plain
from pystack.stackfile.yamldoc import parse_text, resolve


def value(text: str) -> object:
    return plain(parse_text(text)[0])


def errors(text: str) -> list[Diagnostic]:
    with pytest.raises(StackFileError) as caught:
        parse_text(text)
    return list(caught.value.diagnostics)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("0o17", 15),
        ("017", 15),
        ("0x1F", 31),
        ("0b101", 5),
        ("1_000", 1000),
        ("-7", -7),
        ("08", 8.0),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("~", None),
        ("null", None),
        ("22:22", "22:22"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        ("+x", "+x"),
        (".inf", float("inf")),
        ("99999999999999999999999", 1e23),
    ],
)
def test_plain_scalars(text: str, expected: object) -> None:
    found = resolve(text)
    assert found == expected
    assert type(found) is type(expected)


def test_quoted_scalars_and_blocks_are_text() -> None:
    assert value("a: '1'\nb: \"true\"\nc: |\n  x\n  y\nd: !!str 5\n") == {
        "a": "1",
        "b": "true",
        "c": "x\ny\n",
        "d": "5",
    }


def test_a_bare_date_is_refused_with_what_to_write() -> None:
    (error,) = errors("a: 2024-01-02")
    assert (error.code, error.line, error.column) == ("timestamp", 1, 4)
    assert '"2024-01-02"' in error.help


def test_marks_of_keys_and_values() -> None:
    document = parse_text("services:\n  web:\n    ports: [80, '81']\n")[0]
    ports = locate(document, ("services", "web", "ports"))
    key = locate(document, ("services", "web", "ports"), key=True)
    second = locate(document, ("services", "web", "ports", 1))
    assert (key.line, key.column, ports.line, ports.column) == (3, 5, 3, 12)
    assert isinstance(second, Scalar)
    assert (second.line, second.column, second.plain) == (3, 17, False)


def test_merge_keys_own_first_then_first_source() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\n"
    assert value(text)["z"] == {"a": 0, "b": 1, "c": 2}  # type: ignore[index]


def test_merged_keys_keep_their_mark() -> None:
    document = parse_text("x: &x\n  a: 1\nz:\n  <<: *x\n")[0]
    node = locate(document, ("z", "a"))
    assert (node.line, node.column) == (2, 6)


def test_a_merge_of_something_else_is_refused() -> None:
    assert errors("a:\n  <<: [1]\n")[0].code == "bad-merge"


def test_duplicate_keys_are_refused_all_of_them() -> None:
    found = errors("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [(e.code, e.line, e.column) for e in found] == [("duplicate-key", 2, 1), ("duplicate-key", 3, 11)]
    assert "line 1" in found[0].help


def test_keys_must_be_text() -> None:
    assert errors("1: x\n")[0].code == "bad-key"
    assert errors("[a]: x\n")[0].code == "bad-key"


def test_several_documents_and_empty_ones() -> None:
    assert [plain(d) for d in parse_text("a: 1\n---\nb: 2\n---\n")] == [{"a": 1}, {"b": 2}]
    assert parse_text("# nothing\n") == []


def test_reset_and_override_tags_are_kept() -> None:
    document = parse_text("a: !reset null\nb: !override [1]\n")[0]
    assert isinstance(document, Mapping)
    assert (document.items["a"].tag, document.items["b"].tag) == ("!reset", "!override")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [touch]", "!!python/name:os.system x", "!foo 1", "!!binary aGk="]
)
def test_other_tags_are_refused(tag: str) -> None:
    assert errors(f"a: {tag}")[0].code == "unknown-tag"


def test_billion_laughs_are_refused_at_once() -> None:
    lines = ["a0: &a0 [l, l, l, l, l, l, l, l, l]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    started = time.perf_counter()
    (error,) = errors("\n".join(lines))
    assert error.code == "too-many-nodes"
    assert error.line > 1
    assert time.perf_counter() - started < 1


def test_shared_aliases_cost_nothing_below_the_cap() -> None:
    lines = ["a0: &a0 [l, l, l, l, l, l, l, l, l]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 4)]
    document = parse_text("\n".join(lines))[0]
    assert isinstance(document, Mapping)
    assert document.items["a3"].items[0] is document.items["a2"]  # type: ignore[union-attr,index]


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: {c: *x}}", "a: &x\n  <<: *x\n"])
def test_an_alias_inside_its_own_anchor_is_refused(text: str) -> None:
    assert errors(text)[0].code == "recursive-alias"


def test_an_unknown_alias_is_refused() -> None:
    assert errors("a: *nope")[0].code in {"undefined-alias", "yaml"}


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    started = time.perf_counter()
    (error,) = errors(text)
    assert error.code == "too-deep"
    assert time.perf_counter() - started < 2


def test_deep_nesting_by_aliases_is_refused() -> None:
    lines = ["a0: &a0 [[[[[[[[[x]]]]]]]]]"]
    lines += [f"a{i}: &a{i} [[[[[[[[[*a{i - 1}]]]]]]]]]" for i in range(1, 20)]
    assert errors("\n".join(lines))[0].code == "too-deep"


def test_a_huge_file_is_refused() -> None:
    assert errors("a: " + "x" * 10_000_001)[0].code == "too-large"


def test_a_nul_is_refused() -> None:
    assert errors("a: 'x\0y'")[0].code == "yaml"


@pytest.mark.parametrize("text", ['a: "x\\0y"', 'a: "\\ud800"'])
def test_escapes_that_are_no_text_are_refused(text: str) -> None:
    assert errors(text)[0].code in {"bad-text", "yaml"}


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert value("\ufeffservices: {}") == {"services": {}}


def test_yaml_1_2_that_the_old_libyaml_refuses() -> None:
    assert value("a: [data:/x, http://h:1/p]") == {"a": ["data:/x", "http://h:1/p"]}


def test_syntax_errors_point_at_the_place_and_say_what_to_do() -> None:
    (error,) = errors("services:\n\tweb: x\n")
    assert (error.code, error.line) == ("yaml", 2)
    assert "spaces" in error.help
    (error,) = errors("a: b: c\n")
    assert (error.line, error.column) == (1, 5)


def test_the_other_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x {b: 1, c: !!str 2}\nd: !reset null\ne: !override [x, 'y']\nf:\n  <<: *x\n  g: |\n    z\n"
    first = parse_text(text)[0]
    monkeypatch.setattr(yamldoc, "CParser", None)
    second = parse_text(text)[0]
    assert isinstance(first, Mapping)
    assert isinstance(second, Mapping)
    assert plain(first) == plain(second)
    for key, node in first.items.items():
        other = second.items[key]
        assert (node.tag, node.line, node.column) == (other.tag, other.line, other.column)
    for bad in ("a: 1\na: 2\n", "a: !foo x", "a: &x [*x]", "a: *n", "a: [", "[" * 500):
        assert errors(bad)
