"""Problems of the mappings in a list, such as `optimizer.groups`, each at its own key and line."""

from typing import Any

from llmrun.config.field_messages import allowed, hint_for_value, nearest, shorten
from llmrun.config.keys import Leaf, item_leaves, leaves
from llmrun.config.problems import Problems
from llmrun.config.unvalidated import GivenValue
from llmrun.config.yaml_reader import Listing, Mapping, Scalar, YamlEntry, show_node


def add_invalid_item(
    key: str, given: GivenValue, path: tuple[Any, ...], kind: str, problems: Problems
) -> None:
    """Record one problem of an item of the list `key`.

    path: from the list on: the item's index, then the name of one of its fields if the problem is there.
    kind: pydantic's type of the error.
    """
    fields = item_leaves(key)
    index, *names = path
    spelled = f"{given.spelled}[{index}]"
    assert isinstance(given.node, Listing)
    item = given.node.items[index]
    if not isinstance(item, Mapping):
        message = f"{spelled} must be a mapping of keys to values, got {shorten(show_node(item))}"
        problems.add(given.location, message, spelled, f"write {leaves()[key].allowed}")
        return
    name = str(names[0])
    entry = next((entry for entry in item.entries if entry.key == name), None)
    if entry is None:
        place = item.entries[0].location if item.entries else given.location
        message = f"{spelled} must have the key {name}: {allowed(fields[name])}"
        problems.add(place, message, f"{spelled}.{name}", f"write {leaves()[key].allowed}")
    elif kind == "extra_forbidden":
        meant = nearest(name, fields)
        hint = f"did you mean `{meant}`?" if meant else f"a group has {', '.join(fields)}"
        problems.add(entry.location, f"unknown key {spelled}.{name}", f"{spelled}.{name}", hint)
    else:
        _add_invalid_field(entry, f"{spelled}.{name}", fields[name], problems)


def _add_invalid_field(entry: YamlEntry, spelled: str, leaf: Leaf, problems: Problems) -> None:
    text = shorten(show_node(entry.value))
    hint = hint_for_value(leaf, entry.value.value, text) if isinstance(entry.value, Scalar) else None
    problems.add(entry.location, f"{spelled} must be {allowed(leaf)}, got {text}", spelled, hint)
