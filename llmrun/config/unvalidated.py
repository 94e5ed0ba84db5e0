"""The values that the user gave, by the schema's keys, before validation: spellings, unknown keys, wrong sections."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from llmrun.config.field_messages import nearest
from llmrun.config.fields import Section
from llmrun.config.keys import leaves, section_of, sections_in, spellings
from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.schema import Config
from llmrun.config.yaml_reader import Mapping, Node, Scalar, YamlEntry, plain_value, show_node


@dataclass(frozen=True)
class GivenValue:
    """One value as the user gave it; `spelled` is its dotted key in the user's spelling."""

    spelled: str
    location: SourceLocation
    node: Node


@dataclass
class UnvalidatedConfig:
    """All given values by dotted ASCII key.

    unknown: keys and sections whose intended value is unknown, because what was written for them is wrong.
    """

    given: dict[str, GivenValue] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def values(self, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The given values nested as in the schema, except the keys in `without`."""
        nested: dict[str, Any] = {}
        for key, given in self.given.items():
            if key not in without:
                *sections, name = key.split(".")
                below = nested
                for section in sections:
                    below = below.setdefault(section, {})
                below[name] = _value(key, given.node)
        return nested

    def is_known(self, key: str, invalid: frozenset[str]) -> bool:
        """Whether the intended value of a key is known: neither it nor its section is wrong."""
        wrong = self.unknown | invalid
        parts = key.split(".")
        return all(".".join(parts[:n]) not in wrong for n in range(1, len(parts) + 1))

    def override(self, other: "UnvalidatedConfig", *, merge: bool = False) -> None:
        """Replace values by those of `other`.  merge: the entries of a mapping are replaced one by one."""
        for key, given in other.given.items():
            before = self.given.get(key)
            if merge and before is not None:
                given = replace(given, node=merged(before.node, given.node))  # noqa: PLW2901
            self.given[key] = given
        self.unknown = (self.unknown - other.given.keys()) | other.unknown


def merged(old: Node, new: Node) -> Node:
    """`new`, or if both are mappings the entries of `old` with those of `new`."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    entries = {entry.key: entry for entry in old.entries}
    for entry in new.entries:
        before = entries.get(entry.key)
        value = entry.value if before is None else merged(before.value, entry.value)
        entries[entry.key] = replace(entry, value=value)
    return Mapping(tuple(entries.values()))


def _value(key: str, node: Node) -> Any:
    """The value to validate; a quantity stays text so that no digit is lost in a float."""
    if isinstance(node, Scalar) and isinstance(node.value, float) and leaves()[key].is_quantity:
        return node.text
    return plain_value(node)


def read_tree(tree: Mapping, problems: Problems) -> UnvalidatedConfig:
    """The values of a YAML tree; keys that the schema does not have go to `problems`."""
    found = UnvalidatedConfig()
    _read_section(tree, Config, "", "", found, problems)
    return found


def _read_section(
    tree: Mapping,
    kind: type[Section],
    prefix: str,
    spelled_prefix: str,
    found: UnvalidatedConfig,
    problems: Problems,
) -> None:
    """Read one section and the sections in it."""
    by_spelling = {
        spelling: (name, info)
        for name, info in kind.model_fields.items()
        for spelling in spellings(name, info)
    }
    for entry in tree.entries:
        spelled = spelled_prefix + entry.key
        if entry.key not in by_spelling:
            _add_unknown_key(entry, spelled, prefix, found, problems)
            continue
        name, info = by_spelling[entry.key]
        nested = section_of(info)
        if nested is None:
            _read_leaf(entry, prefix + name, spelled, found, problems)
        elif isinstance(entry.value, Mapping):
            _read_section(entry.value, nested, f"{prefix}{name}.", f"{spelled}.", found, problems)
        else:
            _add_not_a_section(entry, prefix + name, spelled, found, problems)


def _read_leaf(
    entry: YamlEntry, key: str, spelled: str, found: UnvalidatedConfig, problems: Problems
) -> None:
    """Read one value; a second spelling of the same key is a problem."""
    if key in found.given:
        first = found.given[key]
        problems.add(
            entry.location,
            f"{spelled} and {first.spelled} are the same key, first given at {first.location.where}",
            spelled,
            "keep one of them",
        )
        found.unknown.add(key)
    else:
        found.given[key] = GivenValue(spelled, entry.location, entry.value)


def _add_not_a_section(
    entry: YamlEntry, name: str, spelled: str, found: UnvalidatedConfig, problems: Problems
) -> None:
    example = next(key for key in _keys_by_shown() if key.startswith(f"{name}."))
    problems.add(
        entry.location,
        f"{spelled} must be a mapping of keys to values, got {show_node(entry.value)}",
        spelled,
        f"leave {spelled} out for its defaults, or give keys such as `{example}`",
    )
    found.unknown.add(name)


def _add_unknown_key(
    entry: YamlEntry, spelled: str, prefix: str, found: UnvalidatedConfig, problems: Problems
) -> None:
    meant = nearest_key(entry.key, prefix)
    if meant is None:
        section = prefix.removesuffix(".")
        hint = f"{section or 'the config'} has {', '.join(_names_in(prefix))}"
    else:
        hint = f"did you mean `{meant}`?"
        found.unknown.add(_keys_by_shown().get(meant, meant))
    problems.add(entry.location, f"unknown key {spelled}", spelled, hint)


@cache
def _keys_by_shown() -> dict[str, str]:
    return {leaf.shown: leaf.key for leaf in leaves().values()}


def _names_in(prefix: str) -> list[str]:
    """The last parts of all keys in a section; and the sections in it."""
    names = [
        leaf.names[0] for leaf in leaves().values() if leaf.key.rpartition(".")[0] == prefix.removesuffix(".")
    ]
    return [*names, *sections_in(prefix)]


def nearest_key(word: str, prefix: str) -> str | None:
    """The shown key or section that `word`, written in the section `prefix`, probably means."""
    here = {
        name: leaf.shown
        for leaf in leaves().values()
        if leaf.key.rpartition(".")[0] == prefix.removesuffix(".")
        for name in leaf.names
    }
    here |= {section: prefix + section for section in sections_in(prefix)}
    elsewhere: dict[str, str] = {}
    for leaf in leaves().values():
        for name in leaf.names:
            elsewhere.setdefault(name, leaf.shown)
    return _exact(word, here) or _exact(word, elsewhere) or _near(word, here) or _near(word, elsewhere)


def _exact(word: str, names: dict[str, str]) -> str | None:
    """The name that equals `word` except for the case of letters."""
    return next((names[name] for name in names if name.casefold() == word.casefold()), None)


def _near(word: str, names: dict[str, str]) -> str | None:
    found = nearest(word, names)
    return names[found] if found else None
