"""From a YAML file and `--set` to a Config, or to all of its problems at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrun.config import yaml_source
from llmrun.config.findings import Findings, SourcePlace
from llmrun.config.keys import Leaf, leaves
from llmrun.config.overrides import apply_override
from llmrun.config.quantities import QuantityError
from llmrun.config.raw import Given, Raw, read_tree
from llmrun.config.rules import RULES, check_rules
from llmrun.config.schema import Config
from llmrun.config.words import allowed, hint_for_value, shorten
from llmrun.errors import Place


@dataclass(frozen=True)
class LoadedConfig:
    """A config that is sound by itself, with where each of its values was given.

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


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config in a YAML file, with `overrides` (`a.b=c`) put over it.

    Raises InputError where the file cannot be read, ConfigError with all problems where it is no sound config.
    """
    findings = Findings(str(path))
    raw = _read_file(path, findings)
    for index, override in enumerate(overrides):
        apply_override(raw, override, index, findings)
    config, bad = _validate(raw, findings)
    config = _with_preset(config, raw, findings)
    reads_sound = [rule for rule in RULES if all(raw.is_sound(key, bad) for key in rule.reads)]
    check_rules(config, reads_sound, raw.given, findings)
    findings.raise_if_any()
    return LoadedConfig(
        config,
        str(path),
        {key: given.place.where for key, given in raw.given.items()},
        {key: given.spelled for key, given in raw.given.items()},
    )


def _read_file(path: Path, findings: Findings) -> Raw:
    """The values of a config file by key.  Raises ConfigError where it holds no mapping at all."""
    text = yaml_source.read_text(path)

    def place_of(line: int) -> SourcePlace:
        return SourcePlace(line, Place(str(path), line))

    try:
        tree = yaml_source.parse_yaml(text, place_of, findings)
    except yaml_source.UnreadableError as error:
        findings.add(error.place, error.message, None, error.hint)
        raise findings.error() from error
    if not isinstance(tree, yaml_source.Mapping):
        is_empty = tree is None or (isinstance(tree, yaml_source.Scalar) and tree.value is None)
        what = "is empty" if is_empty else f"holds {_kind_of(tree)}, not a mapping of keys to values"
        findings.add(
            SourcePlace(0, Place(str(path))),
            f"the config {what}",
            None,
            "write keys such as `T_tokens: 4Mi`, one a line",
        )
        raise findings.error()
    return read_tree(tree, findings)


def _kind_of(tree: yaml_source.Node | None) -> str:
    """What a document is that is no mapping."""
    return "a list" if isinstance(tree, yaml_source.Listing) else "a single value"


def _validate(raw: Raw, findings: Findings) -> tuple[Config, frozenset[str]]:
    """The config with every wrong value left at its default, and the keys of these.

    So that the rules across fields can be checked on all fields that are sound.
    """
    try:
        return Config.model_validate(raw.values()), frozenset()
    except ValidationError as error:
        wrong = {
            _key_at(detail["loc"]): detail.get("ctx", {}).get("error")
            for detail in error.errors(include_url=False)
        }
    for key, cause in wrong.items():
        _explain(leaves()[key], raw.given[key], cause, findings)
    bad = frozenset(wrong)
    return Config.model_validate(raw.values(without=bad)), bad


def _with_preset(config: Config, raw: Raw, findings: Findings) -> Config:
    """The config with the shape of its preset in every key that was not given beside it.

    A preset named by `--set` stands over the keys of the file, as every `--set` does.
    """
    name = config.model.preset
    if name is None:
        return config
    # Parsing the table takes longer than everything else here: only who names a preset pays for it.
    from llmrun.config.presets import changes_of, nearest_presets, preset_table

    preset = preset_table().get(name)
    if preset is None:
        given = raw.given["model.preset"]
        findings.add(given.place, f"there is no preset {shorten(name)}", given.spelled, nearest_presets(name))
        return config.model_copy(update={"model": config.model.model_copy(update={"preset": None})})
    changes = changes_of(preset, _beside(raw, "model.preset"))
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=of) for section, of in changes.items()}
    )


def _beside(raw: Raw, key: str) -> list[str]:
    """The keys that were given where `key` was: all of them, or those of `--set` where it came from there."""
    options = [found for found, given in raw.given.items() if given.place.where.option is not None]
    return options if key in options else list(raw.given)


def _key_at(location: tuple[int | str, ...]) -> str:
    """The leaf that an error of validation is about: `("batch", "GB_tok")` -> `batch.gb_tok`."""
    parts = [str(part) for part in location]
    for leaf in leaves().values():
        *sections, _ = leaf.key.split(".")
        n = len(sections)
        if parts[:n] == sections and parts[n] in leaf.names:
            return leaf.key
    raise AssertionError(f"an error at {location}, which is no leaf")


def _explain(leaf: Leaf, given: Given, cause: Any, findings: Findings) -> None:
    """Say in our own words what is wrong with one value."""
    text = shorten(yaml_source.show_node(given.node))
    hint = None
    if isinstance(given.node, yaml_source.Scalar):
        hint = hint_for_value(leaf, given.node.value, text)
        text = f'"{text}"' if " " in text and not text.startswith('"') else text
    if isinstance(cause, QuantityError):
        message = f"{given.spelled} {cause}"
    else:
        message = f"{given.spelled} must be {allowed(leaf)}, not {text}"
    findings.add(given.place, message, given.spelled, hint)
