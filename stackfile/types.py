"""The value types of the schema: what a value may be written as, and what it becomes.

In: a value after interpolation, so that numbers and flags may come as text. Out: str, bool, int, float; durations in
nanoseconds, sizes in bytes. Every refusal is a sentence that follows the value's path: "must be a number, not a list".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from pystack.stackfile.diagnostics import did_you_mean
from pystack.stackfile.document import text_of
from pystack.stackfile.durations import parse_duration, parse_size

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


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    hint = f'put it in quotes: "{text_of(value)}"' if isinstance(value, (bool, int, float)) else ""
    raise refuse("text", value, hint)


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
    if isinstance(value, str) and re.match(r"[-+]?\d+\Z", value):
        return int(value)
    raise refuse("a whole number", value)


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass  # refused below, as every other wrong value
    raise refuse("a number", value)


def _size(value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        if value == "-1":
            return -1
        try:
            return parse_size(value)
        except ValueError:
            pass  # refused below, as every other wrong value
    raise refuse("a size such as 512m or 1.5g", value)


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


Text = Annotated[str, BeforeValidator(_text)]
LooseText = Annotated[str, BeforeValidator(_loose_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[int, BeforeValidator(_duration)]
Mode = Annotated[int, BeforeValidator(_mode)]


def one_of(*choices: str) -> BeforeValidator:
    """Text that is one of the choices; a near miss is named."""

    def check(value: Any) -> str:
        if value in choices:
            return str(value)
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise refuse("one of " + ", ".join(choices), value, hint)

    return BeforeValidator(check)


Texts = tuple[Text, ...]
LooseTexts = tuple[LooseText, ...]
#: Environment, labels and the like: None where only the name was given.
TextMap = dict[str, LooseText | None]
Check = Callable[[Any], Any]
