"""The value types of the schema: what a value may be written as, and what it becomes.

In: a value after interpolation, so that numbers and flags may come as text. Out: str, bool, int, float; durations in
nanoseconds, sizes in bytes. Every refusal is a sentence that follows the value's path: "must be a number, not a list".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Strict
from pydantic_core import PydanticCustomError

from pystack.stackfile.diagnostics import did_you_mean
from pystack.stackfile.document import text_of
from pystack.stackfile.durations import parse_duration, parse_size

Check = Callable[[Any], Any]

_TRUE = {"true", "yes", "y", "on", "1", "t"}
_FALSE = {"false", "no", "n", "off", "0", "f"}


def found(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {text_of(value)}"
    if isinstance(value, str):
        return f"the text `{value if len(value) <= 40 else value[:37] + '…'}`"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"


def refuse(expected: str, value: object, hint: str = "") -> PydanticCustomError:
    """The error of a value that is not what was expected; `hint` becomes the help line."""
    return PydanticCustomError(
        "wrong-type",
        "must be {expected}, not {found}",
        {"expected": expected, "found": found(value), "hint": hint},
    )


def quoted(value: object) -> str:
    """The hint for a number or a flag where text is wanted."""
    return f'put it in quotes: "{text_of(value)}"' if isinstance(value, (bool, int, float)) else ""


def _loose_text(value: Any) -> str:
    """Text, or a number or flag as Compose prints it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return text_of(value)
    raise refuse("a single value", value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise refuse("true or false", value)


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.match(r"[-+]?\d{1,20}\Z", value):
        return int(value)
    raise refuse("a whole number", value)


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            number = float(value)
            if math.isfinite(number):
                return number
        except ValueError:
            pass  # refused below, as every other wrong value
    raise refuse("a number", value)


def _size(value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return int(value)
    if isinstance(value, str):
        if value == "-1":
            return -1
        try:
            return parse_size(value)
        except ValueError:
            pass  # refused below, as every other wrong value
    raise refuse("a size such as 512m or 1.5g", value)


def _size_text(value: Any) -> int:
    """A size that must be text, so that nobody wonders about its unit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise refuse("text such as 512m", value, f'put it in quotes: "{text_of(value)}"')
    return _size(value)


def _microseconds(value: Any) -> int:
    """A number of microseconds, or a duration."""
    if isinstance(value, str) and not value.isdigit():
        return _duration(value) // 1000
    return _whole(value)


def _count(value: Any) -> int:
    """How many devices: -1 stands for `all`."""
    return -1 if value == "all" else _whole(value)


def _option(value: Any) -> tuple[str, ...]:
    """What a provider is told: one text or several."""
    return tuple(_loose_text(item) for item in (value if isinstance(value, list) else [value]))


def _no_twice(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) == len(values):
        return values
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise PydanticCustomError("wrong-type", "lists `{value}` twice", {"value": value, "hint": ""})
        seen.add(value)
    return values


def _duration(value: Any) -> int:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError:
            pass  # refused below, as every other wrong value
    hint = (
        f"write {value}s for seconds"
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit())
        else ""
    )
    raise refuse("a duration such as 30s or 1m30s", value, hint)


def _mode(value: Any) -> int:
    """File permission bits; text is octal, a number is as YAML read it."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o7777:
        return value
    if isinstance(value, str) and re.match(r"(0o?)?[0-7]{1,4}\Z", value):
        return int(value.removeprefix("0o"), 8)
    raise refuse("a file mode such as 0444", value)


def _written(check: Check, *forms: str) -> BeforeValidator:
    """The validator, and the JSON types that may be written for what it accepts."""
    check.written = forms  # type: ignore[attr-defined] # for the JSON Schema
    return BeforeValidator(check)


Text = Annotated[str, Strict()]  # checked in pydantic's core: most values are text
LooseText = Annotated[str, _written(_loose_text, "string", "number", "boolean", "null")]
Flag = Annotated[bool, _written(_flag, "boolean", "string")]
Whole = Annotated[int, _written(_whole, "integer", "string")]
Number = Annotated[float, _written(_number, "number", "string")]
Size = Annotated[int, _written(_size, "number", "string")]
Duration = Annotated[int, _written(_duration, "string")]
Mode = Annotated[int, _written(_mode, "integer", "string")]
SizeText = Annotated[int, _written(_size_text, "string")]
Microseconds = Annotated[int, _written(_microseconds, "integer", "string")]
Count = Annotated[int, _written(_count, "integer", "string")]
OptionMap = dict[str, Annotated[tuple[str, ...], _written(_option, "string", "number", "boolean", "array")]]


def one_of(*choices: str) -> BeforeValidator:
    """Text that is one of the choices; a near miss is named."""

    def check(value: Any) -> str:
        if value in choices:
            return str(value)
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise refuse("one of " + ", ".join(choices), value, hint)

    check.choices = choices  # type: ignore[attr-defined] # for the JSON Schema
    return BeforeValidator(check)


Texts = tuple[Text, ...]
LooseTexts = tuple[LooseText, ...]
UniqueTexts = Annotated[tuple[Text, ...], AfterValidator(_no_twice)]
UniqueLoose = Annotated[tuple[LooseText, ...], AfterValidator(_no_twice)]
#: Environment, labels and the like: None where only the name was given.
TextMap = dict[str, LooseText | None]
