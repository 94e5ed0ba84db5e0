"""FLOPs conventions by name: how papers count the same run."""

from collections.abc import Callable
from typing import NamedTuple

from llmrun.core.model.flops import (
    FORWARD_AND_BACKWARD,
    attention_flops_per_token,
    causal_flops_per_token,
    flops_6NT,
    flops_per_token,
    projection_flops_per_token,
    recomputed_flops_per_token,
)
from llmrun.core.model.parameters import ParameterCount
from llmrun.core.model.shape import ModelShape

USED = "exact"


class Convention(NamedTuple):
    """One way to count.

    name:        stable, for scripts.
    formula:     per token, in llmrun's symbols, without words.
    source:      who counts like this; translated.
    per_token:   FLOPs per token.
    of_hardware: whether recomputation is counted, so that a share of the peak is an HFU, not an MFU.
    """

    name: str
    formula: str
    source: str
    per_token: Callable[[ModelShape, ParameterCount], int]
    of_hardware: bool = False


def square_per_token(shape: ModelShape) -> int:
    """12·n_layers·d_q·L_ctx: attention over the full square, forward and backward."""
    return FORWARD_AND_BACKWARD * shape.n_layers * attention_flops_per_token(shape)


def six_N_and_square(N: int, shape: ModelShape) -> int:
    """6·N + 12·n_layers·d_q·L_ctx: PaLM's approximation, which counts norms and biases like matrices."""
    return flops_6NT(N, 1) + square_per_token(shape)


def position_table(shape: ModelShape, count: ParameterCount) -> int:
    """Parameters of the position table."""
    return count.embedding - shape.vocab_size * shape.d_model


def layers_and_softmax(shape: ModelShape) -> int:
    """Every product and the softmax of all blocks, without tables and head."""
    softmax = 3 * shape.n_heads * shape.L_ctx
    block = projection_flops_per_token(shape) + attention_flops_per_token(shape) + softmax
    return FORWARD_AND_BACKWARD * shape.n_layers * block


def selective_per_token(shape: ModelShape) -> int:
    """The exact count with attention's square twice: recomputed, counted forward and backward."""
    return flops_per_token(shape) + square_per_token(shape)


def block_recomputation_per_token(shape: ModelShape) -> int:
    """The exact count and one more forward pass of every block."""
    return flops_per_token(shape) + recomputed_flops_per_token(shape)


CONVENTIONS = (
    Convention(
        "exact",
        "3·(n_layers·(projections + 4·L_ctx·d_q) + 2·d_model·vocab_size)",
        "every matrix product, full square: PaLM, Megatron-LM 2021",
        lambda shape, _: flops_per_token(shape),
    ),
    Convention(
        "causal",
        "exact - 6·n_layers·L_ctx·d_q",
        "half of the square: Megatron-LM today, FlashAttention",
        lambda shape, _: causal_flops_per_token(shape),
    ),
    Convention("6NT", "6·N_params", "Kaplan et al. 2020", lambda _, count: flops_6NT(count.N_params, 1)),
    Convention(
        "6NT_total", "6·N_params_total", "GPT-3, Gopher", lambda _, count: flops_6NT(count.N_params_total, 1)
    ),
    Convention(
        "palm",
        "6·N_params_total + 12·n_layers·d_q·L_ctx",
        "PaLM appendix B, MosaicML",
        lambda shape, count: six_N_and_square(count.N_params_total, shape),
    ),
    Convention(
        "nanogpt",
        "palm - 6·L_ctx·d_model",
        "nanoGPT: no position table in N",
        lambda shape, count: six_N_and_square(count.N_params_total - position_table(shape, count), shape),
    ),
    Convention(
        "torchtitan",
        "palm - 6·vocab_size·d_model",
        "torchtitan: no token table in N",
        lambda shape, count: six_N_and_square(count.N_params_total - shape.vocab_size * shape.d_model, shape),
    ),
    Convention(
        "chinchilla",
        "3·n_layers·(projections + 4·L_ctx·d_q + 3·n_heads·L_ctx)",
        "Chinchilla appendix F, its table A4",
        lambda shape, _: layers_and_softmax(shape),
    ),
    Convention(
        "recompute_block",
        "exact + n_layers·(projections + 4·L_ctx·d_q)",
        "Narayanan 2021, eq. 3: blocks forward twice",
        lambda shape, _: block_recomputation_per_token(shape),
        of_hardware=True,
    ),
    Convention(
        "recompute_selective",
        "exact + 12·n_layers·d_q·L_ctx",
        "Korthikanti 2022, appendix A: attention twice",
        lambda shape, _: selective_per_token(shape),
        of_hardware=True,
    ),
    Convention(
        "recompute_mosaic",
        "4/3·palm",
        "MosaicML with activation checkpointing",
        lambda shape, count: 4 * six_N_and_square(count.N_params_total, shape) // 3,
        of_hardware=True,
    ),
    Convention(
        "8NT_total",
        "8·N_params_total",
        "Narayanan 2021, eq. 4",
        lambda _, count: 8 * count.N_params_total,
        of_hardware=True,
    ),
)


def convention(name: str) -> Convention:
    """The convention called `name`, which must exist."""
    return next(found for found in CONVENTIONS if found.name == name)


SECONDS_PER_PF_DAY = 86_400


def petaflop_days(FLOPs: float) -> float:
    """FLOPs in PF-days: a day at 10^15 FLOP/s (Brown et al. 2020, arXiv 2005.14165, table D.1)."""
    return FLOPs / (1e15 * SECONDS_PER_PF_DAY)


def tokens_per_parameter(tokens: int, N_params_total: int) -> float:
    """Training tokens per parameter; about 20 is compute-optimal (Hoffmann et al. 2022, arXiv 2203.15556)."""
    return tokens / N_params_total


def activation_bytes_per_block(shape: ModelShape, mu_tok: int) -> int:
    """s·b·h·(34 + 5·a·s/h): what one GPT block keeps in fp16 with dropout, nothing recomputed, no fused kernel.

    Korthikanti et al. 2022, arXiv 2205.05198, equation 1; s·b = mu_tok, h = d_model, a = n_heads, s = L_ctx.
    """
    return mu_tok * (34 * shape.d_model + 5 * shape.n_heads * shape.L_ctx)


def square_over_width(shape: ModelShape) -> float:
    """5·a·s/h, the share of attention's square relative to 34 (Korthikanti et al. 2022, section 5)."""
    return 5 * shape.n_heads * shape.L_ctx / shape.d_model


def saved_by_selective(shape: ModelShape) -> float:
    """Share of a block's activations that recomputing attention's square saves (Korthikanti et al. 2022, section 5)."""
    square = square_over_width(shape)
    return square / (34 + square)


def selective_overhead(shape: ModelShape) -> float:
    """s/(6·h), FLOPs that recomputing attention's square adds, as a share (Korthikanti et al. 2022, section 5)."""
    return shape.L_ctx / (6 * shape.d_model)


def block_input_bytes(shape: ModelShape, tokens: int, element_bytes: int = 2) -> int:
    """Bytes kept under full recomputation: the input of each block (Smith et al. 2022, arXiv 2201.11990, section 2.1.1)."""
    return element_bytes * tokens * shape.n_layers * shape.d_model


def zero_bytes(N: int, D: int, stage: int) -> int:
    """Bytes a rank of weights, gradients and optimizer under ZeRO: 2 + 2 + 12 a parameter in mixed precision.

    stage: 0 shards nothing, 1 the optimizer, 2 also gradients, 3 also weights (Rajbhandari et al. 2020,
    arXiv 1910.02054, figure 1).  llmrun keeps fp32 weights and gradients: see `memory`.
    """
    sharded = {0: 0, 1: 12, 2: 14, 3: 16}[stage]
    return (16 - sharded) * N + -(-sharded * N // D)
