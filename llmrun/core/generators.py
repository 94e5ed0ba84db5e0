"""Random generators set from stream keys: for a stream of its own, at a step boundary, for a micro-batch."""

import random

import numpy as np
import torch

from llmrun.core.streams import seed_of, stream_key, words_of

_STATE_WORDS = 624
_STATE_OFFSET_BYTES = 24
"""A CPU generator's state: 3 words of 8 bytes (seed, left and seeded, next), then 624 words of 8 bytes."""


def _fresh_state() -> torch.Tensor:
    """The state that `manual_seed(0)` leaves."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(0)
    return generator.get_state()


_FRESH_STATE = _fresh_state()


def cpu_state(key: bytes) -> torch.Tensor:
    """The CPU generator state of a stream.  [5056], uint8.

    The CPU generator keeps only the low 32 bits of a seed, so its 624 state words are set themselves, to
    SHAKE-256(key).  torch refuses a state of another size, and test vectors hold the layout.
    """
    state = _FRESH_STATE.clone()
    words = torch.frombuffer(bytearray(words_of(key, _STATE_WORDS)), dtype=torch.int32).to(torch.int64)
    stop = _STATE_OFFSET_BYTES + 8 * _STATE_WORDS
    state[_STATE_OFFSET_BYTES:stop] = (words & 0xFFFFFFFF).view(torch.uint8)
    return state


def cpu_generator(seed: int, *names: str | int) -> torch.Generator:
    """A new CPU generator for the stream `[seed, *names]`."""
    generator = torch.Generator(device="cpu")
    generator.set_state(cpu_state(stream_key(seed, *names)))
    return generator


def seed_torch(key: bytes) -> None:
    """Set torch's default generators, the CPU's and those of all CUDA devices, to a stream.

    Does not initialise CUDA: loader workers may still have to be forked.
    """
    torch.default_generator.set_state(cpu_state(key))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed_of(key))


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
    """The state of every generator, as arrays for a checkpoint.

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
