"""Holm's correction: many comparisons, one error rate for all of them."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the order given: those at most alpha may be acted on together.

    The chance that any true hypothesis is among them is at most alpha, however they depend on each other
    (Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 65-70).
    """
    n = len(p_values)
    adjusted = [0.0] * n
    largest = 0.0
    for rank, place in enumerate(sorted(range(n), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (n - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
