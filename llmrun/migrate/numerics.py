"""Initial values, digests and random states, computed exactly as training does (torch)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llmrun.core.digest import Digester, words_of
from llmrun.core.generators import generator_states, seed_boundary
from llmrun.core.model.initialise import initialise
from llmrun.storage.checkpoint.parts import TensorPiece


def initial_value(name: str, shape: tuple[int, ...], seed: int, n_layers: int) -> npt.NDArray[np.float32]:
    """The initial values of one parameter, float32."""
    parameter = nn.Parameter(torch.empty(shape, dtype=torch.float32))
    initialise(name, parameter, seed, n_layers)
    return parameter.detach().numpy()


def digests_of(pieces: Sequence[TensorPiece]) -> list[int]:
    """The 64-bit digest of each piece."""
    return _digester().digests([words_of(torch.from_numpy(piece.values), piece.start) for piece in pieces])


@cache
def _digester() -> Digester:
    """The digester, whose tables are computed once."""
    return Digester(torch.device("cpu"))


def boundary_states(seed: int, step: int) -> dict[str, np.ndarray]:
    """The random states after `step` finished steps.  Seeds all generators of this process."""
    seed_boundary(seed, step)
    return generator_states()
