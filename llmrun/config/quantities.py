"""Quantities as users write them: `524288`, `524_288`, `512Ki`, `0.5M`, `1T`, `1e12`."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

SUFFIXES: dict[str, int] = {
    "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip

_QUANTITY = re.compile(
    r"([+-]?[0-9][0-9_]*(?:\.[0-9_]+)?(?:[eE][+-]?[0-9]{1,3})?)\s*(Ki|Mi|Gi|Ti|K|M|B|G|T)?"
)
LARGEST = 2**63 - 1


def parse_quantity(value: Any) -> int:
    """A whole number from an int, a whole float, or text with an optional suffix.

    K, M, B = G, T are powers of 1000; Ki, Mi, Gi, Ti powers of 1024.
    Raises ValueError when it does not come out whole, is malformed, or does not fit 63 bits.
    """
    number = _as_decimal(value)
    if number != number.to_integral_value():
        raise ValueError(f"must come out whole; {value} is {number.normalize():f}")
    if abs(number) > LARGEST:
        raise ValueError(f"must be at most {LARGEST:,} (2^63 - 1)")
    return int(number)


def _as_decimal(value: Any) -> Decimal:
    """The exact value of a quantity, not yet checked to be whole."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a quantity such as 524288, 512Ki, 0.5M, 1T or 1e12")
    if isinstance(value, float):
        value = repr(value)
    if isinstance(value, int):
        return Decimal(value)
    match = _QUANTITY.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a quantity such as 524288, 512Ki, 0.5M, 1T or 1e12")
    digits, suffix = match.groups()
    try:
        return Decimal(digits.replace("_", "")) * SUFFIXES.get(suffix or "", 1)
    except InvalidOperation as error:
        raise ValueError(f"{value} is not a number") from error


def show_quantity(value: int) -> str:
    """`value` in its shortest exact form: 524288 -> `512Ki`, 4000000 -> `4M`, 1234 -> `1234`."""
    for suffix in ("Ti", "Gi", "Mi", "Ki", "T", "B", "M", "K"):
        size = SUFFIXES[suffix]
        if value and value % size == 0 and value // size < 10_000:
            return f"{value // size}{suffix}"
    return str(value)
