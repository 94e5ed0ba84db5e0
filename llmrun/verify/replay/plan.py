"""Spot checks: the draw of windows to execute again, and the probability that falsified steps are in none of them.

The n steps (1 … n; in a migrated run those after its origin) are cut into blocks of `length` steps (the last may be
shorter).  Block b has the rank
sha256("llmrun-windows/1" ‖ 0 ‖ chain after the last step ‖ 0 ‖ seed in decimal ‖ 0 ‖ b in decimal), and the k blocks of
smallest rank are executed: without replacement, each set of k equally likely.  Derivations stand in docs/verify.md.
"""

import hashlib
import math
from dataclasses import dataclass

WINDOWS_NAME = b"llmrun-windows/1"
FRACTIONS = (0.001, 0.01, 0.05, 0.1)
"""Falsified fractions of the steps for which the probability of an escape is reported."""


@dataclass(frozen=True)
class Draw:
    """Windows drawn from a run.

    n_steps: steps of the run.  length: steps of a window.
    windows: (first step, last step) of each that was drawn, ascending.
    """

    n_steps: int
    length: int
    seed: int
    windows: tuple[tuple[int, int], ...]

    @property
    def n_blocks(self) -> int:
        """The number of blocks that windows are drawn from."""
        return n_blocks_of(self.n_steps, self.length)


@dataclass(frozen=True)
class Escape:
    """The probability that no drawn window holds a falsified step.

    fraction:  the falsified fraction of the steps; n_falsified: their number, rounded up.
    at_most:   if they fill whole windows, which is the best case for a forger.
    if_spread: if each lies in a window of its own, as far as there are enough.
    """

    fraction: float
    n_falsified: int
    at_most: float
    if_spread: float


def n_blocks_of(n_steps: int, length: int) -> int:
    """The number of blocks of `length` steps that cover `n_steps`."""
    return -(-n_steps // length)


def draw_windows(chain: bytes, seed: int, n_steps: int, length: int, count: int, *, after: int = 0) -> Draw:
    """Draw `count` windows of a run, or all if there are fewer.

    chain: 32 bytes, after the last step, so that the windows are unknown before the run has ended.
    after: the step before the first of the `n_steps`: not 0 in a migrated run.
    """
    assert n_steps >= 1
    assert length >= 1
    key = hashlib.sha256(b"\0".join([WINDOWS_NAME, chain, str(seed).encode(), b""]))

    def rank(block: int) -> bytes:
        own = key.copy()
        own.update(str(block).encode())
        return own.digest()

    chosen = sorted(sorted(range(n_blocks_of(n_steps, length)), key=rank)[:count])
    windows = tuple((after + b * length + 1, after + min((b + 1) * length, n_steps)) for b in chosen)
    return Draw(n_steps, length, seed, windows)


def escape_probability(n_blocks: int, n_bad: int, n_drawn: int) -> float:
    """The probability that none of `n_drawn` of `n_blocks` blocks is one of `n_bad`: C(W - b, k) / C(W, k).

    The hypergeometric distribution at zero, as a product of k factors (W - b - i) / (W - i).
    """
    drawn = min(n_drawn, n_blocks)
    if n_bad + drawn > n_blocks:
        return 0.0
    few, many = sorted((n_bad, drawn))  # the formula is symmetric in b and k
    return math.exp(sum(math.log1p(-many / (n_blocks - i)) for i in range(few)))


def escape_of(draw: Draw, fraction: float) -> Escape:
    """The probability that a falsified fraction of the steps escapes a draw."""
    n_falsified = math.ceil(fraction * draw.n_steps)
    k = len(draw.windows)
    clustered = n_blocks_of(n_falsified, draw.length)
    spread = min(n_falsified, draw.n_blocks)
    return Escape(
        fraction,
        n_falsified,
        escape_probability(draw.n_blocks, clustered, k),
        escape_probability(draw.n_blocks, spread, k),
    )
