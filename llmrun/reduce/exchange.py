"""How nodes travel to the owners of their shards, and updated shards to everybody."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from llmrun.lanes import Node, lanes_of_rank, maximal_nodes
from llmrun.reduce.collectives import all_gather
from llmrun.reduce.layout import FlatLayout
from llmrun.reduce.tree import finish_tree


class Exchange(Protocol):
    """Moves bytes between ranks.  Every implementation gives the same bits."""

    def reduce(self, nodes: list[tuple[Node, Tensor]]) -> Tensor:
        """The tree's root on this rank's shard.  nodes: this rank's, each [total]; overwritten.  [shard]."""
        ...

    def gather(self, flat: Tensor) -> None:
        """Fill `flat` [total] with every rank's own shard of it."""
        ...


class Alone:
    """One rank: nothing travels."""

    def __init__(self, V: int) -> None:
        self._V = V

    def reduce(self, nodes: list[tuple[Node, Tensor]]) -> Tensor:
        """The root itself."""
        return finish_tree(self._V, nodes)

    def gather(self, flat: Tensor) -> None:
        """Nothing to do."""


class AllToAll:
    """Each round every rank sends its next node, cut into shards, straight to their owners."""

    def __init__(self, layout: FlatLayout, V: int, rank: int, device: torch.device) -> None:
        self._layout, self._V, self._rank = layout, V, rank
        D = layout.D
        self._nodes = [maximal_nodes(V, lanes_of_rank(V, D, r)) for r in range(D)]
        self._rounds = max(len(nodes) for nodes in self._nodes)
        size = layout.shard_size
        self._received = [
            torch.empty(
                size * sum(len(nodes) > t for nodes in self._nodes), dtype=torch.float32, device=device
            )
            for t in range(self._rounds)
        ]
        self._nothing = torch.empty(0, dtype=torch.float32, device=device)

    def reduce(self, nodes: list[tuple[Node, Tensor]]) -> Tensor:
        """Send, receive, and finish the tree on this rank's shard."""
        D, size = self._layout.D, self._layout.shard_size
        assert [node for node, _ in nodes] == self._nodes[self._rank]
        arrived: dict[Node, Tensor] = {}
        for t, received in enumerate(self._received):
            senders = [r for r in range(D) if len(self._nodes[r]) > t]
            is_sending = t < len(nodes)
            dist.all_to_all_single(
                received,
                nodes[t][1] if is_sending else self._nothing,
                output_split_sizes=[size if r in senders else 0 for r in range(D)],
                input_split_sizes=[size if is_sending else 0] * D,
            )
            for sender, values in zip(senders, received.view(-1, size), strict=True):
                arrived[self._nodes[sender][t]] = values
        ascending = [(node, arrived[node]) for rank_nodes in self._nodes for node in rank_nodes]
        return finish_tree(self._V, ascending)

    def gather(self, flat: Tensor) -> None:
        """Every rank's shard to every rank, in place."""
        shard = self._layout.shard(self._rank)
        own = flat[shard.start : shard.stop].clone()
        all_gather(flat, own)


def exchange_of(layout: FlatLayout, V: int, rank: int, device: torch.device) -> Exchange:
    """The exchange for this many ranks."""
    return Alone(V) if layout.D == 1 else AllToAll(layout, V, rank, device)
