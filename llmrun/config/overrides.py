"""`--set a.b=c`: one value on the command line, read by the rules of the file."""

from llmrun.config.findings import Findings, SourcePlace
from llmrun.config.raw import Raw, merge, read_tree
from llmrun.config.yaml_source import Mapping, Node, UnreadableError, YamlEntry, parse_yaml
from llmrun.errors import Place

FIRST_ORDER = 10**9
"""Overrides come after every line of the file."""


def apply_override(raw: Raw, text: str, index: int, findings: Findings) -> None:
    """Put the value of the `index`-th override `a.b=c` into `raw`; what is wrong with it goes to `findings`."""
    key, equals, written = text.partition("=")
    key = key.strip()
    place = SourcePlace(FIRST_ORDER + index, Place(option=f"--set {key}"))
    example = "write it as `--set optimizer.lr=1e-3`"
    if not equals or not all(key.split(".")):
        findings.add(place, f"--set {text} is not of the form key=value", None, example)
    else:
        _apply_value(raw, key, written, place, findings)


def _apply_value(raw: Raw, key: str, written: str, place: SourcePlace, findings: Findings) -> None:
    """Put one value that was written for `key` into `raw`."""
    try:
        value = parse_yaml(written, lambda _: place, findings)
    except UnreadableError as error:
        findings.add(error.place, f"the value of --set {key} is {error.message}", key, error.hint)
        return
    if value is None:
        findings.add(
            place, f"--set {key} gives no value", key, "give a value after `=`, or leave the option out"
        )
    elif isinstance(value, Mapping):
        hint = (
            f"set one key at a time, such as `--set {key}.{value.entries[0].key}=…`"
            if value.entries
            else None
        )
        findings.add(place, f"--set {key} must give one value, not a mapping", key, hint)
    else:
        merge(raw, read_tree(_nest(key, value, place), findings))


def _nest(key: str, value: Node, place: SourcePlace) -> Mapping:
    """`a.b` = value as the mapping {a: {b: value}}."""
    *sections, name = key.split(".")
    tree = Mapping((YamlEntry(name, place, value),))
    for section in reversed(sections):
        tree = Mapping((YamlEntry(section, place, tree),))
    return tree
