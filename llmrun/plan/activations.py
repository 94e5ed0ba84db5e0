"""Bytes per token that the built-in model keeps between forward and backward: pure functions of integers.

After Korthikanti et al. 2022 (arXiv 2205.05198, section 4) with these changes: attention does not store its L×L scores
(a fused kernel recomputes them), the residual stream is fp32, and autocast casts the input of each projection.
"""

from llmrun.core.model.shape import ModelShape
from llmrun.plan.memory_parts import FP32_BYTES, Setting


def block_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Bytes per token that one block keeps for the backward pass."""
    is_gated = shape.mlp == "swiglu"
    norms = 2 * norm_bytes_per_token(shape, setting)
    inputs = projection_input_bytes(shape, setting, 3) + projection_input_bytes(shape, setting, 1 + is_gated)
    mlp = (4 if is_gated else 2) * setting.half_bytes * shape.d_ff
    masks = 2 * mask_bytes_per_token(shape, setting, setting.half_bytes)
    return norms + inputs + attention_bytes_per_token(shape, setting) + mlp + masks


def attention_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Queries, keys and values of all heads, the output, and one fp32 scalar per head.

    With ALiBi a CPU keeps the L×L probabilities and fp32 copies; a GPU keeps the bias in bf16.
    """
    half, L, H = setting.half_bytes, shape.L_ctx, shape.n_heads
    head_norms = head_norm_bytes_per_token(shape, setting)
    if shape.position != "alibi":
        return head_norms + 4 * half * shape.d_q + FP32_BYTES * H
    if setting.device == "cpu":
        return head_norms + (3 * FP32_BYTES + half) * shape.d_q + FP32_BYTES * H * L
    bias = half * H * L * L // setting.mu_tok if setting.precision == "bf16" else 0
    return head_norms + 4 * half * shape.d_q + FP32_BYTES * H + bias


def norm_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """A norm keeps its fp32 input and one or two fp32 scalars; RMSNorm on a CPU also the normalised input."""
    kept = 2 if setting.device == "cpu" and shape.norm == "rmsnorm" else 1
    scalars = 2 if shape.norm == "layernorm" else 1
    return FP32_BYTES * (kept * shape.d_model + scalars)


def projection_input_bytes(shape: ModelShape, setting: Setting, count: int) -> int:
    """The input of `count` projections after one norm: one fp32 tensor, or a bf16 cast for each."""
    if setting.precision == "fp32":
        return FP32_BYTES * shape.d_model
    return count * setting.half_bytes * shape.d_model


def head_norm_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Norms of query and key heads keep fp32 inputs as the other norms do; a CPU also copies the output."""
    if not shape.qk_norm:
        return 0
    scalars = FP32_BYTES * (shape.n_heads + shape.n_kv_heads)
    inputs = FP32_BYTES * (shape.d_q + shape.d_kv)
    return scalars + (2 * inputs + setting.half_bytes * shape.d_q if setting.device == "cpu" else inputs)


def mask_bytes_per_token(shape: ModelShape, setting: Setting, element_bytes: int) -> int:
    """Mask of a dropout: one byte per element on CUDA, one element of the input's type on a CPU."""
    if shape.dropout == 0:
        return 0
    return shape.d_model * (1 if setting.device == "cuda" else element_bytes)


def outside_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Final norm, the head's input, the ids of token and target, and the mask on the embedding."""
    ids = 2 * 8
    return (
        norm_bytes_per_token(shape, setting)
        + projection_input_bytes(shape, setting, 1)
        + mask_bytes_per_token(shape, setting, FP32_BYTES)
        + ids
    )
