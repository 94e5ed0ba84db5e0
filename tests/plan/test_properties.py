"""What must hold for any sound config: units, monotony, no NaN, no traceback."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.load import load_config
from llmrun.config.presets import preset_table
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.plan import Plan, make_plan
from llmrun.plan.render.compare import comparison
from llmrun.plan.render.explain import explanation
from llmrun.plan.render.json import as_json
from llmrun.plan.render.language import chinese, english
from llmrun.plan.render.notes import warning_texts
from llmrun.plan.render.summary import summary

CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "T_tokens": st.sampled_from(["64Mi", "1B", "15T", str(2**63 - 1)]),
    "model.preset": st.sampled_from(sorted(preset_table())),
    "model.n_layers": st.sampled_from([1, 7, 65_536]),
    "model.vocab_size": st.sampled_from([2, 50_257, 2**31 - 1]),
    "model.d_ff": st.sampled_from([1, 4096, 2**24]),
    "model.dropout": st.sampled_from([0.0, 0.1]),
    "batch.GB_tok": st.sampled_from(["512Ki", "1536Ki", "64Mi"]),
    "batch.V": st.sampled_from([2, 8, 32]),
    "batch.D": st.sampled_from([1, 2]),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "strategy": st.sampled_from(["replicate", "shard"]),
    "activation_checkpointing": st.sampled_from(["none", "block"]),
    "checkpoint.every_steps": st.sampled_from(["null", 1, 10**9]),
    "checkpoint.every_minutes": st.sampled_from(["null", 1, 10**12]),
    "hardware.accelerator": st.sampled_from(["H100-SXM", "V100-SXM2-32G", "H20", "B200"]),
    "hardware.assumed_mfu": st.sampled_from([0.001, 0.4, 1.0]),
    "hardware.PUE": st.sampled_from([1.0, 5.0]),
    "hardware.yuan_per_kWh": st.sampled_from([0.0, 1e6]),
    "hardware.yuan_per_GPU_hour": st.sampled_from(["null", 0.0, 1e6]),
    "hardware.kgCO2_per_kWh": st.sampled_from([0.0, 100.0]),
    "hardware.watts_per_device": st.sampled_from(["null", 0.1, 1e5]),
    "hardware.checkpoint_GBps": st.sampled_from([1e-3, 2.0, 1e6]),
    "hardware.device_MTBF_hours": st.sampled_from([1.0, 50_700.0, 1e9]),
    "hardware.restart_minutes": st.sampled_from([0.0, 1e5]),
}
ANY = st.fixed_dictionaries({}, optional=CHOICES)
SMALL = {
    "model.n_layers": 4, "model.d_model": 256, "model.n_heads": 4, "model.d_ff": 1024, "model.vocab_size": 512
}  # fmt: skip
"""The model where no preset is drawn."""
LARGER = {
    "model.n_layers": (
        "FLOPs",
        "N_params",
        "memory_bytes_per_rank",
        "checkpoint_bytes",
        "time_hours",
        "tCO2",
    ),
    "model.d_ff": ("FLOPs", "N_params", "memory_bytes_per_rank", "checkpoint_bytes", "yuan_GPU"),
    "model.vocab_size": ("FLOPs", "N_params_total", "memory_bytes_per_rank", "checkpoint_bytes"),
    "T_tokens": ("FLOPs", "steps", "tokens_seen", "time_hours", "energy_kWh", "yuan_energy", "interruptions"),
}
"""Figures that grow with a key."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that any draw is put over."""
    path = tmp_path_factory.mktemp("properties") / "base.yaml"
    path.write_text(
        "T_tokens: 1B\n"
        "batch: {GB_tok: 512Ki, μ_tok: 16Ki, L_ctx: 1Ki, D: 2, V: 8}\n"
        "hardware: {accelerator: H100-SXM, yuan_per_GPU_hour: 18}\n",
        encoding="utf-8",
    )
    return path


def plan_of(path: Path, drawn: dict[str, Any]) -> Plan:
    """The plan of the base config under what was drawn."""
    values = (SMALL if "model.preset" not in drawn else {}) | drawn
    loaded = load_config(path, [f"{key}={value}" for key, value in values.items()])
    return make_plan(resolve(loaded, None, MachineFacts(gpus=0)))


def numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON document."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@settings(max_examples=30)
@given(drawn=ANY)
def test_any_config_has_a_plan_in_every_form(base: Path, drawn: dict[str, Any]) -> None:
    """At the edges of every bound no figure is negative, NaN or infinite, and every text can be written."""
    plan = plan_of(base, drawn)
    figures = as_json(plan)

    json.dumps(figures, allow_nan=False)
    assert all(math.isfinite(value) and value >= 0 for value in numbers(figures))
    for translate in (english, chinese):
        assert summary(plan, translate)
        assert explanation(plan, translate)
        assert comparison(plan, plan, translate)
        assert all(warning and hint for warning, hint in warning_texts(plan, translate))


@settings(max_examples=40)
@given(drawn=ANY)
def test_units_are_consistent(base: Path, drawn: dict[str, Any]) -> None:
    """Energy is watts times hours, money energy times a price, parts add up, a rank's share is an Dth."""
    plan = plan_of(base, drawn)
    figures, hardware, D = as_json(plan), plan.config.hardware, plan.batch.D

    assert sum(figures["memory_parts_bytes"].values()) == figures["memory_bytes_per_rank"]
    assert (
        sum(figures["checkpoint_parts_bytes"].values())
        == figures["checkpoint_bytes"]
        == 12 * figures["N_params_total"]
    )
    assert D * figures["checkpoint_bytes_per_rank"] >= figures["checkpoint_bytes"]
    assert figures["checkpoint_write_seconds"] == pytest.approx(
        figures["checkpoint_bytes"] / (hardware.checkpoint_GBps * 1e9)
    )
    if figures["time_hours"] is not None:
        assert figures["GPU_hours"] == pytest.approx(D * figures["time_hours"])
    if figures["energy_kWh"] is not None:
        assert figures["energy_kWh"] == pytest.approx(
            figures["watts_per_device"] / 1000 * figures["GPU_hours"] * hardware.PUE
        )
        assert figures["tCO2"] == pytest.approx(figures["energy_kWh"] * hardware.kgCO2_per_kWh / 1000)
        assert figures["yuan_energy"] == pytest.approx(figures["energy_kWh"] * hardware.yuan_per_kWh)
    if figures["yuan_GPU"] is not None:
        assert figures["yuan_GPU"] == pytest.approx(figures["GPU_hours"] * hardware.yuan_per_GPU_hour)


@settings(max_examples=40)
@given(drawn=ANY, key=st.sampled_from(sorted(LARGER)), factor=st.integers(2, 5))
def test_more_is_never_less(base: Path, drawn: dict[str, Any], key: str, factor: int) -> None:
    """For any config more blocks, a wider MLP, more words or more tokens never make a figure smaller."""
    sizes = {"model.n_layers": 3, "model.d_ff": 500, "model.vocab_size": 700, "T_tokens": 10**9}
    small = as_json(plan_of(base, drawn | {key: sizes[key]}))
    large = as_json(plan_of(base, drawn | {key: factor * sizes[key]}))

    for name in LARGER[key]:
        if small[name] is not None and large[name] is not None:
            assert large[name] >= small[name], name


@pytest.mark.parametrize(
    ("settings_", "smaller"),
    [
        (("activation_checkpointing=none", "activation_checkpointing=block"), "memory_bytes_per_rank"),
        (("batch.μ_tok=64Ki", "batch.μ_tok=16Ki"), "memory_bytes_per_rank"),
        (("batch.D=2", "batch.D=4"), "time_hours"),
        (("batch.D=2", "batch.D=8"), "checkpoint_bytes_per_rank"),
        (("hardware.assumed_mfu=0.2", "hardware.assumed_mfu=0.5"), "GPU_hours"),
        (("hardware.PUE=1.5", "hardware.PUE=1.1"), "energy_kWh"),
        (("hardware.watts_per_device=700", "hardware.watts_per_device=400"), "energy_kWh"),
        (("hardware.checkpoint_GBps=1", "hardware.checkpoint_GBps=10"), "daly_seconds"),
        (("hardware.device_MTBF_hours=9000", "hardware.device_MTBF_hours=100"), "goodput_at_daly"),
        (("checkpoint.keep_last=9", "checkpoint.keep_last=2"), "checkpoints_on_disk_bytes"),
    ],
)
def test_each_setting_moves_its_figure(base: Path, settings_: tuple[str, str], smaller: str) -> None:
    """The second setting gives the smaller figure."""
    first, second = (as_json(plan_of(base, dict([setting.split("=")])))[smaller] for setting in settings_)

    assert second < first
