"""The fingerprint: one sha256 over everything that may change a bit of the result.

part digest = sha256(canonical JSON of the part's preimage)
digest      = sha256(canonical JSON of {part: part digest})

The preimages are kept with the digests, so that two runs can be compared field by field.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from llmrun.config.differences import Absent, leaf_differences
from llmrun.core.streams import canonical_json

Part = Literal["config", "data", "code", "environment"]
PARTS: tuple[Part, ...] = get_args(Part)


def digest_of(value: Any) -> str:
    """sha256 of `value` as canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """The preimage of each part: JSON values."""

    preimages: Mapping[str, Any]

    def __post_init__(self) -> None:
        assert set(self.preimages) == set(PARTS), f"parts are {sorted(self.preimages)}"

    @property
    def parts(self) -> dict[str, str]:
        """Digest of each part, in hex."""
        return {part: digest_of(self.preimages[part]) for part in PARTS}

    @property
    def digest(self) -> str:
        """The fingerprint, 64 hex digits."""
        return digest_of(self.parts)

    def as_json(self) -> dict[str, Any]:
        """The fingerprint for run.json."""
        return {"digest": self.digest, "parts": self.parts, "preimages": dict(self.preimages)}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Self:
        """The fingerprint that `as_json` wrote."""
        return cls(document["preimages"])


@dataclass(frozen=True)
class Change:
    """One field that differs between two fingerprints; an absent side is ABSENT."""

    part: str
    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {show(self.old)} -> {show(self.new)}"


def show(value: Any) -> str:
    """A value for the screen: `null`, `true`, strings without quotes, digests shortened."""
    if isinstance(value, Absent):
        return "(absent)"
    if isinstance(value, str):
        return f"{value[:12]}…" if is_digest(value) else value or '""'
    return canonical_json(value)


def is_digest(text: str) -> bool:
    """Whether `text` is a sha256 in hex."""
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def compare(old: Fingerprint, new: Fingerprint) -> list[Change]:
    """Every field in which two fingerprints differ, by part and key; the canary, which only shows a symptom, last."""
    changes: list[Change] = []
    for part in PARTS:
        if digest_of(old.preimages[part]) != digest_of(new.preimages[part]):
            changes += [
                Change(part, key, before, after)
                for key, before, after in leaf_differences(old.preimages[part], new.preimages[part])
            ]
    return sorted(changes, key=lambda change: change.key.startswith("canary."))


def differing_preimages(old: Fingerprint, new: Fingerprint) -> dict[str, Any]:
    """The new preimages of the parts that differ."""
    return {part: new.preimages[part] for part in PARTS if old.parts[part] != new.parts[part]}
