"""The engine that runs the order of sums: lanes in, this rank's shard of the gradient sum out."""

import torch
from torch import Tensor, nn

from llmrun.lanes import lanes_of_rank
from llmrun.reduce.exchange import Exchange, exchange_of
from llmrun.reduce.fold import LaneFolder
from llmrun.reduce.layout import FlatLayout


class Reduction:
    """Gradients of V lanes added in one tree, whatever D is.

    Use: for each lane of `lanes`: `begin_lane`, backward passes in order, `end_lane`; then `finish` once.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, rank: int, device: torch.device
    ) -> None:
        self.lanes = lanes_of_rank(V, layout.D, rank)
        self.exchange: Exchange = exchange_of(layout, V, rank, device)
        self._folder = LaneFolder(parameters, layout, V, self.lanes)
        self._shard = layout.shard(rank)

    def begin_lane(self) -> None:
        """Start a lane with all gradients +0.0."""
        self._folder.begin_lane()

    def end_lane(self, lane: int) -> None:
        """Finish a lane."""
        self._folder.end_lane(lane)

    def finish(self) -> Tensor:
        """The sum over all lanes on this rank's shard: [shard_size], float32; valid until the next lane."""
        return self.exchange.reduce(self._folder.take_nodes())
