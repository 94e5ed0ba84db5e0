"""docs/planning.md says what the code has."""

import re
from pathlib import Path

from llmrun.config.keys import leaves
from llmrun.config.load import load_config
from llmrun.config.presets import preset_table
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.conventions import CONVENTIONS
from llmrun.plan.hardware import KEYS, read_rows
from llmrun.plan.plan import make_plan
from llmrun.plan.render.json import as_json

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's first table, without its heading."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_convention_is_explained() -> None:
    """Name by name, in the order of the code."""
    assert [row[0].strip("`") for row in rows("FLOPs by convention")] == [each.name for each in CONVENTIONS]


def test_every_preset_is_listed() -> None:
    """Family and sizes, and whether it trains."""
    listed = {
        f"{family}-{size}": trains.startswith("yes")
        for family, sizes, trains, _ in rows("Published models")
        for size in sizes.split(", ")
    }

    assert listed == {name: preset.beyond is None for name, preset in preset_table().items()}


def test_the_assumptions_have_their_defaults() -> None:
    """Each key of the table has the default that the schema has."""
    for key, default, _ in rows("Assumptions"):
        found = leaves()[f"hardware.{key.strip('`')}"].default
        shown = None if default.startswith("null") else float(default.replace(",", ""))
        assert found == shown


def test_every_key_of_json_is_documented(tmp_path: Path) -> None:
    """The table lists exactly the keys of a plan, and those that measurements add."""
    path = tmp_path / "x.yaml"
    path.write_text("model: {vocab_size: 512}\nhardware: {accelerator: H20}", encoding="utf-8")
    figures = as_json(make_plan(resolve(load_config(path), None, MachineFacts(gpus=0))))
    listed = [key for row in rows("Keys of `--json`") for key in re.findall(r"`(\w+)`", row[0])]

    assert sorted(listed) == sorted([*figures, "calibration", "record"])


def test_the_example_table_is_sound(tmp_path: Path) -> None:
    """The accelerator of the page is read as it stands, and every key of a row is explained."""
    example = next(
        block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "# gpus.yaml" in block
    )
    path = tmp_path / "gpus.yaml"
    path.write_text(example, encoding="utf-8")
    explained = {key for row in rows("Your own accelerators") for key in re.findall(r"`(\w+)`", row[0])}

    assert read_rows(str(path))["Ascend-X"].TDP_W == 310
    assert explained == set(KEYS)
