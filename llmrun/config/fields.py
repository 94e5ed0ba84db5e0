"""How a config field is declared: its kind (numeric or operational), its unit, its meaning, its bounds.

numeric:     may change bits of the result; part of the fingerprint.
operational: may not; two runs that differ only here have equal bits.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from llmrun.config.quantities import parse_quantity

Kind = Literal["numeric", "operational"]

Quantity = Annotated[int, BeforeValidator(parse_quantity)]


class Section(BaseModel):
    """A mapping of the config: frozen, strict, finite, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        populate_by_name=True,
        protected_namespaces=(),
    )


def as_tuple(value: Any) -> Any:
    """A list, as YAML and JSON have it, as the tuple that strict validation wants."""
    return tuple(value) if isinstance(value, list) else value


def as_names(value: Any) -> Any:
    """A list of names, or one by itself, as the tuple that strict validation wants."""
    return (value,) if isinstance(value, str) else as_tuple(value)


def numeric(default: Any = ..., *, unit: str, message: str, allowed: str | None = None, **bounds: Any) -> Any:
    """Declare a field that may change bits; `allowed` words what its type and bounds cannot."""
    return _declare("numeric", default, unit, message, allowed, bounds)


def operational(
    default: Any = ..., *, unit: str, message: str, allowed: str | None = None, **bounds: Any
) -> Any:
    """Declare a field that may not change bits; `allowed` words what its type and bounds cannot."""
    return _declare("operational", default, unit, message, allowed, bounds)


def section(kind: type[Section], message: str) -> Any:
    """Declare a nested mapping; left out, it has its defaults."""
    return Field(default_factory=kind, description=message)


def _declare(
    kind: Kind, default: Any, unit: str, message: str, allowed: str | None, bounds: dict[str, Any]
) -> Any:
    """A pydantic field whose JSON Schema carries kind and unit."""
    extra: dict[str, Any] = {"kind": kind, "unit": unit}
    if allowed:
        extra["allowed"] = allowed
    return Field(default, description=f"{message} [{unit}]", json_schema_extra=extra, **bounds)


def kind_of(field: FieldInfo) -> Kind | None:
    """The declared kind of a leaf field; None for a field that was not declared by this module."""
    kind = _extra(field, "kind")
    return kind if kind in ("numeric", "operational") else None  # type: ignore[return-value]


def unit_of(field: FieldInfo) -> str | None:
    """The declared unit of a leaf field."""
    return _extra(field, "unit")


def allowed_of(field: FieldInfo) -> str | None:
    """What a leaf field allows, where it was declared in words."""
    return _extra(field, "allowed")


def _extra(field: FieldInfo, name: str) -> str | None:
    """One of the facts that `_declare` put into the JSON Schema of a field."""
    extra = field.json_schema_extra
    value = extra.get(name) if isinstance(extra, dict) else None
    return value if isinstance(value, str) else None
