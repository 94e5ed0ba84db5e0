"""The planned peak of a step against what torch's CPU allocator really gives out, read from its profiler."""

from typing import Any

import pytest

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.schema import ModelConfig
from llmrun.core.lanes import cost_of
from llmrun.core.model.parameters import count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.plan.memory import Setting, largest_moment

NARROW = {"n_layers": 3, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 176, "vocab_size": 512}


def make_shape(L_ctx: int = 64, **changed: Any) -> ModelShape:
    """A small Llama-like shape."""
    form = NARROW | changed
    return shape_of(complete_model(ModelConfig(**form), form["vocab_size"]), L_ctx)


def allocated_at_most(shape: ModelShape, sequences: int, precision: str, *, recomputes: bool) -> int:
    """Peak of the bytes that one forward and backward pass allocates on a CPU, beyond weights and gradients."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from llmrun.core.model.transformer import Transformer

    model = Transformer(shape, recompute_blocks=recomputes)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.randint(0, shape.vocab_size, (sequences, shape.L_ctx + 1))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = model(tokens)
        loss.backward()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    now = most = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("changed", "sequences", "moment"),
    [
        ({}, 16, "the loss's gradient"),
        (
            {"tie_embeddings": False, "mlp": "gelu", "norm": "layernorm", "bias": True},
            16,
            "the loss's gradient",
        ),
        ({"vocab_size": 8, "n_layers": 2}, 32, None),
        ({"vocab_size": 8, "n_layers": 2, "mlp": "gelu", "dropout": 0.1}, 32, "backward of the final norm"),
        ({"vocab_size": 20_000, "d_model": 192}, 1, "the token table's gradient"),
        ({"vocab_size": 20_000, "tie_embeddings": False}, 1, None),
    ],
)
def test_the_peak_is_what_torch_allocates(
    changed: dict[str, Any], sequences: int, moment: str | None, precision: str
) -> None:
    """Within 2 %, in every regime: many logits, wide blocks, large tables."""
    check(make_shape(**changed), sequences, precision, recomputes=False, moment=moment)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("changed", "sequences"),
    [
        ({}, 16),
        ({"vocab_size": 64, "n_layers": 6}, 32),
        ({"vocab_size": 64, "dropout": 0.1, "mlp": "gelu"}, 32),
    ],
)
def test_the_peak_with_recomputation(changed: dict[str, Any], sequences: int, precision: str) -> None:
    """Within 3 %: a recomputed block is never there while the logits are."""
    check(make_shape(**changed), sequences, precision, recomputes=True, within=0.03)


def check(
    shape: ModelShape,
    sequences: int,
    precision: str,
    *,
    recomputes: bool,
    moment: str | None = None,
    within: float = 0.02,
) -> None:
    """Compare one plan with one measurement."""
    mu_tok = sequences * shape.L_ctx
    setting = Setting(1, mu_tok, cost_of(1, 1), precision, recomputes, "cpu", 1)
    planned = largest_moment(shape, setting, count_parameters(shape).N_params_total)
    measured = allocated_at_most(shape, sequences, precision, recomputes=recomputes)

    assert planned.bytes == pytest.approx(measured, rel=within), planned.name
    assert moment in (None, planned.name)
