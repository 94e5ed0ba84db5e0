"""Formulas of papers that `plan` shows beside its own, and whose published figures the tests hold it to."""

from llmrun.config.shape import ModelShape

SECONDS_PER_PF_DAY = 86_400


def petaflop_days(FLOPs: float) -> float:
    """FLOPs in PF-days: a day at 10^15 FLOP/s (Brown et al. 2020, arXiv 2005.14165, table D.1)."""
    return FLOPs / (1e15 * SECONDS_PER_PF_DAY)


def tokens_per_parameter(tokens: int, N_params_total: int) -> float:
    """Training tokens per parameter; about 20 spends FLOPs best (Hoffmann et al. 2022, arXiv 2203.15556)."""
    return tokens / N_params_total


def activation_bytes_per_block(shape: ModelShape, mu_tok: int) -> int:
    """s·b·h·(34 + 5·a·s/h): what one GPT block keeps in fp16 with dropout, nothing recomputed, no fused kernel.

    Korthikanti et al. 2022, arXiv 2205.05198, equation 1; s·b = mu_tok, h = d_model, a = n_heads, s = L_ctx.
    """
    return mu_tok * (34 * shape.d_model + 5 * shape.n_heads * shape.L_ctx)


def square_over_width(shape: ModelShape) -> float:
    """5·a·s/h, the share of attention's square beside 34 (Korthikanti et al. 2022, section 5)."""
    return 5 * shape.n_heads * shape.L_ctx / shape.d_model


def saved_by_selective(shape: ModelShape) -> float:
    """Share of a block's activations that recomputing attention's square saves (Korthikanti et al. 2022, section 5)."""
    square = square_over_width(shape)
    return square / (34 + square)


def selective_overhead(shape: ModelShape) -> float:
    """s/(6·h), FLOPs that recomputing attention's square adds, as a share (Korthikanti et al. 2022, section 5)."""
    return shape.L_ctx / (6 * shape.d_model)


def block_input_bytes(shape: ModelShape, tokens: int, element_bytes: int = 2) -> int:
    """What full recomputation keeps: the input of each block (Smith et al. 2022, arXiv 2201.11990, section 2.1.1)."""
    return element_bytes * tokens * shape.n_layers * shape.d_model


def zero_bytes(N: int, D: int, stage: int) -> int:
    """Bytes a rank of weights, gradients and optimizer under ZeRO: 2 + 2 + 12 a parameter in mixed precision.

    stage: 0 shards nothing, 1 the optimizer, 2 also gradients, 3 also weights (Rajbhandari et al. 2020,
    arXiv 1910.02054, figure 1).  llmrun's own are in `memory`: fp32 weights and gradients.
    """
    sharded = {0: 0, 1: 12, 2: 14, 3: 16}[stage]
    return (16 - sharded) * N + -(-sharded * N // D)
