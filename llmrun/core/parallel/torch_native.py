"""The strategies of statistical mode: DDP and FSDP2 with torch's own reductions.

Samples, dropout, optimizer, norm and ledger are those of bitwise mode; only the sums are left to torch, so bits depend
on D.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llmrun.core.lanes import lanes_of_rank
from llmrun.core.parallel.replicate import FlatWeights
from llmrun.core.parallel.shard import ShardedModel
from llmrun.core.reduce.collectives import all_gather
from llmrun.core.training_spec import TrainingSpec


class Ddp(FlatWeights):
    """All weights on every rank, gradients all-reduced by DDP while the last backward pass runs."""

    def __init__(self, spec: TrainingSpec, rank: int, device: torch.device) -> None:
        super().__init__(spec, rank, device)
        self.lanes = lanes_of_rank(spec.batch.V, spec.batch.D, rank)
        self._D = spec.batch.D
        self._inner = self.model
        self._parameters = dict(self._inner.named_parameters())
        self._gradient = torch.zeros_like(self.weights)
        self._is_new_step = True
        if self._D > 1:
            device_ids = [device.index] if device.type == "cuda" else None
            # The newer name of the same switch (torch 2.13).  Buffers are tables that never change.
            newer = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
            switches: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
            self.model = DistributedDataParallel(
                self._inner, device_ids=device_ids, gradient_as_bucket_view=True, **switches
            )

    def begin_lane(self, lane: int | None) -> None:  # noqa: ARG002
        """Drop the gradients of the step before."""
        if self._is_new_step:
            self._inner.zero_grad(set_to_none=True)
        self._is_new_step = False

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:  # noqa: ARG002
        """Reduce in the step's last pass only."""
        if isinstance(self.model, DistributedDataParallel):
            self.model.require_backward_grad_sync = ends_step

    def end_lane(self, lane: int | None) -> None:
        """Nothing to do: autograd adds all lanes up."""

    def finish(self) -> Tensor:
        """See `Strategy.finish`.  DDP leaves the mean over ranks."""
        for piece in self.share.pieces:
            own = self._gradient[piece.own_start : piece.own_start + piece.count]
            gradient = self._parameters[piece.slot.name].grad
            if gradient is None:  # it is frozen, or no micro-batch used it
                own.zero_()
                continue
            own.copy_(gradient.view(-1)[piece.start : piece.start + piece.count])
        self._is_new_step = True
        return self._gradient.mul_(self._D)

    def publish(self) -> None:
        """See `Strategy.publish`."""
        if self._D > 1:
            all_gather(self.flat, self.weights.clone())

    def graph_parameters(self) -> list[nn.Parameter]:
        """See `Strategy.graph_parameters`."""
        return list(self._parameters.values())


class NativeShard(ShardedModel):
    """FSDP2 unchanged: sums in the order of its collective."""
