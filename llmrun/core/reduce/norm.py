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
"""2^14 integers below 2^48 stay below 2^62, and the bits of 2^14 magic numbers add up to 0 mod 2^64."""
_CHUNK_BLOCKS_CPU = 16
"""A buffer of 2 MiB, which stays in the cache."""
_CHUNK_BLOCKS_GPU = 1024
"""A buffer of 128 MiB: few kernels."""
_HALF_BITS = 32
_LIMB = 2**62


def largest_magnitude(values: Tensor) -> float:
    """max|g| of a shard [n], float32; NaN if any element is NaN."""
    smallest, largest = torch.aminmax(values)
    return float(torch.maximum(-smallest, largest).item())


def exponent_of(magnitude: float) -> int:
    """The smallest e with magnitude < 2^e (0 for a magnitude of 0)."""
    return math.frexp(magnitude)[1]


def square_sum(values: Tensor, exponent: int) -> int:
    """Σ round((g·2^(24-exponent))²) over a shard [n], float32, as an exact integer.

    Every |g| must be below 2^exponent.
    """
    device = values.device
    n_blocks = -(-len(values) // _BLOCK_ELEMENTS)
    step = min(n_blocks, _CHUNK_BLOCKS_CPU if device.type == "cpu" else _CHUNK_BLOCKS_GPU)
    buffer = torch.empty(step * _BLOCK_ELEMENTS, dtype=torch.float64, device=device)
    sums = torch.empty(n_blocks, dtype=torch.int64, device=device)
    magic = torch.tensor(_MAGIC, dtype=torch.float64, device=device)
    for first in range(0, n_blocks, step):
        own = sums[first : first + step]
        chunk = values[first * _BLOCK_ELEMENTS :][: len(own) * _BLOCK_ELEMENTS]
        x = buffer[: len(own) * _BLOCK_ELEMENTS]
        x[: len(chunk)] = chunk
        x[len(chunk) :] = 0.0
        # Products with a power of two are exact: only the sum with the magic number is rounded.
        torch.addcmul(magic, x, x, value=4.0 ** (SCALE_BITS - exponent), out=x)
        torch.sum(x.view(torch.int64).view(-1, _BLOCK_ELEMENTS), dim=-1, out=own)
    low, high = (sums & (2**_HALF_BITS - 1)).sum(), (sums >> _HALF_BITS).sum()
    return int(low.item()) + (int(high.item()) << _HALF_BITS)


def to_limbs(square_sums: int) -> tuple[int, int]:
    """(high, low) of a sum of squares: two integers that fit into int64, however large the sum."""
    return divmod(square_sums, _LIMB)


def from_limbs(high: int, low: int) -> int:
    """The sum of squares; sums of limbs over ranks give the sum over ranks."""
    return high * _LIMB + low


def norm_of(square_sums: int, exponent: int) -> float:
    """The norm from the sum over all shards."""
    root = math.isqrt(square_sums << 64)
    return math.ldexp(float(root), exponent - SCALE_BITS - 32)


def clip_factor(norm: float, grad_clip: float | None) -> float:
    """min(1, clip / (norm + 1e-6)) in float64, for the caller to round to float32."""
    return 1.0 if grad_clip is None else min(1.0, grad_clip / (norm + 1e-6))
