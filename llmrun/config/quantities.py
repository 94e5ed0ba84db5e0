"""Quantities as users write them: `524288`, `524_288`, `512Ki`, `0.5M`, `1T`, `1e12`."""

import re
from decimal import Decimal, localcontext
from typing import Any

SUFFIXES: dict[str, int] = {
    "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip

DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
"""A whole number without sign or leading zero (YAML 1.1 reads `012` as ten)."""

PATTERN = rf"([+-]?{DIGITS}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?) ?(Ki|Mi|Gi|Ti|K|M|B|G|T)?"
_QUANTITY = re.compile(PATTERN)

LARGEST = 2**63 - 1
LONGEST = 64
"""Longest accepted number in characters; keeps the arithmetic exact and fast."""


class QuantityError(ValueError):
    """A number that is not a valid quantity; the message reads `must be …, got …`."""


def parse_quantity(value: Any) -> int:
    """A whole number from an int, a whole float, or text with an optional suffix.

    K, M, B = G, T are powers of 1000; Ki, Mi, Gi, Ti powers of 1024.
    Raises QuantityError if the number is not whole or does not fit 63 bits, ValueError if `value` is not a number.
    """
    with localcontext(prec=200):
        number = _as_decimal(value)
        if abs(number) > LARGEST:
            raise QuantityError(f"must be at most {LARGEST} (2^63 - 1), got {value}")
        if number != number.to_integral_value():
            shown = _show_decimal(number)
            equals = "" if shown == str(value) else f" = {shown}"
            raise QuantityError(f"must be a whole number, got {value}{equals}")
        return int(number)


def _as_decimal(value: Any) -> Decimal:
    """The exact value of a quantity, which may be fractional."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, float):
        value = repr(value)
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= LONGEST else None
    if match is None:
        raise ValueError("must be a quantity such as 524288, 512Ki, 0.5M, 1T or 1e12")
    digits, suffix = match.groups()
    return Decimal(digits) * SUFFIXES.get(suffix or "", 1)


def _show_decimal(number: Decimal) -> str:
    """A decimal in plain digits if they are few, else in scientific notation."""
    plain = f"{number.normalize():f}"
    return plain if len(plain) <= LONGEST else f"{number:.3e}"


def show_quantity(value: int) -> str:
    """`value` in its shortest exact form: 524288 -> `512Ki`, 4000000 -> `4M`, 1234 -> `1234`."""
    for suffix in ("Ti", "Gi", "Mi", "Ki", "T", "B", "M", "K"):
        size = SUFFIXES[suffix]
        if value and value % size == 0 and value // size < 10_000:
            return f"{value // size}{suffix}"
    return str(value)
