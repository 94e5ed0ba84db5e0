"""The exchange of gradient sums and updated weights between ranks."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from llmrun.core.lanes import lanes_of_rank
from llmrun.core.reduce.collectives import all_gather
from llmrun.core.reduce.layout import FlatLayout
from llmrun.core.reduce.tree import Node, finish_tree, maximal_nodes


class Exchange(Protocol):
    """Sends nodes of the tree to the owners of their shards, and shards to all ranks.  Changes no bit."""

    def start(self, part: slice, nodes: list[Tensor]) -> None:
        """Start to send a range of the flat buffer.

        nodes: this rank's maximal nodes over the range, ascending; they must not change before `finish`.
        All ranks start the same ranges in the same order.
        """
        ...

    def finish(self) -> Tensor:
        """The root of the tree, over all ranges, on this rank's shard: [shard_size], float32."""
        ...

    def gather(self, flat: Tensor) -> None:
        """Fill `flat` [total] with every rank's own shard of it."""
        ...


class NoExchange:
    """One rank: nothing is sent, and its only node is the root."""

    def __init__(self) -> None:
        self._root: Tensor | None = None

    def start(self, part: slice, nodes: list[Tensor]) -> None:  # noqa: ARG002
        """Keep the root; the range is the whole buffer."""
        (self._root,) = nodes

    def finish(self) -> Tensor:
        """See `Exchange.finish`."""
        assert self._root is not None
        return self._root

    def gather(self, flat: Tensor) -> None:
        """See `Exchange.gather`: one rank has all."""


@dataclass
class _Transfer:
    """One range that is being sent: for each round the memory that receives and its pending collective."""

    part: slice
    rounds: list[tuple[Tensor, dist.Work]]


class AllToAll:
    """In each round every rank sends its next node, cut at the shards, directly to their owners."""

    def __init__(self, layout: FlatLayout, V: int, rank: int, device: torch.device) -> None:
        self._layout, self._V, self._rank = layout, V, rank
        self._nodes: list[list[Node]] = [
            maximal_nodes(V, lanes_of_rank(V, layout.D, r)) for r in range(layout.D)
        ]
        self._n_rounds = max(len(nodes) for nodes in self._nodes)
        self._gradient = torch.zeros(layout.shard_size, dtype=torch.float32, device=device)
        self._nothing = torch.empty(0, dtype=torch.float32, device=device)
        self._receive_buffers: dict[tuple[int, int], Tensor] = {}
        self._pending: list[_Transfer] = []

    def start(self, part: slice, nodes: list[Tensor]) -> None:
        """See `Exchange.start`."""
        overlaps = [len(self._overlap(part, owner)) for owner in range(self._layout.D)]
        transfer = _Transfer(part, [])
        for t in range(self._n_rounds):
            sending = t < len(nodes)
            sizes = [overlaps[self._rank] if len(self._nodes[r]) > t else 0 for r in range(self._layout.D)]
            received = self._receive_buffer(part.start, t, sum(sizes))
            work = dist.all_to_all_single(
                received,
                nodes[t] if sending else self._nothing,
                output_split_sizes=sizes,
                input_split_sizes=overlaps if sending else [0] * self._layout.D,
                async_op=True,
            )
            transfer.rounds.append((received, work))
        self._pending.append(transfer)

    def finish(self) -> Tensor:
        """See `Exchange.finish`."""
        own = self._layout.shard(self._rank)
        for transfer in self._pending:
            for _, work in transfer.rounds:
                work.wait()
            here = self._overlap(transfer.part, self._rank)
            if len(here):
                root = finish_tree(self._V, self._received_nodes(transfer, len(here)))
                self._gradient[here.start - own.start : here.stop - own.start].copy_(root)
        self._pending = []
        return self._gradient

    def gather(self, flat: Tensor) -> None:
        """See `Exchange.gather`."""
        shard = self._layout.shard(self._rank)
        all_gather(flat, flat[shard.start : shard.stop].clone())

    def _received_nodes(self, transfer: _Transfer, size: int) -> list[tuple[Node, Tensor]]:
        """All ranks' nodes over this rank's part of a range, ascending."""
        found: dict[Node, Tensor] = {}
        for t, (received, _) in enumerate(transfer.rounds):
            sent = [nodes[t] for nodes in self._nodes if len(nodes) > t]
            found |= dict(zip(sent, received.view(-1, size), strict=True))
        return [(node, found[node]) for nodes in self._nodes for node in nodes]

    def _overlap(self, part: slice, owner: int) -> range:
        """The elements of a range that `owner` owns."""
        shard = self._layout.shard(owner)
        start = max(part.start, shard.start)
        return range(start, max(start, min(part.stop, shard.stop)))

    def _receive_buffer(self, start: int, t: int, size: int) -> Tensor:
        """Memory that receives a round of a range; kept for the next step."""
        if (start, t) not in self._receive_buffers:
            self._receive_buffers[start, t] = torch.empty(
                size, dtype=torch.float32, device=self._gradient.device
            )
        return self._receive_buffers[start, t]


def exchange_of(layout: FlatLayout, V: int, rank: int, device: torch.device) -> Exchange:
    """The exchange for this many ranks."""
    return NoExchange() if layout.D == 1 else AllToAll(layout, V, rank, device)
