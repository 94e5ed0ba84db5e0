"""Folding the lanes that a rank hosts, as a binary counter over flat gradient buffers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmrun.lanes import Node, buffers_needed, merged
from llmrun.reduce.layout import FlatLayout


class LaneFolder:
    """Gradient memory of one rank: `.grad` of every parameter is a view into one of a few flat buffers.

    A lane is added up by autograd in a buffer that starts at +0.0; a finished lane merges with its sibling
    or waits for it in its buffer.  k neighbouring lanes need about log2(k)+1 buffers, one lane needs one.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, lanes: range) -> None:
        device = next(iter(parameters.values())).device
        self.V, self.lanes = V, lanes
        self._parameters = [parameters[slot.name] for slot in layout.slots]
        self._buffers = [
            torch.zeros(layout.total, dtype=torch.float32, device=device)
            for _ in range(buffers_needed(V, lanes))
        ]
        self._views = [_views(buffer, layout) for buffer in self._buffers]
        self._free = list(range(len(self._buffers)))
        self._held: list[Node] = []
        self._held_buffers: list[int] = []
        self._current: int | None = None

    def begin_lane(self) -> None:
        """Point `.grad` of every parameter at a buffer of zeros."""
        assert self._current is None
        self._current = self._free.pop()
        self._buffers[self._current].zero_()
        for parameter, view in zip(self._parameters, self._views[self._current], strict=True):
            parameter.grad = view

    def end_lane(self, lane: int) -> None:
        """Take the finished lane, merging while its sibling is there."""
        assert self._current is not None
        for parameter, view in zip(self._parameters, self._views[self._current], strict=True):
            assert parameter.grad is view, "a gradient was replaced instead of added to"
        self._held.append((0, lane))
        self._held_buffers.append(self._current)
        self._current = None
        while (above := merged(self.V, self.lanes, self._held)) is not None:
            if len(above) < len(self._held):
                right = self._held_buffers.pop()
                self._buffers[self._held_buffers[-1]].add_(self._buffers[right])
                self._free.append(right)
            self._held = above

    def take_nodes(self) -> list[tuple[Node, Tensor]]:
        """The maximal nodes of this rank, ascending, each [layout.total], float32; valid until the next lane."""
        nodes = [(node, self._buffers[i]) for node, i in zip(self._held, self._held_buffers, strict=True)]
        self._free += self._held_buffers
        self._held, self._held_buffers = [], []
        return nodes


def _views(buffer: Tensor, layout: FlatLayout) -> Sequence[Tensor]:
    """Each parameter's gradient inside a flat buffer."""
    return [buffer[slot.start : slot.start + slot.numel].view(slot.shape) for slot in layout.slots]
