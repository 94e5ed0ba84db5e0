"""The gradient reduction of `replicate`: lanes are added up in buffers, buckets are sent while the last lane is computed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llmrun.core.lanes import buffers_needed, lanes_of_rank
from llmrun.core.reduce.exchange import Exchange, exchange_of
from llmrun.core.reduce.layout import BUCKET_ELEMENTS, FlatLayout, buckets_of
from llmrun.core.reduce.tree import TreeMerge, maximal_nodes


class Reduction:
    """Gradients of V lanes added in one tree, for every D.

    Use: for each lane of `lanes`: `begin_lane`, the backward passes in order, `end_lane`; `expect_last_pass` before the
    last pass of the step; then `finish` once.  In the last pass buckets are sent as soon as their gradients are
    complete, always in the same order.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, rank: int, device: torch.device
    ) -> None:
        self.lanes = lanes_of_rank(V, layout.D, rank)
        self.exchange: Exchange = exchange_of(layout, V, rank, device)
        self._folder = LaneFolder(parameters, layout, V, self.lanes)
        self._buckets = buckets_of(layout, BUCKET_ELEMENTS)
        self._bucket_of = {name: i for i, bucket in enumerate(self._buckets) for name in bucket.names}
        self._frozen = {slot.name for slot in layout.slots if slot.is_frozen}
        self._missing: list[set[str]] | None = None
        self._started = 0
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                continue
            parameter.register_post_accumulate_grad_hook(self._on_gradient(name))  # type: ignore[no-untyped-call]

    def begin_lane(self, lane: int) -> None:
        """Start a lane with all gradients +0.0."""
        self._folder.begin_lane(lane)

    def expect_last_pass(self) -> None:
        """Announce that the next backward pass completes the gradients."""
        self._missing = [set(bucket.names) - self._frozen for bucket in self._buckets]
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

    def _on_gradient(self, name: str) -> Callable[[Tensor], None]:
        """The hook that autograd calls after the gradient of a parameter was accumulated."""

        def hook(_: Tensor) -> None:
            if self._missing is None:
                return
            self._missing[self._bucket_of[name]].discard(name)
            while self._started < len(self._buckets) and not self._missing[self._started]:
                self._start_next()

        return hook

    def _start_next(self) -> None:
        """Merge the next bucket and start sending it."""
        part = self._buckets[self._started].part
        self.exchange.start(part, self._folder.fold_range(part))
        self._started += 1


class LaneFolder:
    """The gradient buffers of one rank, in which its lanes are added up.

    `.grad` of every parameter is a view into one of a few flat buffers.  Autograd adds the micro-batches of a lane into
    a buffer that starts at +0.0; a finished lane is merged with its sibling, or waits for it in its buffer.  k
    neighbouring lanes need about log2(k)+1 buffers, one lane needs one.  The last lane is merged range by range, so
    that one range can be sent while the rest is still computed.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], layout: FlatLayout, V: int, lanes: range) -> None:
        device = next(iter(parameters.values())).device
        self._V, self._lanes = V, lanes
        self._parameters = [parameters[slot.name] for slot in layout.slots]
        self._buffers = [
            torch.zeros(layout.total, dtype=torch.float32, device=device)
            for _ in range(buffers_needed(V, lanes))
        ]
        self._views = [_views(buffer, layout) for buffer in self._buffers]
        self._free = list(range(len(self._buffers)))
        self._tree: TreeMerge[int] = TreeMerge(V, lanes)  # values: indexes into _buffers
        self._current = 0
        self._last_additions: list[tuple[int, int]] = []

    def begin_lane(self, lane: int) -> None:
        """Point `.grad` of every parameter at a buffer of zeros."""
        self._current = self._free.pop()
        self._buffers[self._current].zero_()
        for parameter, view in zip(self._parameters, self._views[self._current], strict=True):
            parameter.grad = view
        if lane == self._lanes[-1]:
            self._last_additions = self._tree.append((0, lane), self._current)

    def end_lane(self, lane: int) -> None:
        """Merge the finished lane with its sibling if that is there; the last lane only in `fold_range`."""
        if lane == self._lanes[-1]:
            return
        for parameter, view in zip(self._parameters, self._views[self._current], strict=True):
            assert parameter.grad is view, "a gradient was replaced instead of added to"
        for left, right in self._tree.append((0, lane), self._current):
            self._buffers[left].add_(self._buffers[right])
            self._free.append(right)

    def fold_range(self, part: slice) -> list[Tensor]:
        """Merge the last lane over a range of the flat buffer whose gradients are complete.

        Returns this range of each of the rank's maximal nodes, ascending; valid until `release`.
        """
        for left, right in self._last_additions:
            self._buffers[left][part].add_(self._buffers[right][part])
        return [self._buffers[i][part] for i in self._tree.values]

    def release(self) -> None:
        """All ranges were merged and sent: the buffers are free for the next step."""
        assert self._tree.nodes == maximal_nodes(self._V, self._lanes)
        self._free = list(range(len(self._buffers)))
        self._tree = TreeMerge(self._V, self._lanes)
        self._last_additions = []


def _views(buffer: Tensor, layout: FlatLayout) -> Sequence[Tensor]:
    """Each parameter's gradient inside a flat buffer."""
    return [buffer[slot.start : slot.start + slot.numel].view(slot.shape) for slot in layout.slots]
