"""Declarations of config fields: kind (numeric or operational), unit, meaning, bounds.

numeric:     may change bits of the result; part of the fingerprint.
operational: cannot change bits; runs that differ only here have equal bits.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from llmrun.config.quantities import parse_quantity

Kind = Literal["numeric", "operational"]

Quantity = Annotated[int, BeforeValidator(parse_quantity)]


class Section(BaseModel):
    """Base of the config's mappings: frozen, strict, finite floats, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        protected_namespaces=(),
    )


def as_tuple(value: Any) -> Any:
    """A list from YAML or JSON as the tuple that strict validation requires."""
    return tuple(value) if isinstance(value, list) else value


class ArgumentsError(ValueError):
    """What is wrong with a mapping of arguments; its text follows the field's name."""


def as_arguments(value: Any) -> Any:
    """A mapping of JSON values.  Raises ArgumentsError for a number that JSON does not have."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ArgumentsError("must hold JSON values, got a number that is not finite") from error
    return value


def as_names(value: Any) -> Any:
    """A list of names or a single name as a tuple."""
    return (value,) if isinstance(value, str) else as_tuple(value)


def numeric(default: Any = ..., *, unit: str, meaning: str, allowed: str | None = None, **bounds: Any) -> Any:
    """Declare a field that may change bits.

    unit:    shown with the value.
    meaning: its meaning, shown in the reference.
    allowed: the allowed values in words, if type and bounds do not describe them.
    bounds:  as of `pydantic.Field`.
    """
    return _declare("numeric", default, unit, meaning, allowed, bounds)


def operational(
    default: Any = ..., *, unit: str, meaning: str, allowed: str | None = None, **bounds: Any
) -> Any:
    """Declare a field that cannot change bits; arguments as of `numeric`."""
    return _declare("operational", default, unit, meaning, allowed, bounds)


def section(kind: type[Section], meaning: str) -> Any:
    """Declare a nested mapping; if left out it has its defaults."""
    return Field(default_factory=kind, description=meaning)


def _declare(
    kind: Kind, default: Any, unit: str, meaning: str, allowed: str | None, bounds: dict[str, Any]
) -> Any:
    extra: dict[str, Any] = {"kind": kind, "unit": unit}
    if allowed:
        extra["allowed"] = allowed
    return Field(default, description=f"{meaning} [{unit}]", json_schema_extra=extra, **bounds)


def kind_of(field: FieldInfo) -> Kind | None:
    """The declared kind of a leaf field, or None if it was not declared by this module."""
    kind = _extra(field, "kind")
    return kind if kind in ("numeric", "operational") else None  # type: ignore[return-value]


def unit_of(field: FieldInfo) -> str | None:
    """The declared unit of a leaf field."""
    return _extra(field, "unit")


def allowed_of(field: FieldInfo) -> str | None:
    """The allowed values in words, if the field was declared with them."""
    return _extra(field, "allowed")


def _extra(field: FieldInfo, name: str) -> str | None:
    """An entry that `_declare` put into the field's JSON Schema."""
    extra = field.json_schema_extra
    value = extra.get(name) if isinstance(extra, dict) else None
    return value if isinstance(value, str) else None
