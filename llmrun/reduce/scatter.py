"""An ordered reduce-scatter for FSDP2: each slot's lanes are folded into the tree on the shards.

FSDP2 reduces the gradients of one group of parameters after every slot `a`, in which rank r ran lane a·D + r.
The pieces of all ranks arrive by one all-to-all; the lanes are added in the same tree as everywhere else, one
node at a time, so that at most log2(V) + 1 buffers of the shard's size are held.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter

from llmrun.lanes import Node, merged


class TreeReduceScatter(ReduceScatter):
    """The reduction of one parameter group over the V lanes of a step."""

    def __init__(self, V: int) -> None:
        self._V = V
        self._held: list[Node] = []
        self._sums: list[Tensor] = []
        self._next_lane = 0

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Memory for an input or an output."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        """Take one slot: input [D·n] of this rank's lane; output [n] is the root after the last slot, else 0."""
        assert op == dist.ReduceOp.SUM, "FSDP2 would scale the gradients"
        assert not async_op
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        lanes = range(self._next_lane, min(self._next_lane + group.size(), self._V))
        for lane, values in zip(lanes, received.view(group.size(), -1), strict=False):
            self._take(lane, values)
        self._next_lane = lanes.stop
        if lanes.stop == self._V:
            assert len(self._sums) == 1
            output_tensor.copy_(self._sums[0])
            self._held, self._sums, self._next_lane = [], [], 0
        else:
            # What is held are views of `received`: keep the nodes, not the whole buffer.
            self._sums = [s.clone() for s in self._sums]
            output_tensor.zero_()

    def _take(self, lane: int, values: Tensor) -> None:
        """Fold one lane.  A lane counts from +0.0: -0.0 cannot come from a gradient's absence."""
        self._held.append((0, lane))
        self._sums.append(values.add_(0.0))
        while (above := merged(self._V, range(self._V), self._held)) is not None:
            if len(above) < len(self._held):
                right = self._sums.pop()
                self._sums[-1].add_(right)
            self._held = above
