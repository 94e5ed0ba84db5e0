"""From what the user wrote to the schema's own keys: spellings, unknown keys, sections that are none."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from llmrun.config.fields import Section
from llmrun.config.findings import Findings, SourcePlace
from llmrun.config.keys import leaves, section_of, shown_sections, spellings
from llmrun.config.schema import Config
from llmrun.config.words import nearest
from llmrun.config.yaml_source import Mapping, Node, Scalar, YamlEntry, plain_value, show_node


@dataclass(frozen=True)
class Given:
    """One value as the user gave it.

    spelled: the dotted key in the user's spelling.
    """

    spelled: str
    place: SourcePlace
    node: Node


@dataclass
class Raw:
    """Everything given, by dotted ASCII key; nothing validated yet.

    unsound: keys and sections whose value is not known, because what was written for them is wrong.
    """

    given: dict[str, Given] = field(default_factory=dict)
    unsound: set[str] = field(default_factory=set)

    def values(self, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The given values nested as the schema has them, without the keys `without`."""
        nested: dict[str, Any] = {}
        for key, given in self.given.items():
            if key not in without:
                *sections, name = key.split(".")
                below = nested
                for section in sections:
                    below = below.setdefault(section, {})
                below[name] = _value(key, given.node)
        return nested

    def is_sound(self, key: str, bad: frozenset[str]) -> bool:
        """Whether the value of a key is known: neither it nor its section is wrong."""
        wrong = self.unsound | bad
        return key not in wrong and key.partition(".")[0] not in wrong


def _value(key: str, node: Node) -> Any:
    """The value for validation; a quantity keeps the digits that a float would round."""
    if isinstance(node, Scalar) and isinstance(node.value, float) and leaves()[key].is_quantity:
        return node.text
    return plain_value(node)


def read_tree(tree: Mapping, findings: Findings) -> Raw:
    """The values of a whole tree; what has no place in the schema goes to `findings`."""
    raw = Raw()
    _read_section(tree, Config, "", "", raw, findings)
    return raw


def merge(raw: Raw, override: Raw) -> None:
    """Put an override's values in the place of the file's."""
    raw.given |= override.given
    raw.unsound = (raw.unsound - override.given.keys()) | override.unsound


def _read_section(
    tree: Mapping, kind: type[Section], prefix: str, spelled_prefix: str, raw: Raw, findings: Findings
) -> None:
    """Read the entries of one section and of the sections below it."""
    by_spelling = {
        spelling: (name, info)
        for name, info in kind.model_fields.items()
        for spelling in spellings(name, info)
    }
    for entry in tree.entries:
        spelled = spelled_prefix + entry.key
        found = by_spelling.get(entry.key)
        if found is None:
            _unknown(entry, spelled, prefix, raw, findings)
            continue
        name, info = found
        nested = section_of(info)
        if nested is None:
            _read_leaf(entry, prefix + name, spelled, raw, findings)
        elif isinstance(entry.value, Mapping):
            _read_section(entry.value, nested, f"{prefix}{name}.", f"{spelled}.", raw, findings)
        else:
            _not_a_section(entry, name, spelled, raw, findings)


def _read_leaf(entry: YamlEntry, key: str, spelled: str, raw: Raw, findings: Findings) -> None:
    """Read one value, refusing a second spelling of the same key."""
    if key in raw.given:
        first = raw.given[key]
        findings.add(
            entry.place,
            f"{spelled} and {first.spelled} are two spellings of one key, first given at {first.place.where}",
            spelled,
            "keep one of them",
        )
        raw.unsound.add(key)
    else:
        raw.given[key] = Given(spelled, entry.place, entry.value)


def _not_a_section(entry: YamlEntry, name: str, spelled: str, raw: Raw, findings: Findings) -> None:
    """A section that holds a plain value, or nothing."""
    example = next(key for key in _shown() if key.startswith(f"{name}."))
    findings.add(
        entry.place,
        f"{spelled} must be a mapping of keys to values, not {show_node(entry.value)}",
        spelled,
        f"leave {spelled} out for its defaults, or give keys such as `{example}`",
    )
    raw.unsound.add(name)


def _unknown(entry: YamlEntry, spelled: str, prefix: str, raw: Raw, findings: Findings) -> None:
    """An unknown key, with the key that was probably meant."""
    meant = nearest_key(entry.key, prefix)
    hint = None
    if meant is None:
        section = prefix.removesuffix(".")
        hint = f"{section or 'the config'} has {', '.join(_names_in(prefix))}"
    else:
        hint = f"the nearest known key is `{meant}`"
        raw.unsound.add(_shown().get(meant, meant))
    findings.add(entry.place, f"unknown key {spelled}", spelled, hint)


@cache
def _shown() -> dict[str, str]:
    """Every key by its shown form."""
    return {leaf.shown: leaf.key for leaf in leaves().values()}


def _names_in(prefix: str) -> list[str]:
    """The last parts of all keys in a section, the sections themselves at the top."""
    names = [
        leaf.names[0] for leaf in leaves().values() if leaf.key.rpartition(".")[0] == prefix.removesuffix(".")
    ]
    return names if prefix else [*names, *shown_sections()]


def nearest_key(word: str, prefix: str) -> str | None:
    """The shown key or section that `word`, written in the section `prefix`, probably means."""
    here = {
        name: leaf.shown
        for leaf in leaves().values()
        if leaf.key.rpartition(".")[0] == prefix.removesuffix(".")
        for name in leaf.names
    }
    if not prefix:
        here |= {section: section for section in shown_sections()}
    elsewhere: dict[str, str] = {}
    for leaf in leaves().values():
        for name in leaf.names:
            elsewhere.setdefault(name, leaf.shown)
    return _exact(word, here) or _exact(word, elsewhere) or _near(word, here) or _near(word, elsewhere)


def _exact(word: str, names: dict[str, str]) -> str | None:
    """The name that differs from `word` in the case of letters at most."""
    return next((names[name] for name in names if name.casefold() == word.casefold()), None)


def _near(word: str, names: dict[str, str]) -> str | None:
    """The name that is spelled most like `word`."""
    found = nearest(word, names)
    return names[found] if found else None
