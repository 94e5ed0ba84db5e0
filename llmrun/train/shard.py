"""Strategy `shard`: weights, gradients and optimizer state sharded by FSDP2, with our order of sums.

Which lanes a rank hosts is operational: here lanes r, r+D, r+2D, …, one slot after the other.  D = 1 has
nothing to shard: `strategy_of` takes `replicate` there.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from llmrun.config.resolve import Resolved
from llmrun.lanes import strided_lanes
from llmrun.model.initialise import Fill, initial_values
from llmrun.model.transformer import Transformer
from llmrun.plan.parameters import parameter_shapes
from llmrun.reduce.layout import Slot, flat_layout, row_share
from llmrun.reduce.scatter import TreeReduceScatter
from llmrun.train.strategy import Read


class ShardedModel:
    """A model under FSDP2, block by block, and this rank's rows of every parameter in one flat buffer.

    FSDP2 cuts whole rows; the optimizer wants pieces at multiples of 64 elements: so the rows are copied to
    `weights` [share.size], float32, updated there, and copied back.
    """

    def __init__(self, resolved: Resolved, rank: int, device: torch.device) -> None:
        config, batch = resolved.config, resolved.batch
        self.slots = flat_layout(parameter_shapes(resolved.shape), batch.D).slots
        self.share = row_share(self.slots, batch.D, rank)
        self.weights = torch.zeros(self.share.size, dtype=torch.float32, device=device)
        self.model: nn.Module = self._build(resolved, device)
        self._parameters = dict(self.model.named_parameters())
        fill = initial_values(config.seed, resolved.shape.n_layers)
        self.load(_reader_of(fill))
        self._gradient = torch.zeros_like(self.weights)
        self.lanes = strided_lanes(batch.V, batch.D, rank)
        for group in self.groups():
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)
            group.set_reduce_scatter_unused_params(True)

    def _build(self, resolved: Resolved, device: torch.device) -> nn.Module:
        """The model, sharded before it has memory: no rank ever holds all of it."""
        with torch.device("meta"):
            model = Transformer(
                resolved.shape, recompute_blocks=resolved.config.activation_checkpointing == "block"
            )
        mesh = init_device_mesh(device.type, (resolved.batch.D,))
        for block in model.model.layers:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh)
        positions = model.model.positions
        del model.model.positions  # its tables are real already, and `to_empty` would empty them
        model.to_empty(device=device)
        model.model.positions = positions.to(device)
        return model

    def groups(self) -> list[FSDPModule]:
        """The modules whose parameters travel together."""
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
        """Nothing to do: FSDP2 starts without gradients."""

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:  # noqa: ARG002
        """Within a lane gradients are added where they are; its last pass reduces them."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(ends_lane)

    def end_lane(self, lane: int | None) -> None:
        """Nothing to do: the reduction took the lane in the backward pass."""

    def finish(self) -> Tensor:
        """The gradients that FSDP2 left, as one flat buffer [share.size]; they are gone afterwards."""
        for piece in self.share.pieces:
            gradient = self._parameters[piece.slot.name].grad
            assert gradient is not None, "FSDP2 reduced no gradient"
            own = self._gradient[piece.own_start : piece.own_start + piece.count]
            own.copy_(_local(gradient).reshape(-1))
        for parameter in self._parameters.values():
            parameter.grad = None
        return self._gradient

    def graph_parameters(self) -> list[nn.Parameter]:
        """FSDP2 runs on gathered weights that are gone after the pass."""
        return []

    def passes(self, count: int) -> int:
        """FSDP2 gathers weights in every pass, so all ranks run equally many."""
        D = torch.distributed.get_world_size()
        return -(-count // D)


class Shard(ShardedModel):
    """FSDP2 with its reduce-scatter replaced: the bits of the tree, one exchange a slot."""

    def __init__(self, resolved: Resolved, rank: int, device: torch.device) -> None:
        super().__init__(resolved, rank, device)
        for group in self.groups():
            group.set_custom_reduce_scatter(TreeReduceScatter(resolved.batch.V))


def _local(tensor: Tensor) -> Tensor:
    """This rank's rows."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def _reader_of(fill: Fill) -> Read:
    """Initial values of a parameter, one parameter in memory at a time."""
    whole: dict[str, Tensor] = {}

    def read(slot: Slot, start: int, count: int) -> Tensor:
        if slot.name not in whole:
            whole.clear()
            parameter = nn.Parameter(torch.empty(slot.shape, dtype=torch.float32))
            fill(slot.name, parameter)
            whole[slot.name] = parameter.detach().view(-1)
        return whole[slot.name][start : start + count]

    return read
