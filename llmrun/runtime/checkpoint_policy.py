"""When checkpoints are saved, and what follows if one cannot be: agreed by all ranks.

A save costs the loop a copy of the state into host buffers.  Files are written in the background; the status of the save
is sent with the next steps' numbers, so that every rank learns it at the same step.  One save at a time: a second that
falls due waits for the first, and one by minutes falls due only if none is being written.
"""

import errno
import time
from typing import Any

from llmrun.config.schema import Config
from llmrun.core.reduce.collectives import gather_integers
from llmrun.core.state import TrainingState
from llmrun.errors import DiskFullError, InputError, OtherRankError
from llmrun.plan.checkpoint_size import checkpoint_bytes
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.async_writer import COMMITTED, FAILED, PENDING, AsyncWriter, HostBuffers
from llmrun.runtime.evaluation import ValidationHistory
from llmrun.runtime.progress import Progress
from llmrun.runtime.recorder import Recorder
from llmrun.runtime.state_dict import snapshot_of
from llmrun.storage.checkpoint.errors import CheckpointWriteError, write_error
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.parts import StateSnapshot
from llmrun.storage.checkpoint.retention import prune, sweep
from llmrun.storage.checkpoint.space import check_room
from llmrun.storage.metrics import names

RETRY_S = 60.0
"""How long after a full disk rank 0 looks again whether there is room, and then from look to look."""

SECONDS_PER_MINUTE = 60.0


class CheckpointPolicy:
    """One segment's saves on one rank."""

    def __init__(
        self,
        run: RunDirectory,
        worker_spec: WorkerSpec,
        config: Config,
        state: TrainingState,
        history: ValidationHistory,
        recorder: Recorder | None,
        progress: Progress,
        fence: Fence,
    ) -> None:
        self._directory, self._worker_spec, self._state = run.checkpoints, worker_spec, state
        self._history, self._recorder, self._progress = history, recorder, progress
        self._config, self._fence = config.checkpoint, fence
        self._buffers = HostBuffers(state) if worker_spec.saves else None
        self._writer = AsyncWriter(
            run.checkpoints, state.rank, state.D, self._before_commit, self._confirm, self._after_commit
        )
        spec = state.spec
        self._bytes = checkpoint_bytes(spec.model.parameters, spec.groups, state.D, spec.strategy)
        self._started_s = time.monotonic()
        self._stall_s = 0.0
        self._cost: dict[str, float | int] = {}
        self._retry_s: float | None = None
        self._is_stopping = False
        self._pending_step: int | None = None
        """The step whose save was started and whose status not all ranks know; the same on every rank."""

    def flags(self) -> list[int]:
        """[whether the clock asks for a save, status of the pending save on this rank]: for all ranks to see."""
        return [int(self._state.rank == 0 and self._is_timer_due()), self._writer.status(block=False)]

    def take_flags(self, rows: list[list[int]], metrics: dict[str, Any]) -> bool:
        """Act on the flags of all ranks, by rank; returns whether the clock asks for a save.

        metrics: of this step; rank 0 adds the cost of a save that was committed since the last step.
        Raises CheckpointWriteError, on every rank alike, if a save failed and training may not continue without it.
        """
        statuses = [status for _, status in rows]
        if self._pending_step is not None:
            self._give_up_on_failed_ranks(statuses)
            self._take_status(statuses[0], required=False)
        metrics |= self._cost
        self._cost = {}
        return any(timer for timer, _ in rows)

    def prune_at_start(self) -> None:
        """Delete what retention does not keep, on rank 0's thread, when every rank has restored its state.

        A segment that ends on a stop signal saves and leaves deleting to the next one: without this a job that is
        preempted before each regular save would keep every checkpoint.  The newest one needs no further reading:
        the launcher has compared every byte of it, and the ranks the digest of every tensor that they loaded.
        """
        if self._state.rank == 0 and self._worker_spec.saves and self._worker_spec.checkpoint is not None:
            best = self._history.as_json(self._state.step)["best_saved_step"]
            self._writer.run(lambda: self._prune(best, verified_step=self._state.step))

    def is_due(self, step: int) -> bool:
        """Whether the number of finished steps asks for a save."""
        every = self._config.every_steps
        return every is not None and step % every == 0

    def save(self, *, required: bool, stopping: bool = False) -> None:
        """Start to save the state as it is.  A collective.

        required: training may not end without it: also wait for the commit.
        stopping: a stop was requested: old checkpoints are deleted by a later save.
        Raises CheckpointWriteError, on every rank alike, if the save fails and training may not continue without it.
        """
        called_s = time.monotonic()
        self._is_stopping = stopping
        self._wait(required=False)
        self._started_s = time.monotonic()
        self._pending_step = self._state.step
        lacking = self._lack_of_room()
        if lacking is not None:
            self._fail(lacking, required=required)
            return
        assert self._buffers is not None
        self._buffers.copy_from(self._state)
        self._writer.start(self._snapshot(self._buffers))
        self._stall_s = time.monotonic() - called_s
        if required:
            self._wait(required=True)

    def close(self) -> None:
        """Finish the save that is being written, whatever ended this rank."""
        self._writer.close()

    def _is_timer_due(self) -> bool:
        """Rank 0: whether the minutes are over, or there is room again after a full disk."""
        now = time.monotonic()
        if self._pending_step is not None:
            return False
        if self._retry_s is not None and now >= self._retry_s:
            self._retry_s = now + RETRY_S
            return self._room() is None
        minutes = self._config.every_minutes
        return minutes is not None and now - self._started_s >= minutes * SECONDS_PER_MINUTE

    def _snapshot(self, buffers: HostBuffers) -> StateSnapshot:
        """The snapshot of the state in the host buffers."""
        chain, smooth = b"", dict[str, float]()
        if self._recorder is not None:
            chain, smooth = self._recorder.ledger.chain, self._recorder.smooth.state()
        return snapshot_of(self._state, buffers, self._worker_spec, chain, self._history, smooth)

    def _room(self) -> CheckpointWriteError | None:
        """Rank 0: why one more checkpoint does not fit on the disk; None if it does."""
        self._fence.check(now=True)
        try:
            sweep(self._directory)
            check_room(self._directory, self._bytes)
        except CheckpointWriteError as error:
            return error
        return None

    def _lack_of_room(self) -> CheckpointWriteError | None:
        """Why there is no room, as rank 0 finds it, before anything is copied or written.  A collective."""
        own = self._room() if self._state.rank == 0 else None
        code = 0 if own is None else own.errno or FAILED
        (code,) = gather_integers([code], self._state.D, self._state.device)[0]
        return None if code == 0 else own or self._error_of(code, 0)

    def _wait(self, *, required: bool) -> None:
        """Wait for the pending save and take its status.  A collective."""
        state = self._state
        if self._pending_step is not None:
            parts = gather_integers([self._writer.part_status()], state.D, state.device)
            failures = [PENDING if status == COMMITTED else status for (status,) in parts]
            self._give_up_on_failed_ranks(failures)
            status = self._writer.status(block=True) if state.rank == 0 else PENDING
            self._take_status(gather_integers([status], state.D, state.device)[0][0], required=required)
        self._writer.wait()

    def _give_up_on_failed_ranks(self, statuses: list[int]) -> None:
        """Rank 0: stop waiting for the report of a rank that failed, which may have had no room for it."""
        for rank, status in enumerate(statuses):
            if self._state.rank == 0 < rank and status != PENDING:
                self._writer.give_up(rank, self._error_of(status, rank))

    def _take_status(self, status: int, *, required: bool) -> None:
        """Act on rank 0's status of the pending save, which all ranks know."""
        assert self._pending_step is not None
        if status == PENDING:
            return
        if status != COMMITTED:
            self._fail(self._writer.failure() or self._error_of(status, 0), required=required)
            return
        self._history.note_saved(self._pending_step)
        self._note_cost(self._pending_step)
        if self._retry_s is not None:
            self._warn(f"checkpoints are saved again: step {self._pending_step} is committed")
        self._progress.checkpoint = step_name(self._pending_step)
        self._pending_step = self._retry_s = None
        self._writer.forget()

    def _note_cost(self, step: int) -> None:
        """Rank 0: keep the cost of the committed save of `step` for the next row of metrics."""
        if self._writer.committed_s is not None:
            self._cost = {
                names.CHECKPOINT_STEP: step,
                names.CHECKPOINT_STALL_SECONDS: self._stall_s,
                names.CHECKPOINT_SECONDS: self._writer.committed_s - self._started_s,
            }

    def _fail(self, error: CheckpointWriteError, *, required: bool) -> None:
        """The save failed: stop, or continue if the disk is full and the config allows it."""
        step, self._pending_step = self._pending_step, None
        self._writer.forget()
        if required or not (error.disk_full and self._config.on_disk_full == "continue"):
            raise error if self._state.rank == 0 else OtherRankError(error.message)
        self._retry_s = time.monotonic() + RETRY_S
        self._warn(f"no checkpoint at step {step}: {error.message}")

    def _error_of(self, status: int, rank: int) -> CheckpointWriteError:
        """The error behind another rank's status."""
        name = step_name(self._pending_step or self._state.step)
        if status == FAILED:
            return CheckpointWriteError(f"cannot save {name}: rank {rank} failed, see its log")
        return write_error(name, OSError(status, ""), rank)

    def _warn(self, message: str) -> None:
        """Rank 0: warn the user."""
        if self._state.rank == 0:
            self._progress.warn(message)

    def _before_commit(self) -> None:
        """Rank 0, on the thread: the ledger on disk holds what the checkpoint names."""
        assert self._recorder is not None
        try:
            self._recorder.sync()
        except DiskFullError as error:
            raise CheckpointWriteError(error.message, code=errno.ENOSPC) from error

    def _confirm(self) -> None:
        """Rank 0, on the thread, right before a checkpoint gets its name: the run is still this launcher's."""
        self._fence.check(now=True)

    def _after_commit(self, snapshot: StateSnapshot) -> None:
        """Rank 0, on the thread, when a checkpoint is committed."""
        self._prune(snapshot.trainer["best_saved_step"])

    def _prune(self, best_step: int | None, verified_step: int | None = None) -> None:
        """Rank 0, on the thread: delete what retention does not keep, after the newest was verified.

        verified_step: a checkpoint that was verified already.
        """
        self._fence.check(now=True)
        try:
            pruned = prune(
                self._directory,
                self._config.keep_last,
                best_step if self._config.keep_best else None,
                self._config.keep_every_steps,
                # one rank takes as long to read the newest checkpoint as to read all ranks' files
                should_stop=lambda: self._is_stopping,
                verified_step=verified_step,
            )
        except (OSError, InputError) as error:
            message = error.message if isinstance(error, InputError) else error.strerror
            self._warn(f"cannot delete old checkpoints: {message}")
            return
        for damage in pruned.damages:
            self._warn(f"no old checkpoint was deleted: {damage}")
        for name in pruned.left:
            self._warn(f"cannot remove {name} yet; the next save tries again")
