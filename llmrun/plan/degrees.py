"""The cost of each D from 1 to V: the bits are the same, time and memory are not."""

from typing import NamedTuple

from llmrun.core.batch import Batch, divisors
from llmrun.core.lanes import UnevenCost, cost_of

GPUS_OF_A_NODE = 8
MOST_WORK = 1_000_000
"""Most steps of the search for the best split of lanes, about half a second."""


class Degree(NamedTuple):
    """One D.

    A:           accumulation steps, None if D does not divide M.   A_largest: of the busiest rank.
    cheap:       all ranks have the same number of lanes.
    idle_share:  share of all ranks' time spent waiting for the busiest rank, 0 … 1.
    sums_sent:   partial sums that a rank sends on average, 1 for D = V/2^k;
                 None if finding the best split takes too long.
    buffers:     gradient buffers of the busiest rank with `.grad`; None as for sums_sent.
    """

    D: int
    A: int | None
    A_largest: int
    cheap: bool
    idle_share: float
    sums_sent: float | None
    buffers: int | None


def degree(batch: Batch, D: int) -> Degree:
    """The cost of sharing the lanes of `batch` among D ranks."""
    V = batch.V
    most = -(-V // D)
    sums_sent, buffers = None, None
    if search_work(V, D) <= MOST_WORK:
        cost = cost_of(V, D)
        sums_sent, buffers = sum(cost.nodes_per_rank) / D, cost.buffers
    return Degree(
        D=D,
        A=batch.with_D(D).A,
        A_largest=most * batch.micro_batches_per_lane,
        cheap=V % D == 0,
        idle_share=1.0 - V / (D * most),
        sums_sent=sums_sent,
        buffers=buffers,
    )


def micro_batches_per_rank(batch: Batch, lanes: UnevenCost) -> tuple[int, int]:
    """The fewest and the most micro-batches that a rank computes in one step."""
    per_lane = batch.micro_batches_per_lane
    return min(lanes.lanes_per_rank) * per_lane, max(lanes.lanes_per_rank) * per_lane


def search_work(V: int, D: int) -> int:
    """Upper bound of the search for the best split: ranks times starts times ends of a rank."""
    most = -(-V // D)
    slack = D * most - V
    return D * (slack + 1) * min(most, slack + 1)


def degrees_shown(batch: Batch) -> list[int]:
    """The D worth a row: those that divide V, and what is left after losing a GPU, a node or a quarter."""
    V, D = batch.V, batch.D
    cheap = divisors(V, V)
    if len(cheap) > 12:
        powers = [d for d in cheap if V // d & (V // d - 1) == 0]
        cheap = powers[-12:]
    lost = [D - 1, D - GPUS_OF_A_NODE, D - D // 4]
    return sorted({*cheap, D, *(d for d in lost if d >= 1), min(V, D + 1)})


def degree_table(batch: Batch) -> list[Degree]:
    """The rows of `degrees_shown`, ascending."""
    return [degree(batch, D) for D in degrees_shown(batch)]
