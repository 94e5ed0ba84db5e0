"""FLOPs of training, counted as matrix products: pure functions of integers (no torch).

A product of [m, k] with [k, n] costs 2·m·n·k FLOPs.  The backward pass has two products of the same size
for each one of the forward pass, so training costs three times the forward pass.  Counted are the
projections, the MLP, the output head, and the scores and values of attention; not counted are the lookup in
the token table, norms, softmax and other element-wise work.

Convention for attention: the full L_ctx × L_ctx square, as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B); `causal_flops_per_token` counts the half that a causal mask leaves.  Grouped-query attention
expands keys and values to all query heads, so the square costs what it costs with n_heads key heads.
"""

from llmrun.core.model.shape import ModelShape

FORWARD_AND_BACKWARD = 3


def projection_flops_per_token(shape: ModelShape) -> int:
    """Forward FLOPs of one block's projections and MLP for one token."""
    attention = 2 * shape.d_model * shape.d_q + 2 * shape.d_model * shape.d_kv
    mlp_products = 3 if shape.mlp == "swiglu" else 2
    return 2 * (attention + mlp_products * shape.d_model * shape.d_ff)


def attention_flops_per_token(shape: ModelShape) -> int:
    """Forward FLOPs of one block's scores and values for one token, over the full square of L_ctx."""
    return 2 * 2 * shape.L_ctx * shape.d_q


def head_flops_per_token(shape: ModelShape) -> int:
    """Forward FLOPs of the output head for one token, tied or not."""
    return 2 * shape.d_model * shape.vocab_size


def flops_per_token(shape: ModelShape) -> int:
    """FLOPs of forward and backward for one token, as MFU and `plan` count them (attention as full square)."""
    block = projection_flops_per_token(shape) + attention_flops_per_token(shape)
    return FORWARD_AND_BACKWARD * (shape.n_layers * block + head_flops_per_token(shape))


def causal_flops_per_token(shape: ModelShape) -> int:
    """`flops_per_token` with half of the attention square: the other published convention."""
    half = attention_flops_per_token(shape) // 2
    return flops_per_token(shape) - FORWARD_AND_BACKWARD * shape.n_layers * half


def recomputed_flops_per_token(shape: ModelShape) -> int:
    """FLOPs of one more forward pass of every block, as papers count activation checkpointing.

    They count in the hardware's utilisation (HFU), not in MFU.
    """
    return shape.n_layers * (projection_flops_per_token(shape) + attention_flops_per_token(shape))


def skipped_flops_per_token(shape: ModelShape) -> int:
    """The part of `recomputed_flops_per_token` that torch skips: it stops when all needed tensors are recomputed.

    Only a dropout after the MLP needs the output of its last product.
    """
    return 0 if shape.dropout else shape.n_layers * 2 * shape.d_ff * shape.d_model


def checkpointing_flops_per_token(shape: ModelShape) -> int:
    """FLOPs that activation checkpointing of whole blocks adds, as torch runs it."""
    return recomputed_flops_per_token(shape) - skipped_flops_per_token(shape)


def utilisation(FLOPs_per_second: float, D: int, peak_FLOPs: float) -> float:
    """Fraction of the peak of D devices: MFU for the FLOPs of the model, HFU for those of the hardware.

    MFU = tokens/s · FLOPs per token / (D · peak) (Chowdhery et al. 2022, arXiv 2204.02311, appendix B);
    it leaves out what is recomputed, HFU counts it.
    """
    return FLOPs_per_second / (D * peak_FLOPs)


def flops_6NT(N_params: int, tokens: int) -> int:
    """6·N·T: two FLOPs per parameter and token forward, four backward (Kaplan et al. 2020, arXiv 2001.08361)."""
    return 6 * N_params * tokens
