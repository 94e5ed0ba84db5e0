"""One digest of many tensors, such as all weights, which changes if two of them are swapped (no torch)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorDigest:
    """One tensor: dtype as in safetensors (`F32`), shape, 64-bit digest of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    digest: int


def combine_digests(tensors: Mapping[str, TensorDigest]) -> int:
    """The first 8 bytes, as a big-endian integer, of sha256 over a line for each tensor, sorted by name.

    A line is `name dtype shape digest`: single spaces, shape as `64x256` (empty for a scalar), digest as 16
    lower-case hex digits, then a newline.
    """
    lines = [f"{name} {line_of(tensor)}\n" for name, tensor in sorted(tensors.items())]
    return int.from_bytes(hashlib.sha256("".join(lines).encode()).digest()[:8], "big")


def line_of(tensor: TensorDigest) -> str:
    """`dtype shape digest`."""
    return f"{tensor.dtype} {'x'.join(map(str, tensor.shape))} {tensor.digest:016x}"


OPTIMIZER_EVERY = 10
"""Steps between two digests of the optimizer state.  Fixed by the format, so that chains are comparable."""


def optimizer_due(step: int) -> bool:
    """Whether the record of `step` holds the digest of the optimizer state."""
    return step > 0 and step % OPTIMIZER_EVERY == 0
