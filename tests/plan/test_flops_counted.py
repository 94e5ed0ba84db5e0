"""Planned FLOPs against torch's own counter: forward, backward, recomputation, every form of the model.

The counter counts what is computed: attention as the full square, as its MATH kernel computes it.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.schema import ModelConfig
from llmrun.core.model.flops import flops_per_token, recomputed_flops_per_token, skipped_flops_per_token
from llmrun.core.model.shape import ModelShape

SEQUENCES = 2


def make_shape(L_ctx: int = 8, **given: Any) -> ModelShape:
    """A tiny shape with some of it changed."""
    tiny = {"n_layers": 2, "d_model": 12, "n_heads": 6, "n_kv_heads": 2, "d_ff": 20, "vocab_size": 50}
    return shape_of(complete_model(ModelConfig(**tiny | given), 50), L_ctx)


def counted(shape: ModelShape, *, recompute_blocks: bool) -> float:
    """FLOPs per token that torch counts in one forward and backward pass."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from llmrun.core.model.transformer import Transformer

    model = Transformer(shape, recompute_blocks=recompute_blocks)
    tokens = torch.randint(0, shape.vocab_size, (SEQUENCES, shape.L_ctx + 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss, _ = model(tokens)
        loss.backward()
    return counter.get_total_flops() / (SEQUENCES * shape.L_ctx)


forms = {
    "mlp": st.sampled_from(["swiglu", "gelu"]),
    "norm": st.sampled_from(["rmsnorm", "layernorm"]),
    "position": st.sampled_from(["rope", "learned", "alibi", "none"]),
    "bias": st.booleans(),
    "qkv_bias": st.booleans(),
    "qk_norm": st.booleans(),
    "tie_embeddings": st.booleans(),
    "dropout": st.sampled_from([0.0, 0.1]),
    "n_layers": st.integers(1, 3),
    "n_kv_heads": st.sampled_from([1, 2, 3, 6]),
    "d_ff": st.integers(1, 40),
}


@settings(max_examples=40, deadline=None)
@given(given=st.fixed_dictionaries(forms), recomputes=st.booleans(), L_ctx=st.integers(1, 12))
def test_torch_counts_exactly_what_is_planned(given: dict[str, Any], recomputes: bool, L_ctx: int) -> None:
    """For any form of the built-in model, with and without recomputation, to the last FLOP."""
    shape = make_shape(L_ctx, **given)
    planned = flops_per_token(shape)
    if recomputes:
        planned += recomputed_flops_per_token(shape) - skipped_flops_per_token(shape)

    assert counted(shape, recompute_blocks=recomputes) == planned


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputation_stops_early(dropout: float) -> None:
    """Torch does not recompute the MLP's last product, unless a dropout needs its output."""
    shape = make_shape(dropout=dropout)
    added = counted(shape, recompute_blocks=True) - counted(shape, recompute_blocks=False)
    last_product = 2 * 2 * 20 * 12

    assert recomputed_flops_per_token(shape) - added == (0 if dropout else last_product)
