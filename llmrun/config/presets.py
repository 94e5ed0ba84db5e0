"""`model.preset`: shapes of published models, for the keys that a config leaves out."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llmrun.core.model.shape import Beyond

TABLE_NAME = "presets.yaml"


@dataclass(frozen=True)
class Preset:
    """One published shape.

    name:   `family-size`.
    model:  keys of the config's section `model`.
    beyond: what the built-in model does not support, or None if it can train this shape.
    """

    name: str
    model: dict[str, Any]
    L_ctx: int
    source: str
    beyond: Beyond | None


@cache
def preset_table() -> dict[str, Preset]:
    """All presets by name, family by family."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("llmrun.config").joinpath(TABLE_NAME).read_text(encoding="utf-8")
    families: dict[str, dict[str, Any]] = yaml.load(text, Loader=loader)  # noqa: S506  a safe loader either way
    found = [
        _preset(f"{family}-{size}", rows, shape)
        for family, rows in families.items()
        for size, shape in rows["sizes"].items()
    ]
    return {preset.name: preset for preset in found}


def _preset(name: str, family: dict[str, Any], shape: dict[str, Any]) -> Preset:
    beyond = family.get("beyond")
    return Preset(
        name=name,
        model=family["model"] | shape,
        L_ctx=family["L_ctx"],
        source=family["source"],
        beyond=None if beyond is None else _beyond(**beyond),
    )


def _beyond(other: Collection[str] = (), **counted: Any) -> Beyond:
    return Beyond(**counted, message=tuple(other))


def changes_of(preset: Preset, given: Collection[str]) -> dict[str, dict[str, Any]]:
    """The fields that the preset sets, by section: all whose key is not in `given`."""
    model = {name: value for name, value in preset.model.items() if f"model.{name}" not in given}
    batch = {} if "batch.L_ctx" in given else {"L_ctx": preset.L_ctx}
    return {"model": model, "batch": batch}


def nearest_presets(name: str) -> str:
    """A hint for an unknown name: the most similar preset, or the families."""
    from llmrun.config.field_messages import nearest

    meant = nearest(name, preset_table())
    if meant is not None:
        return f"did you mean `{meant}`?"
    families = dict.fromkeys(preset.rpartition("-")[0] for preset in preset_table())
    return f"the families are {', '.join(families)}, each with its sizes, such as `llama3-8b`"
