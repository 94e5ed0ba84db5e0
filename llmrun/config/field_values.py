"""The values of a config by kind, nested with ASCII names: numeric fields (the fingerprint's preimage) and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from llmrun.config.fields import Kind
from llmrun.config.keys import leaves
from llmrun.config.schema import Config
from llmrun.core.streams import canonical_json

ADDED_LATER: Mapping[str, Any] = {
    "model.preset": None,
    "model.factory": None,
    "model.args": None,
    "optimizer.groups": [],
    "optimizer.muon.lr": None,
    "optimizer.muon.momentum": None,
    "optimizer.muon.nesterov": None,
    "optimizer.muon.ns_steps": None,
    "optimizer.muon.weight_decay": None,
    "optimizer.muon.adjust_lr_fn": None,
}
"""Numeric fields added to the schema after the first release, by key, with the value that means the old behaviour.
A field with that value is left out of the fingerprint, so old fingerprints stay valid."""


OF_ANY_MODEL = ("model.factory", "model.args", "model.import_root", "model.vocab_size")
"""Fields of the section `model` that apply with `model.factory`; the others are the built-in model's."""


def numeric_fields(config: Config, added_later: Mapping[str, Any] = ADDED_LATER) -> dict[str, Any]:
    """The fields of a resolved config that may change bits.

    Their canonical JSON is the preimage of the fingerprint's `config` part.  `strategy` and
    `activation_checkpointing` are operational, because only eager mode is supported.
    """
    assert config.batch.V is not None, "the config must be resolved"
    assert config.hardware.device != "auto", "the config must be resolved"
    fields = {
        key: value for key, value in _flat_fields_of_kind(config, "numeric").items() if applies(config, key)
    }
    # As JSON: 1, 1.0 and true are three values.
    kept = {
        key: value
        for key, value in fields.items()
        if key not in added_later or canonical_json(value) != canonical_json(added_later[key])
    }
    return _nest(kept)


def applies(config: Config, key: str) -> bool:
    """Whether a field means anything in this config: those of the built-in model do not with `model.factory`."""
    return config.model.factory is None or not key.startswith("model.") or key in OF_ANY_MODEL


def operational_fields(config: Config) -> dict[str, Any]:
    """The fields of a config that cannot change bits."""
    return _nest(_flat_fields_of_kind(config, "operational"))


def _flat_fields_of_kind(config: Config, kind: Kind) -> dict[str, Any]:
    values = dict(_flatten(config.model_dump(mode="json")))
    values["model.args"] = config.model.args
    return {key: values[key] for key, leaf in leaves().items() if leaf.kind == kind}


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
