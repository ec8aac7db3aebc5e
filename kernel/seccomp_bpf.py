"""Seccomp filters as classic BPF: rules by system call number in, struct sock_filter[] out. Pure.

Layout: check the architecture, load the number, a binary tree of comparisons over ranges of numbers with one verdict,
leaves that return or compare arguments (both 32-bit halves). See seccomp(2) and the kernel's
Documentation/userspace-api/seccomp_filter.rst; jumps only go forward and reach 255 instructions, JA any distance.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pystack.model.errors import InvalidInput

#: Kernel's BPF_MAXINSNS.
_MAXIMUM = 4096
_X32_BIT = 0x40000000

_LD, _JA, _JEQ, _JGT, _JGE, _RET, _AND = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06, 0x54
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_FAIL = -1  # stands for "the next rule" until its distance is known

Instruction = tuple[int, int, int, int]  # code, jt, jf, k


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One argument compared, unsigned 64 bit. MASKED_EQ: (argument & value) == value_two.

    `narrow`, for NE only: the kernel takes this argument as an int, so its upper half must not make a difference.
    """

    index: int
    operator: str  # NE LT LE EQ GE GT MASKED_EQ
    value: int
    value_two: int = 0
    narrow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`action` (SECCOMP_RET_*) when all conditions hold."""

    action: int
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One architecture. Numbers above `newest` get `unknown`; x32 shares AUDIT_ARCH_X86_64 and owns the numbers with its bit."""

    rules: Mapping[int, Sequence[Rule]]
    default: int
    newest: int
    unknown: int
    x32: bool


def _condition(condition: Condition) -> list[Instruction]:
    """Falls through when it holds; jumps to _FAIL when not."""
    low_at = _ARGS + 8 * condition.index
    high, low = condition.value >> 32, condition.value & 0xFFFFFFFF
    ld_high, ld_low = (_LD, 0, 0, low_at + 4), (_LD, 0, 0, low_at)
    match condition.operator:
        case "EQ":
            return [ld_high, (_JEQ, 0, _FAIL, high), ld_low, (_JEQ, 0, _FAIL, low)]
        case "NE" if condition.narrow:
            return [ld_low, (_JEQ, _FAIL, 0, low)]
        case "NE":
            return [ld_high, (_JEQ, 0, 2, high), ld_low, (_JEQ, _FAIL, 0, low)]
        case "GT":
            return [ld_high, (_JGT, 3, 0, high), (_JEQ, 0, _FAIL, high), ld_low, (_JGT, 0, _FAIL, low)]
        case "GE":
            return [ld_high, (_JGT, 3, 0, high), (_JEQ, 0, _FAIL, high), ld_low, (_JGE, 0, _FAIL, low)]
        case "LT":
            return [ld_high, (_JGT, _FAIL, 0, high), (_JEQ, 0, 2, high), ld_low, (_JGE, _FAIL, 0, low)]
        case "LE":
            return [ld_high, (_JGT, _FAIL, 0, high), (_JEQ, 0, 2, high), ld_low, (_JGT, _FAIL, 0, low)]
        case _:
            wanted_high, wanted_low = condition.value_two >> 32, condition.value_two & 0xFFFFFFFF
            return [
                ld_high,
                (_AND, 0, 0, high),
                (_JEQ, 0, _FAIL, wanted_high),
                ld_low,
                (_AND, 0, 0, low),
                (_JEQ, 0, _FAIL, wanted_low),
            ]


def _rule(rule: Rule) -> list[Instruction]:
    """Returns the action when the conditions hold, else falls out at the end."""
    code = [instruction for condition in rule.conditions for instruction in _condition(condition)]
    end = len(code) + 1
    patched = []
    for at, (op, jt, jf, k) in enumerate(code):
        here = end - at - 1
        patched.append((op, here if jt == _FAIL else jt, here if jf == _FAIL else jf, k))
    return [*patched, (_RET, 0, 0, rule.action)]


def _leaf(rules: Sequence[Rule], default: int) -> tuple[Instruction, ...]:
    """What one number leads to. A rule without conditions decides alone, wherever it stands (as in libseccomp)."""
    for rule in rules:
        if not rule.conditions:
            return ((_RET, 0, 0, rule.action),)
    code = [instruction for rule in rules for instruction in _rule(rule)]
    return (*code, (_RET, 0, 0, default))


def _ranges(section: Section) -> list[tuple[int, tuple[Instruction, ...]]]:
    """(first number, leaf) in order; neighbours with the same leaf are one range. Starts at 0 or at x32's first number."""
    default: tuple[Instruction, ...] = ((_RET, 0, 0, section.default),)
    base = _X32_BIT if section.x32 else 0
    found: list[tuple[int, tuple[Instruction, ...]]] = []
    leaves: dict[tuple[Rule, ...], tuple[Instruction, ...]] = {}

    def add(first: int, leaf: tuple[Instruction, ...]) -> None:
        if not found or found[-1][1] != leaf:
            found.append((first, leaf))

    after = base
    for number in sorted(section.rules):
        if number > after:
            add(after, default)
        rules = tuple(section.rules[number])
        leaf = leaves.get(rules)
        if leaf is None:
            leaf = leaves[rules] = _leaf(rules, section.default)
        add(number, leaf)
        after = number + 1
    if section.newest >= after:
        add(after, default)
    add(max(section.newest + 1, base), ((_RET, 0, 0, section.unknown),))
    return found


def _tree(ranges: Sequence[tuple[int, tuple[Instruction, ...]]]) -> list[Instruction]:
    """Binary decision over ranges: below the middle goes on, the rest jumps over it."""
    if len(ranges) == 1:
        return list(ranges[0][1])
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    first = ranges[middle][0]
    return _branch((_JGE, first), yes=high, no=low)


def _branch(test: tuple[int, int], *, yes: list[Instruction], no: list[Instruction]) -> list[Instruction]:
    """`no` follows the test, `yes` comes behind it."""
    op, value = test
    if len(no) <= 255:
        return [(op, len(no), 0, value), *no, *yes]
    return [(op, 0, 1, value), (_JA, 0, 0, len(no)), *no, *yes]


def _architecture(sections: Sequence[Section], bad_arch: int) -> list[Instruction]:
    """All of one AUDIT_ARCH value: x32 is told from x86_64 by its bit in the number, and refused when it is not listed."""
    ranges: list[tuple[int, tuple[Instruction, ...]]] = []
    for section in sorted(sections, key=lambda each: each.x32):
        ranges += _ranges(section)
    if not ranges or ranges[0][0] == _X32_BIT:
        ranges.insert(0, (0, ((_RET, 0, 0, bad_arch),)))
    if not any(section.x32 for section in sections) and ranges[-1][0] < _X32_BIT:
        ranges.append((_X32_BIT, ((_RET, 0, 0, bad_arch),)))
    return [(_LD, 0, 0, _NR), *_tree(ranges)]


def assemble(sections: Mapping[int, Sequence[Section]], *, bad_arch: int) -> bytes:
    """The whole filter; `sections` by AUDIT_ARCH value. InvalidInput when it is longer than the kernel takes."""
    code: list[Instruction] = [(_RET, 0, 0, bad_arch)]
    for audit, parts in reversed(list(sections.items())):
        code = _branch((_JEQ, audit), yes=_architecture(parts, bad_arch), no=code)
    code.insert(0, (_LD, 0, 0, _ARCH))
    if len(code) > _MAXIMUM:
        raise InvalidInput(
            f"cannot use the seccomp profile: it needs {len(code)} instructions of at most {_MAXIMUM}"
        )
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
