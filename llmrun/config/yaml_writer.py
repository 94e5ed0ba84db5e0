"""Write a config as YAML in the user's symbols."""

import json
import re
from typing import Any

from llmrun.config.field_values import applies
from llmrun.config.fields import Section
from llmrun.config.keys import leaves, section_of, spellings
from llmrun.config.quantities import show_quantity
from llmrun.config.schema import Config

_PLAIN_TEXT = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_RESERVED = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "."})


def dump_yaml(config: Config) -> str:
    """`config` as YAML; loading the text gives an equal config."""
    return _dump_section(config, config, "", "")


def _dump_section(config: Config, section: Section, prefix: str, indent: str) -> str:
    lines, blocks = [], []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if section_of(info) is None:
            if not applies(config, prefix + name):
                continue
            written = f"{indent}{spellings(name, info)[0]}: {yaml_value(value)}"
            lines.append(written + _short_form(prefix + name, value) + "\n")
        else:
            space = "" if prefix else "\n"
            below = _dump_section(config, value, f"{prefix}{name}.", f"{indent}  ")
            blocks.append(f"{space}{indent}{name}:\n{below}")
    return "".join([*lines, *blocks])


def _short_form(key: str, value: Any) -> str:
    """A comment with a token count in its short form: `  # 512Ki`; empty if that says nothing new."""
    leaf = leaves()[key]
    if not leaf.is_token_count or value is None:
        return ""
    shown = show_quantity(value)
    return "" if shown == str(value) else f"  # {shown}"


def yaml_value(value: Any) -> str:
    """One value in the common subset of YAML 1.1 and 1.2, so that every reader reads the same value."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{yaml_value(name)}: {yaml_value(item)}' for name, item in value.items())}}}"
    if isinstance(value, Section):
        # An item of a list; what it leaves at its default is left out.
        given = value.model_dump(exclude_defaults=True)
        return f"{{{', '.join(f'{name}: {yaml_value(item)}' for name, item in given.items())}}}"
    if isinstance(value, float):
        # YAML 1.1 requires a decimal point before an exponent: it reads 1e-05 as text.
        mantissa, e, exponent = repr(value).partition("e")
        point = "" if "." in mantissa or not e else ".0"
        signed = exponent if exponent.startswith("-") or not e else f"+{exponent.lstrip('+')}"
        return f"{mantissa}{point}{e}{signed}"
    if isinstance(value, str):
        plain = _PLAIN_TEXT.fullmatch(value) and value.lower() not in _RESERVED
        return value if plain else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """`text` in double quotes, with unprintable characters escaped."""
    escaped = (
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}"
        for c in text
    )  # fmt: skip
    return f'"{"".join(escaped)}"'
