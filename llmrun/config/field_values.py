"""The values of a config by kind, nested with ASCII names: numeric fields (the fingerprint's preimage) and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmrun.config.fields import Kind
from llmrun.config.keys import leaves
from llmrun.config.schema import Config
from llmrun.core.streams import canonical_json

ADDED_LATER: Mapping[str, Any] = {"model.preset": None}
"""Numeric fields added to the schema after the first release, by key, with the value that means the old behaviour.
A field with that value is left out of the fingerprint, so old fingerprints stay valid."""

ABSENT = "(absent)"
"""Stands for a key that one side of a difference does not have."""


def numeric_fields(config: Config, added_later: Mapping[str, Any] = ADDED_LATER) -> dict[str, Any]:
    """The fields of a resolved config that may change bits.

    Their canonical JSON is the preimage of the fingerprint's `config` part.  `strategy` and
    `activation_checkpointing` are operational, because only eager mode is supported.
    """
    assert config.batch.V is not None, "the config must be resolved"
    assert config.hardware.device != "auto", "the config must be resolved"
    fields = _fields_of_kind(config, "numeric")
    old = {key for key, value in added_later.items() if _same(_get(fields, key), value)}
    return _nest({key: value for key, value in _flatten(fields) if key not in old})


def operational_fields(config: Config) -> dict[str, Any]:
    """The fields of a config that cannot change bits."""
    return _fields_of_kind(config, "operational")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) for every leaf that differs, sorted by key; a missing value is ABSENT."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    keys = sorted(before.keys() | after.keys())
    pairs = [(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    return [pair for pair in pairs if not _same(pair[1], pair[2])]


def _fields_of_kind(config: Config, kind: Kind) -> dict[str, Any]:
    values = dict(_flatten(config.model_dump(mode="json")))
    return _nest({key: values[key] for key, leaf in leaves().items() if leaf.kind == kind})


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for each leaf of nested mappings."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        below = nested
        for section in sections:
            below = below.setdefault(section, {})
        below[name] = value
    return nested


def _get(nested: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or ABSENT."""
    return dict(_flatten(nested)).get(key, ABSENT)


def _same(a: Any, b: Any) -> bool:
    """Whether two values have the same JSON: 1, 1.0 and true are three values."""
    return canonical_json(a) == canonical_json(b)
