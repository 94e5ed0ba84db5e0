"""Configs as text and as facts: nothing is lost, and old fingerprints live on."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.differences import ABSENT, leaf_differences
from llmrun.config.field_values import numeric_fields, operational_fields
from llmrun.config.keys import leaves
from llmrun.config.load import LoadedConfig, load_config
from llmrun.config.resolve import DatasetFacts, MachineFacts, Resolved, resolve
from llmrun.config.schema import Config
from llmrun.config.yaml_reader import value_of
from llmrun.config.yaml_writer import dump_yaml, yaml_value
from llmrun.core.streams import canonical_json

EXAMPLE = Path(__file__).with_name("contract_example.yaml")
DATASET = DatasetFacts(vocab_size=4096, train_tokens=10**7, val_tokens=10**6)
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
POSITIVE = st.floats(1e-30, 1.0, exclude_max=True)


def resolved(config: Config, gpus: int = 0) -> Resolved:
    return resolve(LoadedConfig(config, "x.yaml"), DATASET, MachineFacts(gpus))


@st.composite
def configs(draw: Any) -> Config:
    """Sound configs with text, numbers and batches of any kind."""
    L_ctx, sequences, D, A = (draw(st.integers(1, 32)) for _ in range(4))
    lanes = draw(st.sampled_from([D, D * A]))
    warmup = draw(st.integers(0, 10**6))
    return Config.model_validate(
        {
            "name": draw(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,8}", fullmatch=True)),
            "seed": draw(st.integers(0, 2**63 - 1)),
            "T_tokens": draw(st.integers(10**6, 2**63 - 1)),
            "runs_dir": draw(TEXT),
            "model": {"position": draw(st.sampled_from(["rope", "none"])), "dropout": draw(POSITIVE), "bias": draw(st.booleans()), "n_kv_heads": draw(st.sampled_from([None, 2]))},
            "batch": {"gb_tok": D * A * sequences * L_ctx, "mu_tok": sequences * L_ctx, "L_ctx": L_ctx, "D": D, "V": lanes},
            "optimizer": {"lr": draw(POSITIVE), "betas": [draw(POSITIVE), 0.0], "grad_clip": draw(st.none() | POSITIVE)},
            "schedule": {"name": draw(st.sampled_from(["cosine", "constant"])), "warmup_tokens": warmup},
            "data": {"path": draw(st.none() | TEXT)},
            "hardware": {"accelerator": draw(st.none() | TEXT), "yuan_per_kWh": draw(st.floats(0, 1e6))},
        }
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(configs(), st.sampled_from([0, 1, 8]))
def test_dumped_config_loads_and_resolves_to_itself(tmp_path_factory: Any, config: Config, gpus: int) -> None:
    """The dump of any resolved config loads as an equal config and resolves to itself on any machine."""
    first = resolved(config)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_yaml(first.config), encoding="utf-8")
    loaded = load_config(path)

    assert loaded.config == first.config
    assert resolve(loaded, DATASET, MachineFacts(gpus)) == first
    assert numeric_fields(loaded.config) == numeric_fields(first.config)


def test_dump_is_written_for_people() -> None:
    """The user's symbols, exact numbers with their short form beside them, floats that YAML 1.1 reads too."""
    text = dump_yaml(resolved(load_config(EXAMPLE).config).config)

    assert (
        "\nbatch:\n  GB_tok: 16384  # 16Ki\n  μ_tok: 2048  # 2Ki\n  L_ctx: 256\n  V: 8\n  D: 2\n  A: 4\n"
        in text
    )
    assert "\n  eps: 1.0e-08\n" in text
    assert "\n  keep_every_steps: null\n" in text
    assert yaml.safe_load(text)["optimizer"]["eps"] == 1e-8


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_written_exactly(value: float) -> None:
    """Any finite float is read back as the same bits by our rules and as a number by YAML 1.1."""
    written = yaml_value(value)

    assert canonical_json(value_of(written)) == canonical_json(value + 0.0)
    assert isinstance(yaml.safe_load(written), float)


@given(TEXT)
def test_text_is_written_exactly(value: str) -> None:
    """Any text is read back as the same text by our rules and by YAML 1.1."""
    assert yaml.safe_load(f"a: {yaml_value(value)}") == {"a": value}


GOLDEN_CONFIG = (
    '{"T_tokens":4194304,"batch":{"L_ctx":256,"V":8,"gb_tok":16384,"mu_tok":2048},"compile":false,'
    '"hardware":{"device":"cpu","threads_per_rank":1},'
    '"model":{"bias":false,"d_ff":688,"d_model":256,"dropout":0.1,"head_dim":32,"mlp":"swiglu","n_heads":8,'
    '"n_kv_heads":4,"n_layers":6,"norm":"rmsnorm","norm_eps":1e-05,"position":"rope","qk_norm":false,'
    '"qkv_bias":false,"rope_theta":10000.0,"tie_embeddings":true,"vocab_size":4096},'
    '"optimizer":{"betas":[0.9,0.95],"eps":1e-08,"grad_clip":1.0,"implementation":"fused","lr":0.001,'
    '"name":"adamw","weight_decay":0.1},"precision":"bf16","reproducibility":{"mode":"bitwise"},'
    '"schedule":{"decay_tokens":null,"final_lr_fraction":0.1,"name":"cosine","warmup_tokens":262144},"seed":42}'
)
GOLDEN_SHA256 = "60ebcef45148ed093b4054e5bf3027fd4d9c4a9f7dab89084e2850a996816a77"


def test_golden_fingerprint_lives_on() -> None:
    """The numeric fields of the settled example never get another digest: old runs must stay comparable.

    Never edit the two literals.  A numeric field that is added later belongs into dump.ADDED_LATER.
    """
    text = canonical_json(numeric_fields(resolved(load_config(EXAMPLE).config).config))

    assert text == GOLDEN_CONFIG
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN_SHA256


def test_field_added_later_is_left_out_while_it_means_the_old_behaviour() -> None:
    """A later field shows up in the fingerprint only with a value that is not its old meaning."""
    config = resolved(Config()).config
    added = {"model.qk_norm": False, "optimizer.betas": [0.9, 0.95], "model.rope_theta": 10_000}
    fields = numeric_fields(config, added)

    assert "qk_norm" not in fields["model"]
    assert "betas" not in fields["optimizer"]
    assert fields["model"]["rope_theta"] == 10_000.0, "an int is another value than a float"


def test_operational_values_do_not_touch_the_numeric_fields() -> None:
    """Each operational field can change without a change of the fingerprint's preimage."""
    config = resolved(Config()).config
    changed = {
        "name": "other", "runs_dir": "elsewhere", "activation_checkpointing": "block",
        "batch": config.batch.model_copy(update={"D": 2, "A": 16}),
        "data": config.data.model_copy(update={"path": "x", "num_workers": 0, "verify": "never"}),
        "hardware": config.hardware.model_copy(update={"PUE": 2.0, "accelerator": "H100-SXM"}),
    }  # fmt: skip
    other = config.model_copy(update=changed)

    assert numeric_fields(other) == numeric_fields(config)
    assert [key for key, _, _ in leaf_differences(operational_fields(config), operational_fields(other))] == [
        "activation_checkpointing", "batch.A", "batch.D", "data.num_workers", "data.path", "data.verify",
        "hardware.PUE", "hardware.accelerator", "name", "runs_dir",
    ]  # fmt: skip


def keys_in(nested: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_leaf_is_on_one_side() -> None:
    """Numeric and operational fields together are all fields, none twice."""
    config = resolved(Config()).config
    numeric = numeric_fields(config, added_later={})
    every = [*keys_in(numeric), *keys_in(operational_fields(config))]

    assert sorted(every) == sorted(leaves())


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {"a": 1.0}, [("a", 1, 1.0)]),
        ({"a": 1}, {"a": True}, [("a", 1, True)]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
        ({"a": None}, {}, [("a", None, ABSENT)]),
        ({}, {"a": {"c": 1, "b": 0}}, [("a", ABSENT, {"c": 1, "b": 0})]),
        ({"a": {}}, {"a": {"c": 1, "b": 0}}, [("a.b", ABSENT, 0), ("a.c", ABSENT, 1)]),
    ],
)
def test_differences_are_named(old: Any, new: Any, found: Any) -> None:
    """Each differing leaf by its dotted key, in order; 1, 1.0 and true are three values."""
    differences = [tuple(difference) for difference in leaf_differences(old, new)]

    assert differences == found
    assert repr(differences) == repr(found)


def test_an_edited_learning_rate_is_seen() -> None:
    """The change that peers ignore on resume is one readable line."""
    before = Config(optimizer={"lr": 1e-3})  # type: ignore[arg-type]
    after = Config(optimizer={"lr": 5e-4})  # type: ignore[arg-type]

    assert leaf_differences(
        numeric_fields(resolved(before).config), numeric_fields(resolved(after).config)
    ) == [("optimizer.lr", 0.001, 0.0005)]
