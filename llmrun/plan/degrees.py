"""What each D costs: the same bits for every D from 1 to V, but not the same time and memory."""

from typing import NamedTuple

from llmrun.core.batch import Batch, divisors
from llmrun.core.lanes import cost_of

GPUS_OF_A_NODE = 8
MOST_WORK = 1_000_000
"""Steps of the search for the best cuts that a row may take: about half a second."""


class Degree(NamedTuple):
    """One D.

    A:           accumulation steps, None where D does not divide M.   A_largest: of the busiest rank.
    cheap:       all ranks host the same number of lanes.
    idle_share:  share of all ranks' compute time spent waiting for the busiest rank.
    sums_sent:   partial sums that a rank sends in the mean; a cheap D that is V/2^k sends one.
                 None where finding the best cuts takes too long.
    buffers:     gradient buffers of the busiest rank, `.grad` included; None as before.
    """

    D: int
    A: int | None
    A_largest: int
    cheap: bool
    idle_share: float
    sums_sent: float | None
    buffers: int | None


def degree(batch: Batch, D: int) -> Degree:
    """What sharing the lanes of `batch` among D ranks costs."""
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


def search_work(V: int, D: int) -> int:
    """Steps that the search for the best cuts takes at most: ranks, starts of a rank, and its ends."""
    most = -(-V // D)
    slack = D * most - V
    return D * (slack + 1) * min(most, slack + 1)


def degrees_shown(batch: Batch) -> list[int]:
    """The D worth a row: every D that divides V, and what is left when a GPU, a node or a half is lost."""
    V, D = batch.V, batch.D
    cheap = divisors(V, V)
    if len(cheap) > 12:
        powers = [d for d in cheap if V // d & (V // d - 1) == 0]
        cheap = powers[-12:]
    lost = [D - 1, D - GPUS_OF_A_NODE, D - D // 4]
    return sorted({*cheap, D, *(d for d in lost if d >= 1), min(V, D + 1)})


def degree_table(batch: Batch) -> list[Degree]:
    """One row for each D worth showing, ascending."""
    return [degree(batch, D) for D in degrees_shown(batch)]
