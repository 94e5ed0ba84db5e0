"""Ways to count FLOPs, by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.presets import preset_table
from llmrun.config.schema import ModelConfig
from llmrun.core.model.flops import flops_per_token, recomputed_flops_per_token, utilisation
from llmrun.core.model.parameters import count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.plan.conventions import CONVENTIONS, USED, convention
from llmrun.storage.metrics.throughput import Throughput


def shape_of_preset(name: str) -> ModelShape:
    """The shape of a published model."""
    preset = preset_table()[name]
    model = ModelConfig(preset=name, **preset.model)
    return shape_of(complete_model(model, preset.model["vocab_size"]), preset.L_ctx)


def per_token(name: str, shape: ModelShape) -> int:
    """FLOPs per token by one convention."""
    return convention(name).per_token(shape, count_parameters(shape))


def test_the_used_convention_is_the_one_of_a_run() -> None:
    """`exact` is `flops_per_token`, and the MFU of a run is its utilisation."""
    shape = shape_of_preset("llama3-8b")
    throughput = Throughput(D=8, flops_per_token=flops_per_token(shape), peak_flops_per_gpu=989.5e12)
    rates = throughput.step(begun_s=0.0, ended_s=2.0, tokens=131_072)

    assert USED == "exact"
    assert per_token(USED, shape) == flops_per_token(shape)
    assert rates.mfu == utilisation(131_072 / 2.0 * per_token(USED, shape), 8, 989.5e12)


def test_every_convention_is_named_once() -> None:
    """Names are stable keys; each has a formula and who counts so."""
    assert len({each.name for each in CONVENTIONS}) == len(CONVENTIONS)
    assert all(each.formula and each.source for each in CONVENTIONS)


def test_the_formulas_of_megatron() -> None:
    """For a GPT of 4·d_model: 72Blsh²(1 + s/6h + V/12lh), and with blocks twice 96Blsh²(1 + s/6h + V/16lh)."""
    shape = shape_of_preset("gpt3-175b")
    layers, h, s, V = 96, 12_288, 2048, 50_257

    assert per_token("exact", shape) == pytest.approx(
        72 * layers * h**2 * (1 + s / (6 * h) + V / (12 * layers * h))
    )
    assert per_token("recompute_block", shape) == pytest.approx(
        96 * layers * h**2 * (1 + s / (6 * h) + V / (16 * layers * h))
    )
    assert per_token("recompute_selective", shape) == pytest.approx(
        72 * layers * h**2 * (1 + s / (3 * h) + V / (12 * layers * h))
    )


@given(name=st.sampled_from(sorted(preset_table())))
def test_how_they_lie(name: str) -> None:
    """For any model: causal below exact, 6NT below 6NT_total, hardware above what it recomputes for."""
    shape = shape_of_preset(name)
    of = {each.name: each.per_token(shape, count_parameters(shape)) for each in CONVENTIONS}

    assert of["causal"] < of["exact"] < of["recompute_selective"]
    assert of["recompute_block"] == of["exact"] + recomputed_flops_per_token(shape)
    assert of["6NT"] < of["6NT_total"] < of["palm"]
    assert of["torchtitan"] < of["nanogpt"] <= of["palm"]
    assert 3 * of["8NT_total"] == 4 * of["6NT_total"]
    assert 3 * of["recompute_mosaic"] == 4 * of["palm"]
