"""Who hosts which lanes and which nodes travel: integers only.

Gradients are added in V lanes, and the V lane sums in one fixed binary tree.  Node (k, i) covers the
lanes [i·2^k, (i+1)·2^k) cut at V, and is node (k-1, 2i) plus node (k-1, 2i+1), or the first alone where
the second is empty.  D ranks host neighbouring lanes; each sends the maximal nodes that it can finish
alone.  So the bits of the sum depend on V and never on D.
"""

from dataclasses import dataclass
from functools import cache

Node = tuple[int, int]


def tree_height(V: int) -> int:
    """The smallest k with 2^k >= V: node (k, 0) is the root."""
    return (V - 1).bit_length()


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
    """The D+1 cuts 0 … V between ranks: nobody hosts more than ceil(V/D) lanes, fewest nodes travel.

    Where D divides V all ranks host V/D lanes.  Elsewhere the load of the busiest rank is fixed and the
    freedom left is used to cut where the tree is cut (V = 64, D = 7: 1.9 nodes a rank instead of 3.1).
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


def node_lanes(V: int, node: Node) -> range:
    """The lanes below a node, cut at V."""
    k, i = node
    return range(min(i << k, V), min((i + 1) << k, V))


def maximal_nodes(V: int, lanes: range) -> list[Node]:
    """The fewest nodes that cover exactly `lanes`, in ascending order, each as high as it can be."""
    nodes: list[Node] = []
    start = lanes.start
    while start < lanes.stop:
        k = 0
        while k < tree_height(V):
            above = node_lanes(V, (k + 1, start >> (k + 1)))
            if above.start != start or above.stop > lanes.stop:
                break
            k += 1
        nodes.append((k, start >> k))
        start = node_lanes(V, nodes[-1]).stop
    return nodes


def parent(V: int, node: Node) -> Node | None:
    """The node above, None for the root."""
    k, i = node
    return (k + 1, i >> 1) if k < tree_height(V) else None


def sibling(V: int, node: Node) -> Node | None:
    """The other child of the node above; None for the root and where the other child is empty."""
    k, i = node
    other = (k, i ^ 1)
    return other if k < tree_height(V) and len(node_lanes(V, other)) > 0 else None


@dataclass(frozen=True)
class UnevenCost:
    """What one D costs beside the cheap case.

    nodes_per_rank:   partial sums that each rank sends.
    lanes_per_rank:   lanes that each rank computes.
    buffers:          gradient buffers of the busiest rank, `.grad` included.
    idle_share:       share of all ranks' compute time spent waiting for the busiest rank, 0 … 1.
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
    finished: list[Node] = []
    most = 0
    for lane in lanes:
        most = max(most, len(finished) + 1)
        finished = fold(V, lanes, finished, lane)
    return max(most, len(finished))


def fold(V: int, lanes: range, finished: list[Node], lane: int) -> list[Node]:
    """The nodes held after `lane` is finished: equal heights merge as in a binary counter."""
    held = [*finished, (0, lane)]
    while (above := merged(V, lanes, held)) is not None:
        held = above
    return held


def merged(V: int, lanes: range, held: list[Node]) -> list[Node] | None:
    """`held` with its last node raised once: joined with its sibling, or alone where that is empty."""
    above = parent(V, held[-1])
    if above is None:
        return None
    if sibling(V, held[-1]) is None:
        covered = node_lanes(V, above)
        return [*held[:-1], above] if covered.start >= lanes.start else None
    if len(held) > 1 and held[-2] == sibling(V, held[-1]) and parent(V, held[-2]) == above:
        return [*held[:-2], above]
    return None
