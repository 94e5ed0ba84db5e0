"""Random generators as pure functions of the seed and of logical numbers."""

import random

import numpy as np
import torch

from llmrun.model.generators import seed_torch
from llmrun.streams import seed_of, stream_key


def seed_everything(key: bytes) -> None:
    """Set every generator to a stream: random, numpy, torch, and all CUDA devices."""
    random.seed(seed_of(key))
    np.random.seed(seed_of(key, n_bytes=4))  # noqa: NPY002
    seed_torch(key)


def seed_boundary(seed: int, step: int) -> None:
    """Set every generator for the boundary after `step` finished steps: the same on every rank and D."""
    seed_everything(stream_key(seed, "boundary", step))


def seed_micro_batch(seed: int, step: int, micro_batch: int) -> None:
    """Set torch's generators for the dropout of one micro-batch of the step with index `step` (0-based)."""
    seed_torch(stream_key(seed, "dropout", step, micro_batch))


def generator_states() -> dict[str, np.ndarray]:
    """The state of every generator, as arrays that a checkpoint can hold.

    torch: [5056] uint8; numpy: [624] uint32 and its position; random: [625] uint32.  The CUDA generators'
    seed and offset follow from the boundary key, so that a state read on another number of GPUs compares.
    """
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(state, dict)
    assert (state["bit_generator"], state["has_gauss"]) == ("MT19937", 0)
    words, position = state["state"]["key"], state["state"]["pos"]
    return {
        "torch": torch.random.get_rng_state().numpy().copy(),
        "numpy": np.asarray(words, dtype=np.uint32).copy(),
        "numpy_position": np.array([position], dtype=np.uint32),
        "random": np.array(random.getstate()[1], dtype=np.uint32),
    }
