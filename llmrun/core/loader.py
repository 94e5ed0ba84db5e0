"""The micro-batches of one rank, in the order in which it runs them.

What a micro-batch holds is a pure function of its logical number: sequence i of micro-batch j of step s is
entry (s·M + j)·sequences + i of the order.  Loader workers only read; they cannot change a bit.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from llmrun.core.batch import Batch
from llmrun.core.order import Entries
from llmrun.core.streams import seed_of, stream_key
from llmrun.core.windows import Split
from llmrun.errors import LlmrunError, error_of


@dataclass(frozen=True)
class MicroBatch:
    """Micro-batch j of the step with index s (0-based).  tokens: [sequences, L_ctx + 1], int32, CPU."""

    step: int
    number: int
    tokens: Tensor


def micro_batches_of_lane(batch: Batch, lane: int | None) -> range:
    """Numbers of the micro-batches whose gradients lane `lane` adds, in order.

    A padding lane (None) runs those of lane 0, which contribute zero.
    """
    per_lane, first = batch.micro_batches_per_lane, lane or 0
    return range(first * per_lane, (first + 1) * per_lane)


class MicroBatches(Dataset[tuple[int, int, Any]]):
    """Every micro-batch of the run, by (step index, number)."""

    def __init__(self, split: Split, order: Entries, batch: Batch) -> None:
        self._split, self._order, self._batch = split, order, batch

    def tokens(self, step: int, number: int) -> Tensor:
        """The tokens of one micro-batch: [sequences, L_ctx + 1], int32."""
        n = self._batch.sequences
        entries = self._order.entries((step * self._batch.M + number) * n, n)
        return torch.from_numpy(np.stack([self._split.window(int(w)) for w in entries]))

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int, Any]:
        """Tokens, or the error of reading them as JSON: an exception would lose its fields in the worker's pipe.

        An array is sent through the pipe.  A tensor would need shared memory and a descriptor; if one of these runs out,
        torch prints that in the worker and the rank waits without end.
        """
        step, number = key
        try:
            return step, number, self.tokens(step, number).numpy()
        except LlmrunError as error:
            return step, number, error.as_json()


class MicroBatchOrder(Sampler[tuple[int, int]]):
    """The (step index, number) pairs that a rank runs, in order."""

    def __init__(self, batch: Batch, lanes: Sequence[int | None], steps: range) -> None:
        self._batch, self._lanes, self._steps = batch, lanes, steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in self._steps:
            for lane in self._lanes:
                for number in micro_batches_of_lane(self._batch, lane):
                    yield step, number


class Loader:
    """Iterates over the micro-batches of one rank.

    Workers are forked when the loader is created, which must be before the process group, the model and CUDA exist: then
    there are no threads that a fork would lose, and no pages to copy.
    """

    def __init__(
        self,
        batches: MicroBatches,
        batch: Batch,
        rank: int,
        lanes: Sequence[int | None],
        steps: range,
        seed: int,
        num_workers: int,
        on_worker_start: Callable[[], None],
    ) -> None:
        """on_worker_start: called first in each worker process."""
        self.batches = batches
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=MicroBatchOrder(batch, lanes, steps),
            num_workers=num_workers,
            collate_fn=_uncollated,
            worker_init_fn=_WorkerStart(seed, rank, on_worker_start) if num_workers else None,
            multiprocessing_context="fork" if num_workers else None,
            generator=torch.Generator(device="cpu"),
            prefetch_factor=2 if num_workers else None,
        )
        self._items = iter(loader)

    def next(self, step: int, number: int) -> MicroBatch:
        """The next micro-batch, which must be this one.  Raises the error of reading it."""
        found_step, found_number, content = next(self._items)
        assert (found_step, found_number) == (step, number), "the loader is out of step"
        if isinstance(content, dict):
            raise error_of(content)
        return MicroBatch(step, number, torch.from_numpy(content))


def _uncollated(item: Any) -> Any:
    """The item unchanged: nothing is collated."""
    return item


@dataclass(frozen=True)
class _WorkerStart:
    """The start of a loader worker."""

    seed: int
    rank: int
    on_start: Callable[[], None]

    def __call__(self, worker: int) -> None:
        """Call `on_start`, then seed the worker's generators."""
        self.on_start()
        key = stream_key(self.seed, "worker", self.rank, worker)
        random.seed(seed_of(key))
        np.random.seed(seed_of(key, n_bytes=4))  # noqa: NPY002
        torch.manual_seed(seed_of(key))
