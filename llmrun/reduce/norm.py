"""The global gradient norm as an exact sum: no split of tensors or ranks can change it.

With m = max|g| < 2^e, x = g·2^(24-e) lies in (-2^24, 2^24).  The square x² < 2^48 is rounded to an integer by
adding 1.5·2^52 in float64 (round to nearest even), the integers are added exactly, and the norm is
sqrt(Σ round(x²))·2^(e-24).  For N elements its square is off by at most N·2^(2e-49), which is at most N·2^-47
of m² (docs/determinism.md).
"""

import math

import torch
from torch import Tensor

SCALE_BITS = 24
_MAGIC = 1.5 * 2.0**52
_BLOCK_ELEMENTS = 2**14
"""2^14 integers below 2^48 stay below 2^62."""
_CHUNK_BLOCKS = 16
_LIMB_BITS = 32


def largest_magnitude(values: Tensor) -> float:
    """max|g| of a shard [n], float32; NaN where any element is NaN."""
    return float(values.abs().amax().item())


def exponent_of(magnitude: float) -> int:
    """The smallest e with magnitude < 2^e (0 for a magnitude of 0)."""
    return math.frexp(magnitude)[1]


def square_sum(values: Tensor, exponent: int) -> int:
    """Σ round((g·2^(24-exponent))²) over a shard [n], float32, as an exact integer.

    n is a multiple of 64.  Every |g| must be below 2^exponent.
    """
    scale = 2.0 ** (SCALE_BITS - exponent)
    low = torch.zeros((), dtype=torch.int64, device=values.device)
    high = torch.zeros((), dtype=torch.int64, device=values.device)
    magic = torch.tensor(_MAGIC, dtype=torch.float64, device=values.device)
    for chunk in torch.split(values, _BLOCK_ELEMENTS * _CHUNK_BLOCKS):
        x = chunk.to(torch.float64).mul_(scale)
        integers = torch.addcmul(magic, x, x).view(torch.int64).sub_(magic.view(torch.int64))
        for block in _blocks(integers):
            sums = block.sum(-1)
            low += (sums & (2**_LIMB_BITS - 1)).sum()
            high += (sums >> _LIMB_BITS).sum()
    return int(low.item()) + (int(high.item()) << _LIMB_BITS)


def _blocks(integers: Tensor) -> list[Tensor]:
    """Whole blocks as rows, and the rest as one row."""
    whole = len(integers) // _BLOCK_ELEMENTS * _BLOCK_ELEMENTS
    parts = [integers[:whole].view(-1, _BLOCK_ELEMENTS), integers[whole:].view(1, -1)]
    return [part for part in parts if part.numel()]


def norm_of(square_sums: int, exponent: int) -> float:
    """The norm from the sum over all shards."""
    root = math.isqrt(square_sums << 64)
    return math.ldexp(float(root), exponent - SCALE_BITS - 32)


def clip_factor(norm: float, grad_clip: float | None) -> float:
    """min(1, clip / (norm + 1e-6)) in float64, to be rounded to float32 by its use."""
    return 1.0 if grad_clip is None else min(1.0, grad_clip / (norm + 1e-6))
