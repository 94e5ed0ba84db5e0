"""Differences between two nested JSON values, leaf by leaf."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmrun.core.streams import canonical_json


class Absent:
    """The type of ABSENT."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()
"""Stands for a key that one side does not have."""


class LeafDifference(NamedTuple):
    """One leaf that differs.  key: dotted.  A side that lacks the key is ABSENT."""

    key: str
    old: Any
    new: Any


def leaf_differences(old: Any, new: Any, key: str = "") -> list[LeafDifference]:
    """The leaves that differ between two JSON values, by key.

    Values are compared as canonical JSON: 1, 1.0 and true are three values.  An object that one side lacks is one leaf.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[LeafDifference] = []
        for name in sorted({*old, *new}):
            dotted = f"{key}.{name}" if key else name
            found += leaf_differences(old.get(name, ABSENT), new.get(name, ABSENT), dotted)
        return found
    if isinstance(old, Absent) or isinstance(new, Absent) or canonical_json(old) != canonical_json(new):
        return [LeafDifference(key, old, new)]
    return []
