"""How positions enter attention: rotary angles and ALiBi slopes, both computed once on the CPU.

B sequences, H heads, L positions, E head_dim.
"""

import math

import torch
from torch import Tensor


def rotary_table(L_ctx: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021, arXiv 2104.09864, §3.2.2), halves rotated as in Llama.

    Returns two tensors [L_ctx, head_dim], float32.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.outer(torch.arange(L_ctx, dtype=torch.float64), theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(torch.float32), angles.sin().to(torch.float32)


def rotate(x_BHLE: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    """Rotate each pair (e, e + E/2) by its angle, in float32; the dtype of `x` is kept."""
    x = x_BHLE.float()
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos_LE + turned * sin_LE).type_as(x_BHLE)


def alibi_slopes(n_heads: int) -> list[float]:
    """Slopes of ALiBi (Press et al. 2021, arXiv 2108.12409, §3): 2^(-8/n), 2^(-16/n), …

    For a count of heads that is not a power of two, those of the next lower power, then every other one
    of the next higher, as in the paper's code.
    """
    below = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    between = [2.0 ** (-4.0 * (i + 1) / below) for i in range(0, 2 * (n_heads - below), 2)]
    return slopes + between


def alibi_bias(n_heads: int, L_ctx: int) -> Tensor:
    """The causal attention bias of ALiBi: -slope·distance, -inf above the diagonal.

    Returns [n_heads, L_ctx, L_ctx], float32.
    """
    position = torch.arange(L_ctx, dtype=torch.float32)
    distance = (position[:, None] - position[None, :]).clamp(min=0)
    slopes = torch.tensor(alibi_slopes(n_heads), dtype=torch.float32)
    future = torch.full((L_ctx, L_ctx), -torch.inf).triu(1)
    return future - slopes[:, None, None] * distance
