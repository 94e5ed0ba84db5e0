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
    """A mapping of the config: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, protected_namespaces=()
    )


def numeric(default: Any = ..., *, unit: str, says: str, **bounds: Any) -> Any:
    """Declare a field that may change bits."""
    return _declare("numeric", default, unit, says, bounds)


def operational(default: Any = ..., *, unit: str, says: str, **bounds: Any) -> Any:
    """Declare a field that may not change bits."""
    return _declare("operational", default, unit, says, bounds)


def section(kind: type[Section], says: str) -> Any:
    """Declare a nested mapping; left out, it has its defaults."""
    return Field(default_factory=kind, description=says)


def _declare(kind: Kind, default: Any, unit: str, says: str, bounds: dict[str, Any]) -> Any:
    """A pydantic field whose JSON Schema carries kind and unit."""
    return Field(
        default, description=f"{says} [{unit}]", json_schema_extra={"kind": kind, "unit": unit}, **bounds
    )


def kind_of(field: FieldInfo) -> Kind | None:
    """The declared kind of a leaf field; None for a field that was not declared by this module."""
    extra = field.json_schema_extra
    kind = extra.get("kind") if isinstance(extra, dict) else None
    return kind if kind in ("numeric", "operational") else None  # type: ignore[return-value]


def unit_of(field: FieldInfo) -> str | None:
    """The declared unit of a leaf field."""
    extra = field.json_schema_extra
    unit = extra.get("unit") if isinstance(extra, dict) else None
    return unit if isinstance(unit, str) else None
