"""Which rank owns which whole matrix (no torch)."""

from collections.abc import Mapping


def owners_of(costs: Mapping[str, int], D: int) -> dict[str, int]:
    """The rank that owns each matrix: the most costly first, each to the rank with the least work so far.

    costs: work per matrix.  Ties go to the first matrix and the lowest rank, so all ranks find the same owners.  The
    busiest rank has at most 4/3 - 1/(3·D) of the least possible (Graham 1969, doi 10.1137/0117039).
    """
    work = [0] * D
    owners = {}
    for name in sorted(costs, key=lambda name: -costs[name]):
        owners[name] = work.index(min(work))
        work[owners[name]] += costs[name]
    return owners
