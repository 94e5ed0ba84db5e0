"""FLOPs of Muon's orthogonalisation: a pure function of integers (no torch)."""

from collections.abc import Sequence


def newton_schulz_flops(shape: Sequence[int], steps: int) -> int:
    """FLOPs of `steps` Newton-Schulz iterations on a matrix: steps·(4·n·m² + 2·m³), m <= n its two sizes.

    Each has X·X^T and a product with X, 2·n·m² FLOPs each, and the square of an m × m matrix (Keller Jordan 2024,
    https://kellerjordan.github.io/posts/muon/, "Runtime analysis": 2·(2·n·m² + m³)).
    """
    m, n = sorted(shape)
    return steps * (4 * n * m * m + 2 * m**3)
