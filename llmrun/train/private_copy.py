"""A private copy of a rank's state: what is written in the background is the state of one step boundary."""

from collections.abc import Sequence

import torch
from torch import Tensor

from llmrun.checkpoint.snapshot import Piece
from llmrun.ledger.digest import Digester, words_of
from llmrun.reduce.layout import Share
from llmrun.train.digests import DTYPE
from llmrun.train.optimizer import MOMENTS
from llmrun.train.state import TrainingState

WEIGHTS = "weights"


class PrivateCopy:
    """Host buffers for a rank's weights and moments, made and touched once and used again for every save.

    A copy into pages that were never touched takes five times as long; on CUDA the memory is pinned.
    model, optimizer: the pieces that a checkpoint's files hold, views of the buffers.
    """

    def __init__(self, state: TrainingState) -> None:
        names = (WEIGHTS, *MOMENTS)
        size = state.strategy.share.size
        on_cuda = state.device.type == "cuda"
        buffers = torch.empty((len(names), size), dtype=torch.float32, pin_memory=on_cuda).zero_()
        self._buffers = dict(zip(names, buffers, strict=True))
        self._device = state.device
        share = state.strategy.share
        self.model = _pieces(share, "parameter", "", self._buffers[WEIGHTS])
        self.optimizer = [
            piece
            for name in MOMENTS
            for piece in _pieces(share, f"optimizer/{name}", f".{name}", self._buffers[name])
        ]

    def take(self, state: TrainingState) -> None:
        """Copy the state as it is now; returns when the copy is complete.  No save may be reading the last one."""
        shards = {WEIGHTS: state.strategy.weights, **state.optimizer.moments}
        for name, buffer in self._buffers.items():
            buffer.copy_(shards[name].detach(), non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _pieces(share: Share, kind: str, suffix: str, buffer: Tensor) -> list[Piece]:
    """This rank's pieces of one kind of tensor."""
    values = buffer.numpy()
    return [
        Piece(
            name=piece.slot.name + suffix,
            kind=kind,
            dtype=DTYPE,
            shape=piece.slot.shape,
            start=piece.start,
            values=values[piece.own_start : piece.own_start + piece.count],
        )
        for piece in share.pieces
    ]


def digests_of(pieces: Sequence[Piece]) -> list[int]:
    """The digest of each piece as it stands in the copy."""
    digester = Digester(torch.device("cpu"))
    return digester.digests([words_of(torch.from_numpy(piece.values), piece.start) for piece in pieces])
