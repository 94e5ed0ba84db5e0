"""Strategy `replicate`: all weights on every rank, optimizer state sharded over the flat buffer."""

import torch
from torch import Tensor, nn

from llmrun.core.model.build import build, initial_values
from llmrun.core.parallel.base import Read, layout_of
from llmrun.core.reduce.layout import FlatLayout, Share
from llmrun.core.reduce.reduction import Reduction
from llmrun.core.training_spec import TrainingSpec


class FlatWeights:
    """A model whose parameters are views into one flat buffer, cut into equal shards.

    flat: [layout.total], float32.
    """

    def __init__(self, spec: TrainingSpec, rank: int, device: torch.device) -> None:
        self.layout: FlatLayout = layout_of(spec)
        self.slots = self.layout.slots
        self.share = self.share_of(rank)
        self.flat = torch.zeros(self.layout.total, dtype=torch.float32, device=device)
        shard = self.layout.shard(rank)
        self.weights = self.flat[shard.start : shard.stop]
        self.model: nn.Module = self._build(spec, device)

    def _build(self, spec: TrainingSpec, device: torch.device) -> nn.Module:
        """The model with its initial weights."""
        starts = {slot.name: slot.start for slot in self.slots}

        def place(name: str, shape: torch.Size) -> Tensor:
            return self.flat[starts[name] : starts[name] + shape.numel()].view(shape)

        fill = initial_values(spec.model, spec.seed)
        model = build(spec.model, place, fill, recompute_blocks=spec.recompute_blocks).to(device)
        for name, parameter in model.named_parameters():
            assert parameter.data_ptr() == self.flat[starts[name] :].data_ptr(), "a weight was moved"
        return model

    def share_of(self, rank: int) -> Share:
        """See `Strategy.share_of`."""
        return self.layout.share(rank)

    def load(self, read: Read) -> None:
        """See `Strategy.load`."""
        for slot in self.slots:
            self.flat[slot.start : slot.start + slot.numel].copy_(read(slot, 0, slot.numel))

    def graph_parameters(self) -> list[nn.Parameter]:
        """See `Strategy.graph_parameters`."""
        return list(self.model.parameters())

    def passes(self, count: int) -> int:  # noqa: ARG002
        """No forward pass is a collective."""
        return 0


class Replicate(FlatWeights):
    """Neighbouring lanes on each rank, added up before they are exchanged: one exchange per step."""

    def __init__(self, spec: TrainingSpec, rank: int, device: torch.device) -> None:
        super().__init__(spec, rank, device)
        parameters = dict(self.model.named_parameters())
        self._reduction = Reduction(parameters, self.layout, spec.batch.V, rank, device)
        self.lanes = self._reduction.lanes

    def begin_lane(self, lane: int | None) -> None:
        """See `Strategy.begin_lane`."""
        assert lane is not None
        self._reduction.begin_lane(lane)

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:  # noqa: ARG002
        """Autograd adds into the lane's buffer; in the last pass gradients are sent as they become complete."""
        if ends_step:
            self._reduction.expect_last_pass()

    def end_lane(self, lane: int | None) -> None:
        """See `Strategy.end_lane`."""
        assert lane is not None
        self._reduction.end_lane(lane)

    def finish(self) -> Tensor:
        """See `Strategy.finish`."""
        return self._reduction.finish()

    def publish(self) -> None:
        """See `Strategy.publish`."""
        self._reduction.exchange.gather(self.flat)
