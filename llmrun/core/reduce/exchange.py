"""How nodes travel to the owners of their shards, and updated shards to everybody."""

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
    """Moves bytes between ranks.  Every implementation gives the same bits."""

    def start(self, part: slice, nodes: list[Tensor]) -> None:
        """Send a range of the flat buffer on its way.

        nodes: this rank's maximal nodes over the range, ascending; not to be touched before `finish`.
        All ranks start the same ranges in the same order.
        """
        ...

    def finish(self) -> Tensor:
        """The tree's root over all ranges on this rank's shard: [shard_size], float32."""
        ...

    def gather(self, flat: Tensor) -> None:
        """Fill `flat` [total] with every rank's own shard of it."""
        ...


class Alone:
    """One rank: nothing travels, and its only node is the root."""

    def __init__(self) -> None:
        self._root: Tensor | None = None

    def start(self, part: slice, nodes: list[Tensor]) -> None:  # noqa: ARG002
        """The whole buffer at once."""
        (self._root,) = nodes

    def finish(self) -> Tensor:
        """The root itself."""
        assert self._root is not None
        return self._root

    def gather(self, flat: Tensor) -> None:
        """Nothing to do."""


@dataclass
class _Message:
    """One range under way: what arrives in each round, and the work that brings it."""

    part: slice
    rounds: list[tuple[Tensor, dist.Work]]


class AllToAll:
    """Each round every rank sends its next node, cut at the shards, straight to their owners."""

    def __init__(self, layout: FlatLayout, V: int, rank: int, device: torch.device) -> None:
        self._layout, self._V, self._rank = layout, V, rank
        self._nodes: list[list[Node]] = [
            maximal_nodes(V, lanes_of_rank(V, layout.D, r)) for r in range(layout.D)
        ]
        self._n_rounds = max(len(nodes) for nodes in self._nodes)
        self._gradient = torch.zeros(layout.shard_size, dtype=torch.float32, device=device)
        self._nothing = torch.empty(0, dtype=torch.float32, device=device)
        self._arrivals: dict[tuple[int, int], Tensor] = {}
        self._under_way: list[_Message] = []

    def start(self, part: slice, nodes: list[Tensor]) -> None:
        """See `Exchange.start`."""
        overlaps = [len(self._overlap(part, owner)) for owner in range(self._layout.D)]
        message = _Message(part, [])
        for t in range(self._n_rounds):
            sending = t < len(nodes)
            sizes = [overlaps[self._rank] if len(self._nodes[r]) > t else 0 for r in range(self._layout.D)]
            received = self._arrival(part.start, t, sum(sizes))
            work = dist.all_to_all_single(
                received,
                nodes[t] if sending else self._nothing,
                output_split_sizes=sizes,
                input_split_sizes=overlaps if sending else [0] * self._layout.D,
                async_op=True,
            )
            message.rounds.append((received, work))
        self._under_way.append(message)

    def finish(self) -> Tensor:
        """See `Exchange.finish`."""
        own = self._layout.shard(self._rank)
        for message in self._under_way:
            for _, work in message.rounds:
                work.wait()
            here = self._overlap(message.part, self._rank)
            if len(here):
                root = finish_tree(self._V, self._arrived(message, len(here)))
                self._gradient[here.start - own.start : here.stop - own.start].copy_(root)
        self._under_way = []
        return self._gradient

    def gather(self, flat: Tensor) -> None:
        """Every rank's shard to every rank, in place."""
        shard = self._layout.shard(self._rank)
        all_gather(flat, flat[shard.start : shard.stop].clone())

    def _arrived(self, message: _Message, size: int) -> list[tuple[Node, Tensor]]:
        """All ranks' nodes over this rank's part of a range, ascending."""
        found: dict[Node, Tensor] = {}
        for t, (received, _) in enumerate(message.rounds):
            sent = [nodes[t] for nodes in self._nodes if len(nodes) > t]
            found |= dict(zip(sent, received.view(-1, size), strict=True))
        return [(node, found[node]) for nodes in self._nodes for node in nodes]

    def _overlap(self, part: slice, owner: int) -> range:
        """The elements of a range that `owner` owns."""
        shard = self._layout.shard(owner)
        start = max(part.start, shard.start)
        return range(start, max(start, min(part.stop, shard.stop)))

    def _arrival(self, start: int, t: int, size: int) -> Tensor:
        """Memory for what arrives in a round of a range; kept for the next step."""
        if (start, t) not in self._arrivals:
            self._arrivals[start, t] = torch.empty(size, dtype=torch.float32, device=self._gradient.device)
        return self._arrivals[start, t]


def exchange_of(layout: FlatLayout, V: int, rank: int, device: torch.device) -> Exchange:
    """The exchange for this many ranks."""
    return Alone() if layout.D == 1 else AllToAll(layout, V, rank, device)
