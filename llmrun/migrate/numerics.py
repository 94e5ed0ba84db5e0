"""Initial values, digests and random states, computed exactly as training does (torch)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmrun.core.generators import generator_states, seed_boundary
from llmrun.core.model.spec import ModelSpec
from llmrun.core.tensor_digest import Digester, words_of
from llmrun.storage.checkpoint.parts import TensorPiece


def initial_value(model: ModelSpec, name: str, seed: int) -> NDArray[np.float32]:
    """The initial values of one parameter, float32."""
    parameter = nn.Parameter(torch.empty(model.parameters[name], dtype=torch.float32))
    model.initialise(name, parameter, seed)
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
