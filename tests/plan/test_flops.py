"""FLOPs by hand, and against torch's own counter."""

from typing import Any

import pytest

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.schema import ModelConfig
from llmrun.core.model.flops import (
    attention_flops_per_token,
    causal_flops_per_token,
    flops_6NT,
    flops_per_token,
    head_flops_per_token,
    projection_flops_per_token,
    recomputed_flops_per_token,
)
from llmrun.core.model.shape import ModelShape


def make_shape(L_ctx: int = 8, **given: Any) -> ModelShape:
    """A tiny shape: 2 blocks of width 12, 3 heads of 4 over 1 key-value head, d_ff 20, 50 tokens."""
    tiny = {"n_layers": 2, "d_model": 12, "n_heads": 3, "n_kv_heads": 1, "d_ff": 20, "vocab_size": 50}
    model = ModelConfig(**tiny | given)
    return shape_of(complete_model(model, 50), L_ctx)


def test_every_product_by_hand() -> None:
    """The count of a tiny shape, product by product."""
    shape = make_shape()
    q, k, v, o = 2 * 12 * 12, 2 * 12 * 4, 2 * 12 * 4, 2 * 12 * 12
    gate, up, down = 2 * 12 * 20, 2 * 12 * 20, 2 * 20 * 12
    scores, values = 2 * 8 * 12, 2 * 8 * 12
    head = 2 * 12 * 50

    assert projection_flops_per_token(shape) == q + k + v + o + gate + up + down
    assert attention_flops_per_token(shape) == scores + values
    assert head_flops_per_token(shape) == head
    assert flops_per_token(shape) == 3 * (2 * (q + k + v + o + gate + up + down + scores + values) + head)
    assert causal_flops_per_token(shape) == flops_per_token(shape) - 3 * 2 * (scores + values) // 2
    assert recomputed_flops_per_token(shape) == 2 * (q + k + v + o + gate + up + down + scores + values)


def test_a_tied_head_costs_what_an_untied_one_costs() -> None:
    """Sharing the table saves memory, not work."""
    assert flops_per_token(make_shape(tie_embeddings=True)) == flops_per_token(
        make_shape(tie_embeddings=False)
    )


def test_the_published_count_of_a_sequence() -> None:
    """The sum in nanoGPT's transformer_sizing.ipynb: 874,944,921,600 FLOPs for one sequence of GPT-2 124M."""
    model = ModelConfig(n_layers=12, d_model=768, n_heads=12, d_ff=3072, mlp="gelu", position="learned")
    shape = shape_of(complete_model(model, 50257), 1024)

    assert 1024 * flops_per_token(shape) == 874_944_921_600


def test_6NT_of_gpt3() -> None:
    """GPT-3's table D.1 gives 3.14e23 FLOPs for 174,600 million parameters and 300 B tokens."""
    assert flops_6NT(174_600_000_000, 300_000_000_000) == pytest.approx(3.14e23, rel=0.006)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mlp": "gelu", "norm": "layernorm", "bias": True},
        {"tie_embeddings": False, "qk_norm": True, "head_dim": 6},
        {"n_kv_heads": 3, "position": "learned"},
        {"position": "alibi"},
    ],
)
def test_torchs_counter_agrees_exactly(given: dict[str, Any]) -> None:
    """Forward and backward of the built-in model cost exactly what is planned, by torch's FlopCounterMode."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from llmrun.core.model.transformer import Transformer

    shape, sequences = make_shape(**given), 3
    model = Transformer(shape)
    tokens = torch.randint(0, shape.vocab_size, (sequences, shape.L_ctx + 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss, _ = model(tokens)
        loss.backward()

    assert counter.get_total_flops() == sequences * shape.L_ctx * flops_per_token(shape)
