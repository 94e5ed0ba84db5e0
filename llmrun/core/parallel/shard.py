"""Strategy `shard`: weights, gradients and optimizer state sharded by FSDP2, with the tree's order of sums.

Rank r hosts lanes r, r+D, r+2D, …, one slot after the other.  FSDP2 reduces a parameter group's gradients after every
slot; the pieces of all ranks arrive by one all-to-all and are added in the tree of lanes, so that at most log2(V) + 1
buffers of the shard's size are held.  At D = 1 there is nothing to shard: `strategy_of` takes `replicate`.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import DTensor

from llmrun.core.lanes import strided_lanes
from llmrun.core.model.build import Fill, initial_values, shared_parameters
from llmrun.core.parallel.base import Read, layout_of
from llmrun.core.reduce.layout import FlatLayout, Share, Slot
from llmrun.core.reduce.tree import TreeMerge
from llmrun.core.training_spec import TrainingSpec


class TreeReduceScatter(ReduceScatter):
    """The reduction of one parameter group over the V lanes of a step."""

    def __init__(self, V: int) -> None:
        self._V = V
        self._tree: TreeMerge[Tensor] = TreeMerge(V, range(V))
        self._next_lane = 0

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Memory for an input or an output (`ReduceScatter.allocate`)."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        """Add one slot: input [D·n] of this rank's lane; output [n] is the root after the last slot, before that 0."""
        assert op == dist.ReduceOp.SUM, "FSDP2 would scale the gradients"
        assert not async_op
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        lanes = range(self._next_lane, min(self._next_lane + group.size(), self._V))
        for lane, values in zip(lanes, received.view(group.size(), -1), strict=False):
            # A lane counts from +0.0: -0.0 cannot come from a gradient's absence.
            for left, right in self._tree.append((0, lane), values.add_(0.0)):
                left.add_(right)
        self._next_lane = lanes.stop
        if lanes.stop == self._V:
            (root,) = self._tree.values
            output_tensor.copy_(root)
            self._tree, self._next_lane = TreeMerge(self._V, range(self._V)), 0
        else:
            # The sums are views of `received`: keep the nodes, not the whole buffer.
            self._tree.values = [values.clone() for values in self._tree.values]
            output_tensor.zero_()


class ShardedModel:
    """A model under FSDP2, block by block, and this rank's rows of every parameter in one flat buffer.

    FSDP2 cuts whole rows, while the optimizer needs pieces at multiples of 64 elements: so the rows are copied to
    `weights` [share.size], float32, updated there, and copied back.
    """

    def __init__(self, spec: TrainingSpec, rank: int, device: torch.device) -> None:
        batch = spec.batch
        self.layout: FlatLayout = layout_of(spec)
        self.slots = self.layout.slots
        self.share = self.share_of(rank)
        self.weights = torch.zeros(self.share.size, dtype=torch.float32, device=device)
        self.model: nn.Module = self._build(spec, device)
        self._parameters = dict(self.model.named_parameters())
        self.load(_reader_of(initial_values(spec.model, spec.seed)))
        self._gradient = torch.zeros_like(self.weights)
        self.lanes = strided_lanes(batch.V, batch.D, rank)
        for group in self.groups():
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)
            if hasattr(
                group, "set_reduce_scatter_unused_params"
            ):  # torch >= 2.13; before, all must have gradients
                group.set_reduce_scatter_unused_params(True)

    def _build(self, spec: TrainingSpec, device: torch.device) -> nn.Module:
        """The model, sharded before it has memory: no rank ever holds all of it."""
        model = spec.model.build(recompute_blocks=spec.recompute_blocks)
        mesh = init_device_mesh(device.type, (spec.batch.D,))
        for name in spec.model.blocks:
            fully_shard(model.get_submodule(name), mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh)
        buffers = dict(model.named_buffers())
        shared = shared_parameters(model)
        model.to_empty(device=device)
        for name, values in buffers.items():  # they were filled before, and `to_empty` replaced them
            model.get_buffer(name).copy_(values)
        for name, first in shared.items():  # `to_empty` gave each name memory of its own
            holder, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(holder), attribute, model.get_parameter(first))
        return model

    def share_of(self, rank: int) -> Share:
        """See `Strategy.share_of`."""
        return self.layout.row_share(rank)

    def groups(self) -> list[FSDPModule]:
        """The modules whose parameters are gathered and reduced together."""
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def load(self, read: Read) -> None:
        """See `Strategy.load`: only this rank's rows are read."""
        for piece in self.share.pieces:
            own = self.weights[piece.own_start : piece.own_start + piece.count]
            own.copy_(read(piece.slot, piece.start, piece.count))
        self.publish()

    def publish(self) -> None:
        """See `Strategy.publish`: FSDP2 gathers the rows itself when a block runs."""
        with torch.no_grad():
            for piece in self.share.pieces:
                rows = _local(self._parameters[piece.slot.name])
                own = self.weights[piece.own_start : piece.own_start + piece.count]
                rows.copy_(own.view(rows.shape))

    def begin_lane(self, lane: int | None) -> None:
        """Nothing to do: `finish` freed the gradients."""

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:  # noqa: ARG002
        """Reduce in a lane's last pass only; within a lane gradients are added unsharded."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(ends_lane)

    def end_lane(self, lane: int | None) -> None:
        """Nothing to do: the reduction took the lane in the backward pass."""

    def finish(self) -> Tensor:
        """See `Strategy.finish`.  Frees the gradients that FSDP2 left."""
        for piece in self.share.pieces:
            own = self._gradient[piece.own_start : piece.own_start + piece.count]
            if piece.slot.is_frozen:
                own.zero_()
                continue
            gradient = self._parameters[piece.slot.name].grad
            assert gradient is not None, "FSDP2 reduced no gradient"
            own.copy_(_local(gradient).reshape(-1))
        for parameter in self._parameters.values():
            parameter.grad = None
        return self._gradient

    def graph_parameters(self) -> list[nn.Parameter]:
        """See `Strategy.graph_parameters`: gathered weights are freed after the pass."""
        return []

    def passes(self, count: int) -> int:
        """See `Strategy.passes`: FSDP2 gathers weights in every pass, so all ranks run the same number."""
        D = torch.distributed.get_world_size()
        return -(-count // D)


class Shard(ShardedModel):
    """FSDP2 with its reduce-scatter replaced: the bits of the tree, one exchange per slot."""

    def __init__(self, spec: TrainingSpec, rank: int, device: torch.device) -> None:
        super().__init__(spec, rank, device)
        for group in self.groups():
            group.set_custom_reduce_scatter(TreeReduceScatter(spec.batch.V))


def _local(tensor: Tensor) -> Tensor:
    """This rank's rows."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def _reader_of(fill: Fill) -> Read:
    """Reads initial values, with one whole parameter in memory at a time."""
    whole: dict[str, Tensor] = {}

    def read(slot: Slot, start: int, count: int) -> Tensor:
        if slot.name not in whole:
            whole.clear()
            parameter = nn.Parameter(torch.empty(slot.shape, dtype=torch.float32))
            fill(slot.name, parameter)
            whole[slot.name] = parameter.detach().view(-1)
        return whole[slot.name][start : start + count]

    return read
