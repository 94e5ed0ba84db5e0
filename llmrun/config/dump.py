"""Configs as text and as facts: YAML in the user's symbols, numeric and operational fields."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmrun.config.fields import Kind, Section
from llmrun.config.keys import leaves, section_of, spellings
from llmrun.config.quantities import show_quantity
from llmrun.config.schema import Config
from llmrun.core.streams import canonical_json

ADDED_LATER: Mapping[str, Any] = {"model.preset": None}
"""Numeric fields that entered the schema after the first release, by key, with the value that means the old
behaviour.  While a field has that value it is left out of the fingerprint, so that old fingerprints live on."""

_PLAIN_TEXT = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_WORDS_OF_YAML = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "."})


def dump_yaml(config: Config) -> str:
    """`config` as YAML in the user's symbols; loading it gives an equal config."""
    blocks = [_dump_section(config, "", "")]
    for name, info in Config.model_fields.items():
        if section_of(info):
            blocks.append(f"\n{name}:\n{_dump_section(getattr(config, name), f'{name}.', '  ')}")
    return "".join(blocks)


def _dump_section(section: Section, prefix: str, indent: str) -> str:
    """The leaves of one section, one a line."""
    lines = []
    for name, info in type(section).model_fields.items():
        if section_of(info) is None:
            value = getattr(section, name)
            written = f"{indent}{spellings(name, info)[0]}: {yaml_value(value)}"
            lines.append(written + _remark(prefix + name, value) + "\n")
    return "".join(lines)


def _remark(key: str, value: Any) -> str:
    """A comment that shows a quantity of tokens as people write it."""
    leaf = leaves()[key]
    if not leaf.is_quantity or not leaf.unit.startswith("tokens") or value is None:
        return ""
    shown = show_quantity(value)
    return "" if shown == str(value) else f"  # {shown}"


def yaml_value(value: Any) -> str:
    """A leaf's value as YAML that every reader takes for the same value."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    if isinstance(value, float):
        # YAML 1.1 wants a point before an exponent: 1e-05 would be text there.
        mantissa, e, exponent = repr(value).partition("e")
        point = "" if "." in mantissa or not e else ".0"
        signed = exponent if exponent.startswith("-") or not e else f"+{exponent.lstrip('+')}"
        return f"{mantissa}{point}{e}{signed}"
    if isinstance(value, str):
        plain = _PLAIN_TEXT.fullmatch(value) and value.lower() not in _WORDS_OF_YAML
        return value if plain else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """`text` in double quotes, with everything that does not print escaped."""
    escaped = (
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}"
        for c in text
    )  # fmt: skip
    return f'"{"".join(escaped)}"'


def numeric_fields(config: Config, added_later: Mapping[str, Any] = ADDED_LATER) -> dict[str, Any]:
    """The fields of a resolved config that may change bits, nested, with ASCII names.

    The canonical JSON of this is the preimage of the fingerprint's part `config`.  `strategy` and
    `activation_checkpointing` are operational, because only eager mode is offered.
    """
    assert config.batch.V is not None, "only a resolved config has a fingerprint"
    assert config.hardware.device != "auto", "only a resolved config has a fingerprint"
    fields = dict(_flatten(_fields_of_kind(config, "numeric")))
    old = {
        key
        for key, value in added_later.items()
        if key in fields and canonical_json(fields[key]) == canonical_json(value)
    }
    return _nest({key: value for key, value in fields.items() if key not in old})


def operational_fields(config: Config) -> dict[str, Any]:
    """The fields of a config that may not change bits, nested, with ASCII names."""
    return _fields_of_kind(config, "operational")


def _fields_of_kind(config: Config, kind: Kind) -> dict[str, Any]:
    """The leaves of one kind, nested as the schema has them."""
    values = dict(_flatten(config.model_dump(mode="json")))
    return _nest({key: values[key] for key, leaf in leaves().items() if leaf.kind == kind})


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted key."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        below = nested
        for section in sections:
            below = below.setdefault(section, {})
        below[name] = value
    return nested
