"""Strict JSON from untrusted files: UTF-8, finite numbers, unique keys; each value checked, each error one line."""

import json
import math
import re
from collections.abc import Collection
from typing import Any, NoReturn

COUNT_MAX = 2**63 - 1
_SHOWN_CHARACTERS_MAX = 60


class WrongValue(ValueError):
    """A value that the format does not allow.

    The message is one line that continues the name of the file.  line: of the text, 1-based, if it is no JSON.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def shown(value: object) -> str:
    """`value` for a message: on one line, without control characters, at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[: _SHOWN_CHARACTERS_MAX - 3] + "..."


def _no_constant(name: str) -> NoReturn:
    raise WrongValue(f"holds {name}, which is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise WrongValue(f"holds the number {shown(digits)}, which is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise WrongValue(f"names {shown(key)} twice")
        values[key] = value
    return values


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`, UTF-8.

    Raises WrongValue for anything else: NaN and infinities, duplicate keys, nesting too deep for the parser.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise WrongValue(f"is not UTF-8 at byte {error.start:,}") from None
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise WrongValue(message, error.lineno) from None
    except RecursionError:
        raise WrongValue("is nested too deeply") from None
    except WrongValue:
        raise
    except ValueError:
        raise WrongValue("holds a number of too many digits") from None
    return object_at(value, "the document")


def object_at(value: object, where: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    """`value` as an object, with exactly `keys` unless these are None.  Raises WrongValue."""
    if not isinstance(value, dict):
        raise WrongValue(f"{where} must be an object, got {shown(value)}")
    if keys is not None:
        missing = sorted(set(keys) - value.keys())
        unknown = sorted(value.keys() - set(keys))
        if missing:
            raise WrongValue(f"{where} lacks {missing[0]!r}")
        if unknown:
            raise WrongValue(f"{where} has the unknown key {shown(unknown[0])}")
    return value


def list_at(value: object, where: str) -> list[Any]:
    """`value` as a list.  Raises WrongValue."""
    if not isinstance(value, list):
        raise WrongValue(f"{where} must be a list, got {shown(value)}")
    return value


def count_at(value: object, where: str) -> int:
    """`value` as an integer in [0, 2^63 - 1].  Raises WrongValue."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= COUNT_MAX:
        raise WrongValue(f"{where} must be an integer from 0 to 2^63-1, got {shown(value)}")
    return value


def number_at(value: object, where: str) -> float:
    """`value` as a finite number.  Raises WrongValue."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValue(f"{where} must be a number, got {shown(value)}")
    return float(value)


def text_at(value: object, where: str, pattern: re.Pattern[str], constraint: str) -> str:
    """`value` as a string that matches `pattern`, which `constraint` describes.  Raises WrongValue."""
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise WrongValue(f"{where} must be {constraint}, got {shown(value)}")
    return value
