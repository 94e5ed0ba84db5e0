"""The leaves of the config by key, read from the schema: spellings, kind, unit, type and bounds of each field.

A key is dotted and in ASCII (`batch.gb_tok`); users see and write their symbols (`batch.GB_tok`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from llmrun.config.fields import Kind, Section, allowed_of, kind_of, unit_of
from llmrun.config.quantities import parse_quantity
from llmrun.config.schema import Config


@dataclass(frozen=True)
class Leaf:
    """One field of the config.

    shown:    the key in the user's symbols.
    names:    the spellings of its last part, the shown one first.
    item:     the type of each item of a list of mappings, else None.
    choices:  the values of an enumeration, else empty.
    bounds:   `ge`, `gt`, `le`, `lt`.
    optional: whether null is allowed.
    allowed:  the allowed values in words, if type and bounds do not describe them.
    """

    key: str
    shown: str
    names: tuple[str, ...]
    kind: Kind | None
    unit: str
    meaning: str
    default: Any
    item: type[Section] | None
    type: type
    choices: tuple[Any, ...]
    bounds: Mapping[str, Any]
    optional: bool
    is_quantity: bool
    allowed: str | None

    @property
    def is_token_count(self) -> bool:
        """Whether the field counts tokens, so that suffixes (`512Ki`) are usual."""
        return self.is_quantity and self.unit.startswith("tokens")


def spellings(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Every way to write the last part of a key, the shown one first."""
    choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
    shown = field.serialization_alias or name
    return tuple(dict.fromkeys([shown, *(choice for choice in choices if isinstance(choice, str)), name]))


def section_of(field: FieldInfo) -> type[Section] | None:
    """The type of a nested section, or None if the field is a leaf."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


@cache
def leaves() -> dict[str, Leaf]:
    """Every leaf by key, in the order of the schema."""
    return {leaf.key: leaf for leaf in _leaves_below(Config, "", "")}


@cache
def section_names() -> tuple[str, ...]:
    """The dotted names of all sections, in the order of the schema."""
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in leaves() if "." in key))


def sections_in(prefix: str) -> tuple[str, ...]:
    """The names of the sections directly below `prefix`, which is empty or ends with a dot."""
    below = (name.removeprefix(prefix) for name in section_names() if name.startswith(prefix))
    return tuple(name for name in below if "." not in name)


def item_leaves(key: str) -> dict[str, Leaf]:
    """The fields of each item by name, if the leaf `key` is a list of mappings; else empty."""
    kind = leaves()[key].item
    return {} if kind is None else {leaf.key: leaf for leaf in _leaves_below(kind, "", "")}


def shown_key(key: str) -> str:
    """A key in the user's symbols: `batch.gb_tok` -> `batch.GB_tok`; an unknown key is returned unchanged."""
    leaf = leaves().get(key)
    return leaf.shown if leaf else key


def _leaves_below(kind: type[Section], prefix: str, shown_prefix: str) -> Iterator[Leaf]:
    for name, field in kind.model_fields.items():
        names = spellings(name, field)
        nested = section_of(field)
        if nested:
            yield from _leaves_below(nested, f"{prefix}{name}.", f"{shown_prefix}{names[0]}.")
        else:
            yield _leaf(prefix + name, shown_prefix + names[0], names, field)


def _leaf(key: str, shown: str, names: tuple[str, ...], field: FieldInfo) -> Leaf:
    kind, metadata, optional = _unwrap(field.annotation, list(field.metadata))
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    unit = unit_of(field) or ""
    return Leaf(
        key=key,
        shown=shown,
        names=names,
        kind=kind_of(field),
        unit=unit,
        meaning=(field.description or "").removesuffix(f" [{unit}]"),
        default=field.default,
        item=_item_of(kind),
        type=type(choices[0]) if choices else get_origin(kind) or kind,
        choices=choices,
        bounds=_bounds(metadata),
        optional=optional,
        is_quantity=any(getattr(item, "func", None) is parse_quantity for item in metadata),
        allowed=allowed_of(field),
    )


def _item_of(kind: Any) -> type[Section] | None:
    """The type of each item of a list of mappings; None for any other type."""
    items = [item for item in get_args(kind) if isinstance(item, type) and issubclass(item, Section)]
    return items[0] if get_origin(kind) is tuple and items else None


def _unwrap(kind: Any, metadata: list[Any]) -> tuple[Any, list[Any], bool]:
    """(type, metadata, whether null is allowed) of a type in Optional and Annotated."""
    optional = False
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            metadata = [*metadata, *more]
        elif get_origin(kind) in (Union, UnionType):
            optional = True
            kind = next(part for part in get_args(kind) if part is not NoneType)
        else:
            return kind, metadata, optional


def _bounds(metadata: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= _bounds(item.metadata)
        for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
            if isinstance(item, kind):
                found[name] = getattr(item, name)
    return found
