"""The engine that runs the order of sums: lanes in, this rank's shard of the gradient sum out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmrun.core.lanes import lanes_of_rank
from llmrun.core.reduce.exchange import Exchange, exchange_of
from llmrun.core.reduce.layout import BUCKET_ELEMENTS, FlatLayout, buckets_of
from llmrun.core.reduce.tree import LaneFolder


class Reduction:
    """Gradients of V lanes added in one tree, whatever D is.

    Use: for each lane of `lanes`: `begin_lane`, passes in order, `end_lane`; `expect_last_pass` before the very
    last one; then `finish` once.  In the last pass buckets travel as soon as their gradients are complete:
    always in the same order, whichever is complete first.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, rank: int, device: torch.device
    ) -> None:
        self.lanes = lanes_of_rank(V, layout.D, rank)
        self.exchange: Exchange = exchange_of(layout, V, rank, device)
        self._folder = LaneFolder(parameters, layout, V, self.lanes)
        self._buckets = buckets_of(layout, BUCKET_ELEMENTS)
        self._bucket_of = {name: i for i, bucket in enumerate(self._buckets) for name in bucket.names}
        self._missing: list[set[str]] | None = None
        self._started = 0
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(self._complete(name))  # type: ignore[no-untyped-call]

    def begin_lane(self, lane: int) -> None:
        """Start a lane with all gradients +0.0."""
        self._folder.begin_lane(lane)

    def expect_last_pass(self) -> None:
        """The next backward pass completes the gradients."""
        self._missing = [set(bucket.names) for bucket in self._buckets]
        self._started = 0

    def end_lane(self, lane: int) -> None:
        """Finish a lane."""
        self._folder.end_lane(lane)

    def finish(self) -> Tensor:
        """The sum over all lanes on this rank's shard: [shard_size], float32; valid until the next lane."""
        assert self._missing is not None
        self._missing = None
        while self._started < len(self._buckets):
            self._start_next()
        root = self.exchange.finish()
        self._folder.release()
        return root

    def _complete(self, name: str) -> Callable[[Tensor], None]:
        """What autograd calls when the gradient of a parameter was added in a pass."""

        def hook(_: Tensor) -> None:
            if self._missing is None:
                return
            self._missing[self._bucket_of[name]].discard(name)
            while self._started < len(self._buckets) and not self._missing[self._started]:
                self._start_next()

        return hook

    def _start_next(self) -> None:
        """Fold the next bucket and send it on its way."""
        part = self._buckets[self._started].part
        self.exchange.start(part, self._folder.fold_range(part))
        self._started += 1
