"""Checkpoints written in the background: host buffers with a rank's state, and the thread that writes them.

The buffers hold the state of one step boundary, so the loop may continue while they are written.  One save at a time;
no collectives.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrun.core.state import DTYPE, WEIGHTS, StateShard, TrainingState
from llmrun.core.tensor_digest import Digester, words_of
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import temporary_name
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.writer import commit, save_rank


class HostBuffers:
    """Host memory for a rank's weights and moments, allocated and touched once and used again for every save.

    A copy into pages that were never touched takes five times as long; on CUDA the memory is pinned.
    model, optimizer: the pieces that a checkpoint's files hold, views of the buffers.
    """

    def __init__(self, state: TrainingState) -> None:
        shards = state.shards
        self._device = state.device
        on_cuda = state.device.type == "cuda"
        self._buffers = {
            suffix: torch.empty(len(shard.values), dtype=torch.float32, pin_memory=on_cuda).zero_()
            for suffix, shard in shards.items()
        }
        self.model = _pieces(shards[WEIGHTS], WEIGHTS, self._buffers[WEIGHTS])
        self.optimizer = [
            piece
            for suffix, buffer in self._buffers.items()
            if suffix != WEIGHTS
            for piece in _pieces(shards[suffix], suffix, buffer)
        ]

    def copy_from(self, state: TrainingState) -> None:
        """Copy the state as it is now; returns when the copy is complete.  No save may be reading the buffers."""
        shards = state.shards
        for suffix, buffer in self._buffers.items():
            buffer.copy_(shards[suffix].values.detach(), non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _pieces(shard: StateShard, suffix: str, buffer: Tensor) -> list[TensorPiece]:
    """This rank's pieces of the weights or of one moment."""
    values = buffer.numpy()
    return [
        TensorPiece(
            name=piece.slot.name + suffix,
            kind="parameter" if suffix == WEIGHTS else f"optimizer/{suffix.removeprefix('.')}",
            dtype=DTYPE,
            shape=piece.slot.shape,
            start=piece.start,
            values=values[piece.own_start : piece.own_start + piece.count],
        )
        for piece in shard.pieces
    ]


def digests_of(pieces: Sequence[TensorPiece]) -> list[int]:
    """The 64-bit digest of each piece."""
    digester = Digester(torch.device("cpu"))
    return digester.digests([words_of(torch.from_numpy(piece.values), piece.start) for piece in pieces])


COMMIT_TIMEOUT_S = 1800.0
"""How long rank 0 waits for the other ranks' files: as long as a collective would."""

CLOSE_TIMEOUT_S = 15.0
"""The same if this rank ends because something failed: the launcher gives it little more."""

POLL_S = 0.02

BACKGROUND_NICENESS = 10
"""Threads of a save give way to training if there are fewer cores than threads."""

PENDING, COMMITTED, FAILED = 0, -1, -2
"""Status of a save, as an integer for all ranks; above 0 it is the errno of the failure."""


@dataclass
class _Save:
    """One save on this rank.

    part:        this rank's own files.
    whole:       rank 0: the committed checkpoint.
    given_up:    rank 0: ranks that failed, whose files need not be awaited.
    committed_s: rank 0: reading of time.monotonic when the checkpoint was committed.
    """

    snapshot: StateSnapshot
    part: Future[None] = field(default_factory=Future)
    whole: Future[Path] = field(default_factory=Future)
    given_up: dict[int, CheckpointWriteError] = field(default_factory=dict)
    committed_s: float | None = None


class AsyncWriter:
    """Writes one rank's checkpoints on a thread.  Rank 0 also commits, when the files of all ranks are there.

    Rank 0's callbacks, all on that thread:
    before_commit: between its own files and the commit.
    confirm:       right before the checkpoint gets its final name.
    after_commit:  with the snapshot that was committed.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        world: int,
        before_commit: Callable[[], None],
        confirm: Callable[[], None],
        after_commit: Callable[[StateSnapshot], None],
    ) -> None:
        self._directory, self._rank, self._world = directory, rank, world
        self._before_commit, self._confirm, self._after_commit = before_commit, confirm, after_commit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver", initializer=_lower_priority)
        self._save: _Save | None = None
        self._work: Future[None] | None = None

    def start(self, snapshot: StateSnapshot) -> None:
        """Start to write a snapshot, whose values must not change until `wait` has returned."""
        assert self._work is None or self._work.done()
        self._save = _Save(snapshot)
        self._work = self._pool.submit(self._write, self._save)

    def run(self, work: Callable[[], None]) -> None:
        """Run something else on the thread, before the first save."""
        assert self._work is None
        self._work = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until nothing is being written.  Raises what the thread did not expect: a bug."""
        if self._work is not None:
            self._work.result()

    def part_status(self) -> int:
        """Wait for this rank's own files; returns their status."""
        return PENDING if self._save is None else _status_of(self._save.part)

    def status(self, *, block: bool) -> int:
        """Status of the save: on rank 0 as a whole, elsewhere PENDING or why the rank's own files failed.

        Raises what the thread did not expect: a bug.
        """
        if self._save is None:
            return PENDING
        if self._work is not None and self._work.done():
            self._work.result()
        future = self._save.whole if self._rank == 0 else self._save.part
        status = _status_of(future) if block or future.done() else PENDING
        return PENDING if self._rank and status == COMMITTED else status

    def failure(self) -> CheckpointWriteError | None:
        """Rank 0: why the save failed; None if it did not, and on other ranks."""
        if self._save is None or not self._save.whole.done():
            return None
        error = self._save.whole.exception()
        return error if isinstance(error, CheckpointWriteError) else None

    @property
    def committed_s(self) -> float | None:
        """Rank 0: reading of time.monotonic when the save was committed; None before."""
        return None if self._save is None else self._save.committed_s

    def give_up(self, rank: int, cause: CheckpointWriteError) -> None:
        """Rank 0: stop waiting for the report of a rank that failed; it may have no room to write one."""
        if self._save is not None:
            self._save.given_up = {**self._save.given_up, rank: cause}

    def forget(self) -> None:
        """Drop the save: all ranks know its status."""
        self._save = None

    def close(self) -> None:
        """Finish what is being written, whatever ended this rank, but do not wait long for other ranks."""
        if self._save is None:
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        wait_for([self._save.part])
        if self._rank == 0:
            wait_for([self._save.whole], timeout=max(0.0, deadline - time.monotonic()))
            return
        # A rank that ends early ends the others too, and rank 0 has not committed yet.
        hidden = self._directory / temporary_name(self._save.snapshot.step, self._save.snapshot.attempt)
        while hidden.exists() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _write(self, save: _Save) -> None:
        """On the thread: write this rank's files; on rank 0 also commit, and what follows."""
        with _failing(save.part, save.whole):
            try:
                save_rank(self._directory, save.snapshot, self._rank, self._world)
                save.part.set_result(None)
            except CheckpointWriteError as error:
                save.given_up = {**save.given_up, self._rank: error}
                save.part.set_exception(error)
        if self._rank > 0:
            return
        with _failing(save.whole):
            try:
                self._before_commit()
            except CheckpointWriteError as error:
                save.given_up = {**save.given_up, self._rank: error}
            try:
                path = commit(
                    self._directory,
                    save.snapshot,
                    self._world,
                    COMMIT_TIMEOUT_S,
                    given_up=lambda: save.given_up,
                    confirm=self._confirm,
                )
            except CheckpointWriteError as error:
                save.whole.set_exception(error)
                return
        save.committed_s = time.monotonic()
        save.whole.set_result(path)
        self._after_commit(save.snapshot)


@contextmanager
def _failing(*futures: Future[Any]) -> Iterator[None]:
    """Fail these futures too with an exception that nobody expected, so that whoever waits for them gets it."""
    try:
        yield
    except BaseException as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
        raise


def _status_of(future: Future[None] | Future[Path]) -> int:
    """Wait for a part of a save; returns its status."""
    error = future.exception()
    if error is None:
        return COMMITTED
    if isinstance(error, CheckpointWriteError) and error.errno is not None:
        return error.errno
    return FAILED


def _lower_priority() -> None:
    """Lower the priority of this thread, and of those that it starts."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICENESS)
