"""Saves in the background: a copy of the rank's state in host buffers, and the thread that writes it.

The copy is of one step boundary, so the loop may go on while it is written.  One save at a time; no collectives.
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

from llmrun.core.digest import Digester, words_of
from llmrun.core.optimizer import MOMENTS
from llmrun.core.reduce.layout import Share
from llmrun.core.state import DTYPE, TrainingState
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import temporary_name
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.writer import commit, save_rank

WEIGHTS = "weights"


class HostBuffers:
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


def _pieces(share: Share, kind: str, suffix: str, buffer: Tensor) -> list[TensorPiece]:
    """This rank's pieces of one kind of tensor."""
    values = buffer.numpy()
    return [
        TensorPiece(
            name=piece.slot.name + suffix,
            kind=kind,
            dtype=DTYPE,
            shape=piece.slot.shape,
            start=piece.start,
            values=values[piece.own_start : piece.own_start + piece.count],
        )
        for piece in share.pieces
    ]


def digests_of(pieces: Sequence[TensorPiece]) -> list[int]:
    """The digest of each piece as it stands in the copy."""
    digester = Digester(torch.device("cpu"))
    return digester.digests([words_of(torch.from_numpy(piece.values), piece.start) for piece in pieces])


COMMIT_TIMEOUT_S = 1800.0
"""How long rank 0 waits for the other ranks' files: as long as a collective would."""

LEAVE_TIMEOUT_S = 15.0
"""The same where this rank ends because something failed: the launcher gives it little more."""

POLL_S = 0.02

BACKGROUND_NICENESS = 10
"""Threads of a save give way to training where there are fewer cores than threads."""

NOTHING, COMMITTED, FAILED = 0, -1, -2
"""How a save stands, as an integer for all ranks; above 0 it is the system's number of the failure."""


@dataclass
class _Save:
    """One save on this rank.  whole, committed_s: of rank 0; the second a reading of time.monotonic."""

    snapshot: StateSnapshot
    part: Future[None] = field(default_factory=Future)
    whole: Future[Path] = field(default_factory=Future)
    given_up: dict[int, CheckpointWriteError] = field(default_factory=dict)
    committed_s: float | None = None


class Saver:
    """Saves on one rank.  Rank 0 also commits, when the files of all ranks are there.

    before_commit: rank 0's, between its own files and the commit; confirm: right before the final name is given;
    after_commit: rank 0's.  All run on the thread of the save.
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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver", initializer=_give_way)
        self._save: _Save | None = None
        self._work: Future[None] | None = None

    def start(self, snapshot: StateSnapshot) -> None:
        """Begin to write a snapshot, whose values nobody changes until `wait` has returned."""
        assert self._work is None or self._work.done()
        self._save = _Save(snapshot)
        self._work = self._pool.submit(self._write, self._save)

    def do(self, work: Callable[[], None]) -> None:
        """Do something else on the thread, before the next save."""
        assert self._work is None
        self._work = self._pool.submit(work)

    def wait(self) -> None:
        """Wait until nothing is being written.  Raises what the thread did not expect: a bug."""
        if self._work is not None:
            self._work.result()

    def part_code(self) -> int:
        """Wait for this rank's own files; how that went."""
        return NOTHING if self._save is None else _code_of(self._save.part)

    def verdict_code(self, *, block: bool) -> int:
        """How the save stands: on rank 0 as a whole, elsewhere only whether the own files failed.

        Raises what the thread did not expect: a bug.
        """
        if self._save is None:
            return NOTHING
        if self._work is not None and self._work.done():
            self._work.result()
        future = self._save.whole if self._rank == 0 else self._save.part
        code = _code_of(future) if block or future.done() else NOTHING
        return NOTHING if self._rank and code == COMMITTED else code

    def failure(self) -> CheckpointWriteError | None:
        """Rank 0: why the save failed; None elsewhere, and where it did not."""
        if self._save is None or not self._save.whole.done():
            return None
        error = self._save.whole.exception()
        return error if isinstance(error, CheckpointWriteError) else None

    @property
    def committed_s(self) -> float | None:
        """Rank 0: reading of time.monotonic when the save was committed; None before."""
        return None if self._save is None else self._save.committed_s

    def give_up(self, rank: int, cause: CheckpointWriteError) -> None:
        """Rank 0: another rank failed and may have no room to report it; do not wait for it."""
        if self._save is not None:
            self._save.given_up = {**self._save.given_up, rank: cause}

    def forget(self) -> None:
        """The save's verdict is known to all ranks."""
        self._save = None

    def leave(self) -> None:
        """Where this rank ends: finish what is being written, but wait for no other rank for long."""
        if self._save is None:
            return
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        wait_for([self._save.part])
        if self._rank == 0:
            wait_for([self._save.whole], timeout=max(0.0, deadline - time.monotonic()))
            return
        # A rank that ends early takes the others with it, and rank 0 has yet to commit.
        hidden = self._directory / temporary_name(self._save.snapshot.step, self._save.snapshot.attempt)
        while hidden.exists() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _write(self, save: _Save) -> None:
        """On the thread: this rank's files, then, on rank 0, the commit and what follows."""
        with _told_to(save.part, save.whole):
            try:
                save_rank(self._directory, save.snapshot, self._rank, self._world)
                save.part.set_result(None)
            except CheckpointWriteError as error:
                save.given_up = {**save.given_up, self._rank: error}
                save.part.set_exception(error)
        if self._rank > 0:
            return
        with _told_to(save.whole):
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
def _told_to(*futures: Future[Any]) -> Iterator[None]:
    """Whoever waits for these learns of an exception that nobody expected; it also ends the work."""
    try:
        yield
    except BaseException as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
        raise


def _code_of(future: Future[None] | Future[Path]) -> int:
    """Wait for a part of a save and say how it went."""
    error = future.exception()
    if error is None:
        return COMMITTED
    if isinstance(error, CheckpointWriteError) and error.errno is not None:
        return error.errno
    return FAILED


def _give_way() -> None:
    """Lower the priority of this thread, and of those that it starts."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICENESS)
