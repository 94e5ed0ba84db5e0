"""The fixed binary tree in which the V lane sums are added, and the folding of a rank's own lanes."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from llmrun.core.lanes import Node, buffers_needed, maximal_nodes, merged
from llmrun.core.reduce.layout import FlatLayout


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


class LaneFolder:
    """Gradient memory of one rank: `.grad` of every parameter is a view into one of a few flat buffers.

    A lane is added up by autograd in a buffer that starts at +0.0; a finished lane merges with its sibling
    or waits for it in its buffer.  k neighbouring lanes need about log2(k)+1 buffers, one lane needs one.
    The last lane is folded range by range, so that a range can travel while the rest is still computed.

    nodes: the maximal nodes of this rank, ascending: what is left when all lanes are folded.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, lanes: range) -> None:
        device = next(iter(parameters.values())).device
        self.V, self.lanes, self.nodes = V, lanes, maximal_nodes(V, lanes)
        self._parameters = [parameters[slot.name] for slot in layout.slots]
        self._buffers = [
            torch.zeros(layout.total, dtype=torch.float32, device=device)
            for _ in range(buffers_needed(V, lanes))
        ]
        self._views = [_views(buffer, layout) for buffer in self._buffers]
        self._free = list(range(len(self._buffers)))
        self._held: list[Node] = []
        self._held_buffers: list[int] = []
        self._last_merges: list[tuple[int, int]] = []

    def begin_lane(self, lane: int) -> None:
        """Point `.grad` of every parameter at a buffer of zeros."""
        current = self._free.pop()
        self._buffers[current].zero_()
        for parameter, view in zip(self._parameters, self._views[current], strict=True):
            parameter.grad = view
        self._held.append((0, lane))
        self._held_buffers.append(current)
        if lane == self.lanes[-1]:
            self._last_merges = self._merge()

    def end_lane(self, lane: int) -> None:
        """Take the finished lane, merging while its sibling is there; the last one only in `fold_range`."""
        if lane == self.lanes[-1]:
            return
        views = self._views[self._held_buffers[-1]]
        for parameter, view in zip(self._parameters, views, strict=True):
            assert parameter.grad is view, "a gradient was replaced instead of added to"
        for left, right in self._merge():
            self._buffers[left].add_(self._buffers[right])
            self._free.append(right)

    def fold_range(self, part: slice) -> list[Tensor]:
        """Fold the last lane over a range of the flat buffer whose gradients are complete.

        Returns this range of every maximal node, ascending; valid until `release`.
        """
        for left, right in self._last_merges:
            self._buffers[left][part].add_(self._buffers[right][part])
        assert self._held == self.nodes
        return [self._buffers[i][part] for i in self._held_buffers]

    def release(self) -> None:
        """All ranges were folded and sent: the buffers are free for the next step."""
        self._free = list(range(len(self._buffers)))
        self._held, self._held_buffers, self._last_merges = [], [], []

    def _merge(self) -> list[tuple[int, int]]:
        """Raise the last node as far as it goes; returns which buffers are to be added, left and right."""
        pairs = []
        while (above := merged(self.V, self.lanes, self._held)) is not None:
            if len(above) < len(self._held):
                right = self._held_buffers.pop()
                pairs.append((self._held_buffers[-1], right))
            self._held = above
        return pairs


def _views(buffer: Tensor, layout: FlatLayout) -> Sequence[Tensor]:
    """Each parameter's gradient inside a flat buffer."""
    return [buffer[slot.start : slot.start + slot.numel].view(slot.shape) for slot in layout.slots]
