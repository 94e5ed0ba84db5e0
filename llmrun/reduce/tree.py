"""The one binary tree in which lanes are added."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llmrun.lanes import Node, merged


def finish_tree(V: int, nodes: Iterable[tuple[Node, Tensor]]) -> Tensor:
    """The root of the tree over V lanes from nodes that cover all lanes, ascending.

    nodes: tensors of one shape; they are overwritten.  The order is the result: left plus right, a node
    whose sibling is empty rises alone.
    """
    lanes = range(V)
    held: list[Node] = []
    sums: list[Tensor] = []
    for node, values in nodes:
        held.append(node)
        sums.append(values)
        while (above := merged(V, lanes, held)) is not None:
            if len(above) < len(held):
                right = sums.pop()
                sums[-1].add_(right)
            held = above
    assert len(sums) == 1, f"nodes do not cover the lanes: {held}"
    return sums[0]


def tree_sum(values: Sequence[float]) -> float:
    """The float64 sum of numbers in the same tree over their index.

    Used for the losses of the M micro-batches, by micro-batch number.
    """
    level = torch.tensor(values, dtype=torch.float64)
    while len(level) > 1:
        even, odd = level[0::2].clone(), level[1::2]
        even[: len(odd)] += odd
        level = even
    return float(level.item())
