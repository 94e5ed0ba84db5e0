"""What a rank hands over to be saved: a private copy of the state at a step boundary."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrun.checkpoint.dtypes import DTYPES, numel
from llmrun.checkpoint.layout import ATTEMPT_PATTERN, KIND_PATTERN, group_of


@dataclass(frozen=True, eq=False)
class Piece:
    """One rank's part of one tensor.

    name, kind:  of the whole tensor; kind is one of layout.KINDS.
    dtype:       the safetensors name of the element type, such as F32.
    shape:       of the whole tensor.
    start:       index of the first element of `values` in the flattened tensor.
    values:      1-D, contiguous, of the numpy type that carries dtype (BF16: uint16).  Not empty, except
                 for a tensor without elements.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    values: npt.NDArray[np.generic]

    def __post_init__(self) -> None:
        assert KIND_PATTERN.fullmatch(self.kind), self.kind
        assert self.values.ndim == 1, self.name
        assert self.values.flags.c_contiguous, self.name
        assert self.values.itemsize == DTYPES[self.dtype].itemsize, self.name
        assert self.values.size > 0 or numel(self.shape) == 0, f"{self.name}: empty piece"
        assert 0 <= self.start <= numel(self.shape) - self.values.size, self.name

    @property
    def whole(self) -> bool:
        """Whether this rank holds all elements of the tensor."""
        return self.values.size == numel(self.shape)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state after `step` finished optimizer steps, as far as one rank saves it.

    attempt:           names this save, agreed by all ranks, never used for another save of the same step.
    tokens:            tokens seen.  fingerprint, parts, chain: sha256s in hex.
    trainer:           trainer.json; finite JSON values only.  Written by rank 0.
    rng:               random states by name, of any shape.  Written by rank 0.
    model, optimizer:  this rank's pieces; either may be empty.
    digests:           the 64-bit digest of each of some pieces; those of all pieces of a tensor add up mod 2^64.
                       Called on another thread, while the values are written.
    """

    step: int
    attempt: str
    tokens: int
    fingerprint: str
    parts: Mapping[str, str]
    chain: str
    trainer: Mapping[str, Any]
    rng: Mapping[str, npt.NDArray[np.generic]]
    model: Sequence[Piece]
    optimizer: Sequence[Piece]
    digests: Callable[[Sequence[Piece]], Sequence[int]]

    def __post_init__(self) -> None:
        assert self.step >= 0
        assert ATTEMPT_PATTERN.fullmatch(self.attempt), self.attempt
        assert all(group_of(piece.kind) == "model" for piece in self.model)
        assert all(group_of(piece.kind) == "optimizer" for piece in self.optimizer)

    @property
    def nbytes(self) -> int:
        """Bytes of this rank's tensors, without headers."""
        return sum(piece.values.nbytes for piece in (*self.model, *self.optimizer))
