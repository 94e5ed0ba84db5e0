"""Whole matrices at their owners: gathered from the pieces of all ranks, and given back.  Changes no bit."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from llmrun.core.reduce.layout import SharePiece, Slot


class WholeMatrices:
    """Applies a function to whole matrices whose elements are spread over ranks: one all-to-all there, one back.

    slots:  the matrices.  owners: as of `owners.owners_of`.
    pieces: by rank, what it holds of them, as `Share.pieces_in`.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        owners: Mapping[str, int],
        pieces: Sequence[Sequence[SharePiece]],
        rank: int,
    ) -> None:
        ranks = range(len(pieces))
        self._owned = [slot for slot in slots if owners[slot.name] == rank]
        self._sent = [[p for p in pieces[rank] if owners[p.slot.name] == owner] for owner in ranks]
        self._received = [[p for p in pieces[r] if owners[p.slot.name] == rank] for r in ranks]

    def apply(self, values: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        """Replace each matrix by function(matrix), in place.  A collective.

        values:   this rank's pieces, [n]; what lies between pieces is left alone.
        function: on the owner, [rows, columns] contiguous and in memory of its own -> the same shape.
        """
        sent = [values[p.own_start : p.own_start + p.count] for p in _all(self._sent)]
        received = _exchange(sent, self._sent, self._received, values)
        whole = {
            slot.name: torch.empty(slot.shape, dtype=values.dtype, device=values.device)
            for slot in self._owned
        }
        for piece, part in zip(_all(self._received), received, strict=True):
            whole[piece.slot.name].view(-1)[piece.start : piece.start + piece.count] = part
        del received
        for name, matrix in whole.items():
            whole[name] = function(matrix).reshape(-1)
        back = [whole[p.slot.name][p.start : p.start + p.count] for p in _all(self._received)]
        returned = _exchange(back, self._received, self._sent, values)
        for piece, part in zip(_all(self._sent), returned, strict=True):
            values[piece.own_start : piece.own_start + piece.count] = part


def _all(groups: Sequence[Sequence[SharePiece]]) -> list[SharePiece]:
    return [piece for group in groups for piece in group]


def _exchange(
    parts: Sequence[Tensor],
    outgoing: Sequence[Sequence[SharePiece]],
    incoming: Sequence[Sequence[SharePiece]],
    like: Tensor,
) -> Sequence[Tensor]:
    """Send a part for each piece of `outgoing`, by rank; returns one for each piece of `incoming`."""
    if len(outgoing) == 1:
        return parts
    width = like.element_size()
    sizes_out = [width * sum(piece.count for piece in group) for group in outgoing]
    sizes_in = [width * sum(piece.count for piece in group) for group in incoming]
    received = torch.empty(sum(sizes_in) // width, dtype=like.dtype, device=like.device)
    sent = torch.cat([*parts, like[:0]])
    # As bytes, which every backend moves.
    dist.all_to_all_single(
        received.view(torch.uint8),
        sent.view(torch.uint8),
        output_split_sizes=sizes_in,
        input_split_sizes=sizes_out,
    )
    counts = [piece.count for piece in _all(incoming)]
    ends = list(accumulate(counts))
    return [received[end - count : end] for end, count in zip(ends, counts, strict=True)]
