"""The frozen keys of the config, their kinds, and the documents that are generated from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmrun.cli.config_reference import json_schema, json_schema_text, main, reference_markdown
from llmrun.config.keys import leaves, shown_key
from llmrun.config.load import load_config

DOCS = Path(__file__).parents[2] / "docs"

NUMERIC = """
seed T_tokens
model.preset model.n_layers model.d_model model.n_heads model.n_kv_heads model.head_dim model.d_ff model.vocab_size
model.tie_embeddings model.mlp model.norm model.norm_eps model.position model.rope_theta model.bias
model.qkv_bias model.qk_norm model.dropout model.factory model.args
batch.GB_tok batch.μ_tok batch.L_ctx batch.V
optimizer.name optimizer.lr optimizer.betas optimizer.eps optimizer.weight_decay optimizer.grad_clip
optimizer.implementation
schedule.name schedule.warmup_tokens schedule.final_lr_fraction schedule.decay_tokens
precision compile hardware.device hardware.threads_per_rank reproducibility.mode
""".split()  # noqa: SIM905

OPERATIONAL = """
name runs_dir batch.D batch.A batch.uneven strategy activation_checkpointing
model.import_root
data.path data.num_workers data.verify data.on_damage data.order_file
eval.every_steps eval.windows
checkpoint.every_minutes checkpoint.every_steps checkpoint.keep_last checkpoint.keep_best
checkpoint.keep_every_steps checkpoint.on_disk_full
reproducibility.compare_with reproducibility.on_difference monitor.baseline
hardware.accelerator hardware.assumed_mfu hardware.PUE hardware.yuan_per_kWh hardware.yuan_per_GPU_hour
hardware.kgCO2_per_kWh hardware.watts_per_device hardware.checkpoint_GBps hardware.device_MTBF_hours
hardware.restart_minutes hardware.table
""".split()  # noqa: SIM905


def test_keys_and_kinds_are_those_of_the_contract() -> None:
    """The set of keys is frozen, each with its kind: adding or changing one is a decision, not an accident."""
    found = {leaf.shown: leaf.kind for leaf in leaves().values()}

    assert found == dict.fromkeys(NUMERIC, "numeric") | dict.fromkeys(OPERATIONAL, "operational")
    assert len(found) < 90


@pytest.mark.parametrize("key", leaves())
def test_every_field_is_declared_in_full(key: str) -> None:
    """Each leaf has a kind, a unit, a meaning and a default."""
    leaf = leaves()[key]

    assert leaf.kind in ("numeric", "operational")
    assert leaf.unit
    assert leaf.meaning[0].isupper() or leaf.meaning.startswith(("fp32", "torch"))
    assert leaf.key.isascii()
    assert shown_key(key) == leaf.shown


def test_documents_are_fresh(tmp_path: Path) -> None:
    """docs/config.md and docs/config.schema.json are what the schema gives; else: make docs."""
    main(tmp_path)

    assert (DOCS / "config.md").read_text() == (tmp_path / "config.md").read_text() == reference_markdown()
    assert (DOCS / "config.schema.json").read_text() == json_schema_text()


def test_reference_names_every_key() -> None:
    """Each key stands in the reference with its kind and default."""
    rows = [line.split(" | ") for line in reference_markdown().splitlines() if line.startswith("| `")]

    assert {row[0].strip("| `"): row[4] for row in rows} == {
        leaf.shown: leaf.kind for leaf in leaves().values()
    }


def section_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a section; the whole one for the top level."""
    reference = schema["properties"][name]["$ref"] if name else None
    return schema["$defs"][reference.rpartition("/")[2]] if reference else schema


def properties(schema: dict[str, Any]) -> set[str]:
    found = set()
    for name, below in schema["properties"].items():
        nested = (
            [f"{name}.{key}" for key in section_of(schema, name)["properties"]] if "$ref" in below else []
        )
        found |= set(nested or [name])
    return found


def test_json_schema_has_every_spelling_and_no_other() -> None:
    """An editor accepts exactly the keys that the loader accepts."""
    expected = {
        f"{leaf.key.rpartition('.')[0]}.{name}".lstrip(".")
        for leaf in leaves().values()
        for name in leaf.names
    }

    assert properties(json_schema()) == expected
    assert {"batch.μ_tok", "batch.µ_tok", "batch.mu_tok", "batch.micro_tok", "batch.gb_tok"} <= expected


def test_json_schema_agrees_with_the_loader(tmp_path: Path) -> None:
    """Each default and each enumerated value of the JSON Schema is a config that loads."""
    path = tmp_path / "x.yaml"
    path.write_text("{}")
    for leaf in leaves().values():
        section, _, name = leaf.shown.rpartition(".")
        field = section_of(json_schema(), section)["properties"][name]
        for value in [field["default"], *field.get("enum", [])]:
            loaded = load_config(path, [f"{leaf.shown}={json.dumps(value)}"])
            assert leaf.key in loaded.locations


def test_json_schema_is_strict_and_knows_units_and_kinds() -> None:
    """No section takes unknown keys, a quantity may be text, and each field says its kind and unit."""
    schema = json_schema()

    assert all(
        section_of(schema, name)["additionalProperties"] is False
        for name in ("", *(key for key, field in schema["properties"].items() if "$ref" in field))
    )
    gb_tok = section_of(schema, "batch")["properties"]["GB_tok"]
    assert [each["type"] for each in gb_tok["anyOf"]] == ["number", "string"]
    assert gb_tok["anyOf"][0]["minimum"] == 1
    lanes = section_of(schema, "batch")["properties"]["V"]
    assert [each["type"] for each in lanes["anyOf"]] == ["number", "string", "null"]
    for leaf in leaves().values():
        section, _, name = leaf.shown.rpartition(".")
        field = section_of(schema, section)["properties"][name]
        assert (field["kind"], field["unit"]) == (leaf.kind, leaf.unit)
