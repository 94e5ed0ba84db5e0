"""Which rank hosts which lanes, and what an uneven share costs: integers only (no torch).

Gradients are added in V lanes, and the V lane sums in one fixed binary tree (`llmrun.core.reduce.tree`).  D ranks host
neighbouring lanes; each sends the maximal nodes that it can finish alone.  So the bits of the sum depend on V and
never on D.
"""

from dataclasses import dataclass
from functools import cache

from llmrun.core.reduce.tree import TreeMerge, maximal_nodes


def lanes_of_rank(V: int, D: int, rank: int) -> range:
    """The neighbouring lanes that `rank` of D hosts."""
    assert 1 <= D <= V
    assert 0 <= rank < D
    cuts = best_cuts(V, D)
    return range(cuts[rank], cuts[rank + 1])


def strided_lanes(V: int, D: int, rank: int) -> list[int | None]:
    """The lanes r, r+D, r+2D, … of `rank`, one for each slot; None in a last slot without a lane for it."""
    assert 1 <= D <= V
    assert 0 <= rank < D
    lanes = range(rank, -(-V // D) * D, D)
    return [lane if lane < V else None for lane in lanes]


@cache
def best_cuts(V: int, D: int) -> tuple[int, ...]:
    """The D+1 cuts 0 … V between ranks: no rank hosts more than ceil(V/D) lanes, and the fewest nodes are sent.

    If D divides V, all ranks host V/D lanes.  Otherwise the load of the busiest rank is fixed and the
    remaining freedom is used to cut at the nodes of the tree (V = 64, D = 7: 1.9 nodes a rank instead of 3.1).
    Dynamic programme over (ranks, lanes): O(V²).
    """
    nodes_of = cache(lambda start, stop: len(maximal_nodes(V, range(start, stop))))
    most = -(-V // D)
    unreachable = (D * V + 1, 0)
    best = {0: (0, 0)}
    history: list[dict[int, tuple[int, int]]] = []
    for rank in range(D):
        ranks_left = D - rank - 1
        following: dict[int, tuple[int, int]] = {}
        for start, (nodes, _) in best.items():
            for stop in range(start + 1, min(start + most, V) + 1):
                if not ranks_left <= V - stop <= ranks_left * most:
                    continue
                total = nodes + nodes_of(start, stop)
                if total < following.get(stop, unreachable)[0]:
                    following[stop] = (total, start)
        history.append(following)
        best = following
    cuts = [V]
    for following in reversed(history):
        cuts.append(following[cuts[-1]][1])
    return tuple(reversed(cuts))


@dataclass(frozen=True)
class UnevenCost:
    """The cost of sharing lanes among D ranks.

    nodes_per_rank:   partial sums that each rank sends.
    lanes_per_rank:   lanes that each rank computes.
    buffers:          gradient buffers of the busiest rank, `.grad` included.
    idle_share:       fraction of all ranks' compute time spent waiting for the busiest rank, 0 … 1.
    """

    nodes_per_rank: tuple[int, ...]
    lanes_per_rank: tuple[int, ...]
    buffers: int
    idle_share: float


def cost_of(V: int, D: int) -> UnevenCost:
    """The cost of sharing V lanes among D ranks."""
    hosted = [lanes_of_rank(V, D, rank) for rank in range(D)]
    lanes = tuple(len(lanes_here) for lanes_here in hosted)
    return UnevenCost(
        nodes_per_rank=tuple(len(maximal_nodes(V, lanes_here)) for lanes_here in hosted),
        lanes_per_rank=lanes,
        buffers=max(buffers_needed(V, lanes_here) for lanes_here in hosted),
        idle_share=1.0 - V / (D * max(lanes)),
    )


def buffers_needed(V: int, lanes: range) -> int:
    """Gradient buffers that folding `lanes` as a binary counter needs at most, `.grad` included."""
    merge: TreeMerge[None] = TreeMerge(V, lanes)
    most = 0
    for lane in lanes:
        most = max(most, len(merge.nodes) + 1)
        merge.append((0, lane), None)
    return most
