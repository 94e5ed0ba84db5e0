"""Muon: momentum, orthogonalised by Newton-Schulz, on whole matrices (Keller Jordan 2024).

https://kellerjordan.github.io/posts/muon/.  The operations and their order are those of `torch.optim.Muon` (torch 2.13), so
one rank has its bits.  Momentum and weights are updated element by element on each rank's share; only the
orthogonalisation needs a whole matrix, which its owner gathers in bfloat16, as Moonlight does (Liu et al. 2025,
arXiv 2502.16982, section 2.3).  What an owner computes depends on the matrix alone, not on D, owner or strategy.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llmrun.core.moments import Moment, RateOf
from llmrun.core.muon_flops import newton_schulz_flops
from llmrun.core.parameter_groups import MOMENTS, MuonSpec, ParameterGroup
from llmrun.core.reduce.layout import Share, SharePiece, aligned
from llmrun.core.reduce.matrices import WholeMatrices
from llmrun.core.reduce.owners import owners_of

A, B, C = 3.4445, -4.7750, 2.0315
"""The coefficients of the quintic iteration (Keller Jordan 2024): they maximise the slope at zero."""
EPS = 1e-7


def orthogonalised(matrix: Tensor, steps: int) -> Tensor:
    """The matrix with its singular values moved into about 0.5 … 1.5.

    matrix: [rows, columns], bfloat16, contiguous; overwritten.  X = matrix / |matrix|, transposed if it has more rows than
    columns; then `steps` times X <- A·X + (B·G + C·G²)·X with G = X·X^T.
    """
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix
    x.div_(x.norm().clamp(min=EPS))
    for _ in range(steps):
        gram = x @ x.T
        update = torch.addmm(gram, gram, gram, beta=B, alpha=C)
        x = torch.addmm(x, update, x, beta=A)
    return x.T if is_tall else x


def adjusted_rate(rate: float, adjust_lr_fn: str, shape: Sequence[int]) -> float:
    """The learning rate of a matrix of this shape: of Keller Jordan, or to match the update of AdamW (Liu et al. 2025)."""
    rows, columns = shape
    if adjust_lr_fn == "original":
        return rate * math.sqrt(max(1, rows / columns))
    assert adjust_lr_fn == "match_rms_adamw"
    return rate * (0.2 * math.sqrt(max(rows, columns)))


class ShardedMuon:
    """Muon on the sections of a rank's share from `first` on, one for each group of parameters.

    weights:  [share.size], float32, updated in place.
    share_of: the share of any rank.
    """

    def __init__(
        self,
        weights: Tensor,
        share_of: Callable[[int], Share],
        rank: int,
        D: int,
        groups: Sequence[ParameterGroup],
        first: int,
        spec: MuonSpec,
    ) -> None:
        shares = [share_of(r) for r in range(D)]
        parts = [range(share.part(first).start, share.size) for share in shares]
        self._spec, self._part = spec, parts[rank]
        self._weights = weights[self._part.start : self._part.stop]
        self._momentum = Moment("muon", weights, self._part)
        (name,) = MOMENTS["muon"]
        self.moments = {name: self._momentum}
        pieces = [share.pieces_in(part) for share, part in zip(shares, parts, strict=True)]
        group_of = {name: group for group in groups for name in group.names}
        self._pieces: list[tuple[SharePiece, ParameterGroup]] = [
            (p, group_of[p.slot.name]) for p in pieces[rank]
        ]
        slots = {piece.slot.name: piece.slot for of_rank in pieces for piece in of_rank}
        matrices = [slots[name] for group in groups for name in group.names]
        costs = {slot.name: newton_schulz_flops(slot.shape, spec.ns_steps) for slot in matrices}
        self._matrices = WholeMatrices(matrices, owners_of(costs, D), pieces, rank)

    def update(self, gradient: Tensor, rate_of: RateOf) -> None:
        """One update, in place.  A collective.  gradient: [share.size], float32; its elements are overwritten."""
        spec, momentum = self._spec, self._momentum.values
        change = gradient[self._part.start : self._part.stop]
        momentum.lerp_(change, 1 - spec.momentum)
        change = change.lerp_(momentum, spec.momentum) if spec.nesterov else momentum
        directions = change.bfloat16()
        self._matrices.apply(directions, partial(orthogonalised, steps=spec.ns_steps))
        peak = rate_of(spec.lr)
        for piece, group in self._pieces:
            rate = peak * group.lr_scale
            # With the padding up to a multiple of 64, which is zero and stays zero.
            rows = slice(piece.own_start, piece.own_start + aligned(piece.count))
            own = self._weights[rows]
            own.mul_(1 - rate * group.weight_decay)
            own.add_(directions[rows], alpha=-adjusted_rate(rate, spec.adjust_lr_fn, piece.slot.shape))
