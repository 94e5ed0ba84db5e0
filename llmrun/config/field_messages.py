"""Allowed values of a field in words, the same in errors and in the reference, and hints for wrong values."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from llmrun.config.keys import Leaf

PLAIN_UNITS = frozenset({"1", "integer", "name", "path", "runs", "true or false"})
"""Units that add nothing to the type."""

MEANT_BOOLEANS = {"yes": "true", "on": "true", "1": "true", "true": "true"}
MEANT_BOOLEANS |= {"no": "false", "off": "false", "0": "false", "false": "false"}

LONGEST_SHOWN = 60


def allowed(leaf: Leaf) -> str:
    """The allowed values of a field, with unit and example: `a number above 0 and at most 10 (1 per step)`."""
    text = allowed_values(leaf)
    if leaf.unit not in PLAIN_UNITS and not leaf.choices:
        text += f" ({leaf.unit})"
    if leaf.is_token_count:
        text += ", such as 524288, 512Ki or 0.5M"
    return f"{text}, or null" if leaf.optional else text


def allowed_values(leaf: Leaf) -> str:
    """The allowed values of a field except null: `a number above 0 and at most 10`."""
    if leaf.allowed:
        return leaf.allowed
    if leaf.choices:
        return one_of(show_value(choice) for choice in leaf.choices)
    if leaf.type is bool:
        return "true or false"
    if leaf.type is str:
        return "text"
    noun = "number" if leaf.type is float else "quantity" if leaf.is_token_count else "whole number"
    return f"a {noun}{_bounds(leaf)}"


def _bounds(leaf: Leaf) -> str:
    """` of at least 1 and at most 10`."""
    words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{words[name]} {show_value(leaf.bounds[name])}" for name in words if name in leaf.bounds]
    return f" {' and '.join(found)}" if found else ""


def one_of(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *head, last = names
    return f"{', '.join(head)} or {last}" if head else last


def show_value(value: Any) -> str:
    """A value as in YAML, whole floats without a fraction."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_value(item) for item in value)}]"
    return str(value)


def shorten(text: str) -> str:
    """`text`, cut to LONGEST_SHOWN characters."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar to `word`, ignoring case, or None if none is similar."""
    by_fold: dict[str, str] = {}
    for name in known:
        by_fold.setdefault(name.casefold(), name)
    found = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def hint_for_value(leaf: Leaf, value: Any, text: str) -> str | None:
    """What to write instead of `value`, which was written as `text`, or None if that cannot be guessed."""
    unquoted = text.strip("\"'")
    if leaf.choices and leaf.type is str:
        name = nearest(unquoted, [str(choice) for choice in leaf.choices])
        return f"write `{name}`" if name else None
    if leaf.type is bool:
        meant = MEANT_BOOLEANS.get(unquoted.lower())
        return f"write `{meant}`" if meant and not leaf.choices else None
    if leaf.type is str:
        return f'quote it to make it text: "{text}"' if isinstance(value, bool | int | float) else None
    return _hint_for_number(leaf, unquoted, quoted=unquoted != text)


def _hint_for_number(leaf: Leaf, unquoted: str, *, quoted: bool) -> str | None:
    if re.fullmatch(r"[+-]?0[0-9_]+", unquoted):
        return f"write `{unquoted.lstrip('+-0_') or '0'}`: a leading zero may mean an octal number"
    if leaf.is_token_count and re.fullmatch(r"[0-9._]+ ?(k|m|g|b|t)", unquoted):
        number, suffix = unquoted[:-1].strip(), unquoted[-1].upper()
        return (
            f"write `{number}{suffix}` (a power of 1000) or `{number}{suffix.replace('B', 'G')}i` (of 1024)"
        )
    if quoted and leaf.type in (int, float) and re.fullmatch(r"[+-]?[0-9.eE+-]+", unquoted):
        return f"write it without quotes: `{unquoted}`"
    return None
