"""Load a config from a YAML file and `--set` options; all of its problems are reported at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from llmrun.config import yaml_reader
from llmrun.config.field_messages import allowed, hint_for_value, shorten
from llmrun.config.field_values import applies
from llmrun.config.fields import ArgumentsError
from llmrun.config.keys import Leaf, leaves
from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.quantities import QuantityError
from llmrun.config.rules import RULES, check_rules
from llmrun.config.schema import Config
from llmrun.config.unvalidated import GivenValue, UnvalidatedConfig, read_tree
from llmrun.errors import Place

FIRST_OVERRIDE = 10**9
"""`SourceLocation.order` of the first `--set`: after every line of the file."""


@dataclass(frozen=True)
class LoadedConfig:
    """A config that is valid by itself, and where each of its values was given.

    source:    the file's name, as the user gave it.
    locations: dotted ASCII key -> the file and line, or the option, that gave it.
    spelled:   dotted ASCII key -> the dotted key in the user's spelling.
    """

    config: Config
    source: str
    locations: Mapping[str, Place] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, key: str) -> Place:
        """The place that gave `key`, or the whole file, with the key."""
        return replace(self.locations.get(key, Place(self.source)), key=key)


def load_config(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    replaced: Mapping[str, Any] = MappingProxyType({}),
    replaced_from: str = "",
) -> LoadedConfig:
    """The config in a YAML file with `overrides` (`a.b=c`) applied, the last one winning.

    replaced:      values by dotted key that replace the file's, before the overrides are applied.
    replaced_from: where these come from, for `locations` and problems.
    Raises InputError if the file cannot be read, ConfigError with all problems if it is not a valid config.
    """
    problems = Problems(str(path))
    unvalidated = _read_file(path, problems)
    for key, value in replaced.items():
        _replace(unvalidated, key, value, replaced_from, problems)
    for index, override in enumerate(overrides):
        _apply_override(unvalidated, override, FIRST_OVERRIDE + index, problems)
    config, invalid = _validate(unvalidated, problems)
    config = _with_preset(config, unvalidated, problems)
    config = _with_import_root(config, path)
    _refuse_fields_of_builtin(config, unvalidated, problems)
    rules = [rule for rule in RULES if all(unvalidated.is_known(key, invalid) for key in rule.reads)]
    check_rules(config, rules, unvalidated.given, problems)
    problems.raise_if_any()
    return LoadedConfig(
        config,
        str(path),
        {key: given.location.where for key, given in unvalidated.given.items()},
        {key: given.spelled for key, given in unvalidated.given.items()},
    )


def _read_file(path: Path, problems: Problems) -> UnvalidatedConfig:
    """The values in a config file.  Raises ConfigError if it does not hold a mapping."""
    text = yaml_reader.read_text(path)

    def location_of(line: int) -> SourceLocation:
        return SourceLocation(line, Place(str(path), line))

    try:
        tree = yaml_reader.parse_yaml(text, location_of, problems)
    except yaml_reader.UnreadableError as error:
        problems.add(error.location, error.message, None, error.hint)
        raise problems.error() from error
    if not isinstance(tree, yaml_reader.Mapping):
        is_empty = tree is None or (isinstance(tree, yaml_reader.Scalar) and tree.value is None)
        found = "nothing" if is_empty else _kind_of(tree)
        problems.add(
            SourceLocation(0, Place(str(path))),
            f"the config must be a mapping of keys to values, got {found}",
            None,
            "write keys such as `T_tokens: 4Mi`, one a line",
        )
        raise problems.error()
    return read_tree(tree, problems)


def _kind_of(tree: yaml_reader.Node | None) -> str:
    return "a list" if isinstance(tree, yaml_reader.Listing) else "a single value"


def _apply_override(unvalidated: UnvalidatedConfig, text: str, order: int, problems: Problems) -> None:
    """Apply one `--set a.b=c`.  Its value is read by the rules of the file."""
    key, equals, written = text.partition("=")
    key = key.strip()
    location = SourceLocation(order, Place(option=f"--set {key}"))
    if not equals or not all(key.split(".")):
        message = f"--set must be of the form KEY=VALUE, got {text}"
        problems.add(location, message, None, "write it as `--set optimizer.lr=1e-3`")
        return
    try:
        value = yaml_reader.parse_yaml(written, lambda _: location, problems)
    except yaml_reader.UnreadableError as error:
        problems.add(
            error.location, f"cannot read the value of --set {key}: {error.message}", key, error.hint
        )
        return
    if value is None:
        hint = "give a value after `=`, or leave the option out"
        problems.add(location, f"--set {key} has no value", key, hint)
    elif isinstance(value, yaml_reader.Mapping):
        example = f"--set {key}.{value.entries[0].key}=…" if value.entries else None
        hint_or_none = f"set one key at a time, such as `{example}`" if example else None
        problems.add(location, f"--set {key} must give one value, got a mapping", key, hint_or_none)
    else:
        unvalidated.override(read_tree(_nest(key, value, location), problems), merge=True)


def _replace(unvalidated: UnvalidatedConfig, key: str, value: Any, source: str, problems: Problems) -> None:
    """Put a value of a dumped config at a dotted key.  source: where it comes from, for problems."""
    location = SourceLocation(FIRST_OVERRIDE - 1, Place(source))
    unvalidated.override(read_tree(_nest(key, _node_of(value), location), problems))


def _node_of(value: Any) -> yaml_reader.Node:
    """A value as the node that its YAML is read as."""
    if isinstance(value, list):
        return yaml_reader.Listing(tuple(_node_of(item) for item in value))
    if isinstance(value, dict):
        nowhere = SourceLocation(0, Place())
        entries = (yaml_reader.YamlEntry(name, nowhere, _node_of(item)) for name, item in value.items())
        return yaml_reader.Mapping(tuple(entries))
    return yaml_reader.Scalar(value, json.dumps(value, ensure_ascii=False))


def _nest(key: str, value: yaml_reader.Node, location: SourceLocation) -> yaml_reader.Mapping:
    """`a.b` = value as the mapping {a: {b: value}}."""
    *sections, name = key.split(".")
    tree = yaml_reader.Mapping((yaml_reader.YamlEntry(name, location, value),))
    for section in reversed(sections):
        tree = yaml_reader.Mapping((yaml_reader.YamlEntry(section, location, tree),))
    return tree


def _validate(unvalidated: UnvalidatedConfig, problems: Problems) -> tuple[Config, frozenset[str]]:
    """The config with every invalid value left at its default, and the keys of the invalid values.

    The rules across fields can then be checked on all fields that are valid.
    """
    try:
        return Config.model_validate(unvalidated.values()), frozenset()
    except ValidationError as error:
        invalid = {
            _key_at(detail["loc"]): detail.get("ctx", {}).get("error")
            for detail in error.errors(include_url=False, include_input=False)
        }
    for key, cause in invalid.items():
        _add_invalid_value(leaves()[key], unvalidated.given[key], cause, problems)
    keys = frozenset(invalid)
    return Config.model_validate(unvalidated.values(without=keys)), keys


def _with_preset(config: Config, unvalidated: UnvalidatedConfig, problems: Problems) -> Config:
    """The config with the shape of its preset in every key that was not given with it.

    A preset named by `--set` replaces the keys of the file, as every `--set` does.
    """
    name = config.model.preset
    if name is None:
        return config
    # Parsing the table takes longer than everything else here, so only configs with a preset do it.
    from llmrun.config.presets import changes_of, nearest_presets, preset_table

    preset = preset_table().get(name)
    if preset is None:
        given = unvalidated.given["model.preset"]
        problems.add(given.location, f"unknown preset {shorten(name)}", given.spelled, nearest_presets(name))
        return config.model_copy(update={"model": config.model.model_copy(update={"preset": None})})
    changes = changes_of(preset, _given_with(unvalidated, "model.preset"))
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=of) for section, of in changes.items()}
    )


def _with_import_root(config: Config, path: Path) -> Config:
    """The config with an absolute `model.import_root`: by default the directory of the config file."""
    model = config.model
    if model.factory is None:
        return config
    root = (path.resolve().parent / (model.import_root or ".")).resolve()
    return config.model_copy(update={"model": model.model_copy(update={"import_root": str(root)})})


def _refuse_fields_of_builtin(config: Config, unvalidated: UnvalidatedConfig, problems: Problems) -> None:
    """Fields of the built-in model have no meaning with `model.factory`, nor those of a factory without one."""
    for key, given in unvalidated.given.items():
        if not applies(config, key):
            message = f"{given.spelled} is of the built-in model, and model.factory is given"
            hint = f"leave it out, or give it to the factory as `model.args.{key.removeprefix('model.')}`"
            problems.add(given.location, message, given.spelled, hint)
        elif key in OF_FACTORY and "model.factory" not in unvalidated.given and given.node != NULL:
            message = f"{given.spelled} requires model.factory"
            hint = "give `model.factory: package.module:function` (docs/own-model.md)"
            problems.add(given.location, message, given.spelled, hint)


NULL = yaml_reader.Scalar(None, "null")
OF_FACTORY = ("model.args", "model.import_root")
"""Fields that only a factory has."""


def _given_with(unvalidated: UnvalidatedConfig, key: str) -> list[str]:
    """All given keys, or only those given by `--set` if `key` was."""
    options = [found for found, given in unvalidated.given.items() if given.location.order >= FIRST_OVERRIDE]
    return options if key in options else list(unvalidated.given)


def _key_at(location: tuple[int | str, ...]) -> str:
    """The leaf that a pydantic error is about: `("batch", "GB_tok")` -> `batch.gb_tok`."""
    parts = [str(part) for part in location]
    for leaf in leaves().values():
        *sections, _ = leaf.key.split(".")
        n = len(sections)
        if parts[:n] == sections and parts[n] in leaf.names:
            return leaf.key
    raise AssertionError(f"pydantic error at {location}, which is not a leaf")


def _add_invalid_value(leaf: Leaf, given: GivenValue, cause: Any, problems: Problems) -> None:
    """Record an invalid value.  cause: the exception that a validator of ours raised, if it was one."""
    text = shorten(yaml_reader.show_node(given.node))
    hint = None
    if isinstance(given.node, yaml_reader.Scalar):
        hint = hint_for_value(leaf, given.node.value, text)
        text = f'"{text}"' if " " in text and not text.startswith('"') else text
    if isinstance(cause, QuantityError | ArgumentsError):
        message = f"{given.spelled} {cause}"
    else:
        message = f"{given.spelled} must be {allowed(leaf)}, got {text}"
    problems.add(given.location, message, given.spelled, hint)
