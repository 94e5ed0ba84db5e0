"""The fixed binary tree in which V values are added: the losses by micro-batch, the gradients by lane (no torch).

Node (k, i) covers the lanes [i·2^k, (i+1)·2^k) cut at V, and is node (k-1, 2i) plus node (k-1, 2i+1), or the first
alone if the second is empty.  The order is the result: whoever adds the nodes, wherever they are added, the bits of
the root depend on V alone.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Node = tuple[int, int]
Value = TypeVar("Value")


class TreeMerge(Generic[Value]):
    """Nodes that are taken in ascending order and merged with their siblings as a binary counter.

    lanes:  the lanes that are to be covered; nothing is merged beyond them.
    nodes:  the nodes held, ascending; after the last lane they are `maximal_nodes(V, lanes)`.
    values: their sums, or whatever stands for them.
    """

    def __init__(self, V: int, lanes: range) -> None:
        self._V, self._lanes = V, lanes
        self.nodes: list[Node] = []
        self.values: list[Value] = []

    def append(self, node: Node, value: Value) -> list[tuple[Value, Value]]:
        """Take the next node and raise it as far as it goes.

        Returns the additions `left += right` that the caller must do, in this order; `right` is free afterwards.
        """
        self.nodes.append(node)
        self.values.append(value)
        additions = []
        while (above := self._parent_of_last()) is not None:
            if len(self.nodes) > 1 and self.nodes[-2] == sibling(self._V, self.nodes[-1]):
                right = self.values.pop()
                additions.append((self.values[-1], right))
                self.nodes.pop()
            self.nodes[-1] = above
        return additions

    def _parent_of_last(self) -> Node | None:
        """The node above the last one if all its lanes were taken, else None."""
        last = self.nodes[-1]
        above = parent(self._V, last)
        if above is None:
            return None
        other = sibling(self._V, last)
        if other is None:
            return above if node_lanes(self._V, above).start >= self._lanes.start else None
        return above if len(self.nodes) > 1 and self.nodes[-2] == other else None


def finish_tree(V: int, nodes: "Iterable[tuple[Node, Tensor]]") -> "Tensor":
    """The root of the tree over V lanes from nodes that cover all lanes, ascending.

    nodes: tensors of one shape; they are overwritten.
    """
    merge: TreeMerge[Tensor] = TreeMerge(V, range(V))
    for node, values in nodes:
        for left, right in merge.append(node, values):
            left.add_(right)
    assert len(merge.values) == 1, f"nodes do not cover the lanes: {merge.nodes}"
    return merge.values[0]


def tree_sum(values: Sequence[float]) -> float:
    """The float64 sum of `values` in the tree over their indexes."""
    level = [float(value) for value in values]
    while len(level) > 1:
        pairs = [left + right for left, right in zip(level[0::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def tree_height(V: int) -> int:
    """The smallest k with 2^k >= V: node (k, 0) is the root."""
    return (V - 1).bit_length()


def node_lanes(V: int, node: Node) -> range:
    """The lanes below a node, cut at V."""
    k, i = node
    return range(min(i << k, V), min((i + 1) << k, V))


def parent(V: int, node: Node) -> Node | None:
    """The node above, None for the root."""
    k, i = node
    return (k + 1, i >> 1) if k < tree_height(V) else None


def sibling(V: int, node: Node) -> Node | None:
    """The other child of the node above; None for the root and if the other child is empty."""
    k, i = node
    other = (k, i ^ 1)
    return other if k < tree_height(V) and len(node_lanes(V, other)) > 0 else None


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
