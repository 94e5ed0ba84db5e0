"""When checkpoints are saved, and what follows when one cannot be: agreed by all ranks.

A save costs the loop a private copy of the state.  Files are written in the background; how that went travels
with the next steps' numbers, so that every rank hears of it at the same step.  One save at a time: a second
that falls due waits for the first, and that by minutes falls due only when none is under way.
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
from llmrun.runtime.async_writer import COMMITTED, FAILED, NOTHING, HostBuffers, Saver
from llmrun.runtime.evaluation import Evaluations
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
"""After a full disk: how long until the next try, which waits further until there is room."""

_SECONDS_PER_MINUTE = 60.0


class _HurriedError(Exception):
    """Deleting is put off: somebody waits for the process to end."""


class Checkpointing:
    """One segment's saves on one rank."""

    def __init__(
        self,
        run: RunDirectory,
        worker_spec: WorkerSpec,
        config: Config,
        state: TrainingState,
        evaluations: Evaluations,
        recorder: Recorder | None,
        progress: Progress,
        fence: Fence,
    ) -> None:
        self._fence = fence
        self._directory, self._worker_spec, self._state = run.checkpoints, worker_spec, state
        self._evaluations, self._recorder, self._progress = evaluations, recorder, progress
        self._keep = config.checkpoint
        self._copy = HostBuffers(state) if worker_spec.saves else None
        self._saver = Saver(
            run.checkpoints, state.rank, state.D, self._before_commit, self._confirm, self._after_commit
        )
        self._bytes = checkpoint_bytes(state.spec.shape, state.D, state.spec.strategy)
        self._begun_s = time.monotonic()
        self._stall_s = 0.0
        self._cost: dict[str, float | int] = {}
        self._retry_s: float | None = None
        self._is_hurried = False
        self._under_way: int | None = None
        """The step whose save has begun and has no verdict that all ranks know; the same on every rank."""

    def flags(self) -> list[int]:
        """[the clock asks for a save, how the save under way stands on this rank]: for all ranks to see."""
        return [int(self._state.rank == 0 and self._is_timer_due()), self._saver.verdict_code(block=False)]

    def heed(self, rows: list[list[int]], metrics: dict[str, Any]) -> bool:
        """Act on the flags of all ranks; whether the clock asks for a save.

        metrics: of this step; rank 0 adds what a save cost that was found committed since the last one.
        Raises CheckpointWriteError, on every rank alike, where a save failed and that may not be.
        """
        verdicts = [verdict for _, verdict in rows]
        if self._under_way is not None:
            self._rank_0_gives_up_on(verdicts)
            self._conclude(verdicts[0], must=False)
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
            best = self._evaluations.as_json(self._state.step)["best_saved_step"]
            self._saver.do(lambda: self._prune(best, verified_step=self._state.step))

    def is_due(self, step: int) -> bool:
        """Whether the number of finished steps asks for a save."""
        every = self._keep.every_steps
        return every is not None and step % every == 0

    def save(self, *, must: bool, hurried: bool = False) -> None:
        """Begin to save the state as it is; where it must be saved, also wait for the commit.  A collective.

        hurried: a stop was asked for: what is only for deleting old checkpoints is left to a later save.
        Raises CheckpointWriteError, on every rank alike, where that fails and may not.
        """
        asked_s = time.monotonic()
        self._is_hurried = hurried
        self._settle(must=False)
        self._begun_s = time.monotonic()
        self._under_way = self._state.step
        lacking = self._lack_of_room()
        if lacking is not None:
            self._fail(lacking, must=must)
            return
        assert self._copy is not None
        self._copy.take(self._state)
        self._saver.start(self._snapshot(self._copy))
        self._stall_s = time.monotonic() - asked_s
        if must:
            self._settle(must=True)

    def leave(self) -> None:
        """Where this rank ends, for whatever reason: no save that can be finished is lost."""
        self._saver.leave()

    def _is_timer_due(self) -> bool:
        """Rank 0: the minutes are over, or there is room again after a full disk."""
        now = time.monotonic()
        if self._under_way is not None:
            return False
        if self._retry_s is not None and now >= self._retry_s:
            self._retry_s = now + RETRY_S
            return self._room() is None
        minutes = self._keep.every_minutes
        return minutes is not None and now - self._begun_s >= minutes * _SECONDS_PER_MINUTE

    def _snapshot(self, copy: HostBuffers) -> StateSnapshot:
        """The state's snapshot over the private copy."""
        chain, smooth = b"", dict[str, float]()
        if self._recorder is not None:
            chain, smooth = self._recorder.ledger.chain, self._recorder.smooth.state()
        return snapshot_of(self._state, copy, self._worker_spec, chain, self._evaluations, smooth)

    def _room(self) -> CheckpointWriteError | None:
        """Rank 0: why one more checkpoint does not fit on the disk."""
        self._fence.check(now=True)
        try:
            sweep(self._directory)
            check_room(self._directory, self._bytes)
        except CheckpointWriteError as error:
            return error
        return None

    def _lack_of_room(self) -> CheckpointWriteError | None:
        """Why there is no room, as rank 0 finds it; asked before anything is copied or written.  A collective."""
        own = self._room() if self._state.rank == 0 else None
        code = NOTHING if own is None else own.errno or FAILED
        (code,) = gather_integers([code], self._state.D, self._state.device)[0]
        return None if code == NOTHING else own or self._error_of(code, 0)

    def _settle(self, *, must: bool) -> None:
        """Wait for the save under way, and conclude it.  A collective."""
        state = self._state
        if self._under_way is not None:
            parts = gather_integers([self._saver.part_code()], state.D, state.device)
            self._rank_0_gives_up_on([NOTHING, *(0 if code == COMMITTED else code for (code,) in parts[1:])])
            verdict = self._saver.verdict_code(block=True) if state.rank == 0 else NOTHING
            self._conclude(gather_integers([verdict], state.D, state.device)[0][0], must=must)
        self._saver.wait()

    def _rank_0_gives_up_on(self, verdicts: list[int]) -> None:
        """Rank 0 need not wait for the report of a rank that failed: it may have had no room for it."""
        for rank, verdict in enumerate(verdicts):
            if self._state.rank == 0 < rank and verdict != NOTHING:
                self._saver.give_up(rank, self._error_of(verdict, rank))

    def _conclude(self, verdict: int, *, must: bool) -> None:
        """Rank 0's verdict is known to all: the save is over."""
        assert self._under_way is not None
        if verdict == NOTHING:
            return
        if verdict == COMMITTED:
            self._evaluations.note_saved(self._under_way)
            self._note_cost(self._under_way)
            if self._retry_s is not None:
                self._remark(f"checkpoints are saved again, that of step {self._under_way} is complete")
            self._progress.checkpoint = step_name(self._under_way)
            self._under_way = self._retry_s = None
            self._saver.forget()
            return
        own = self._saver.failure()
        self._fail(own or self._error_of(verdict, 0), must=must)

    def _note_cost(self, step: int) -> None:
        """Rank 0: what the save of `step`, which is committed, cost."""
        if self._saver.committed_s is not None:
            self._cost = {
                names.CHECKPOINT_STEP: step,
                names.CHECKPOINT_STALL_SECONDS: self._stall_s,
                names.CHECKPOINT_SECONDS: self._saver.committed_s - self._begun_s,
            }

    def _fail(self, error: CheckpointWriteError, *, must: bool) -> None:
        """The save came to nothing: stop, or go on where the disk is full and the config says so."""
        step, self._under_way = self._under_way, None
        self._saver.forget()
        if must or not (error.disk_full and self._keep.on_disk_full == "continue"):
            raise error if self._state.rank == 0 else OtherRankError(error.message)
        self._retry_s = time.monotonic() + RETRY_S
        self._remark(f"no checkpoint at step {step}: {error.message}")

    def _error_of(self, code: int, rank: int) -> CheckpointWriteError:
        """What another rank's code says."""
        name = step_name(self._under_way or self._state.step)
        if code == FAILED:
            return CheckpointWriteError(f"rank {rank} could not save {name}: its log says why")
        return write_error(name, OSError(code, ""), rank)

    def _remark(self, message: str) -> None:
        if self._state.rank == 0:
            self._progress.warn(message)

    def _before_commit(self) -> None:
        """Rank 0, in the background: the ledger holds what the checkpoint names."""
        assert self._recorder is not None
        try:
            self._recorder.sync()
        except DiskFullError as error:
            raise CheckpointWriteError(error.message, code=errno.ENOSPC) from error

    def _confirm(self) -> None:
        """Rank 0, right before a checkpoint gets its name: the run is still ours."""
        self._fence.check(now=True)

    def _after_commit(self, snapshot: StateSnapshot) -> None:
        """Rank 0, in the background, when a checkpoint is committed."""
        best: Any = snapshot.trainer["best_saved_step"]
        self._prune(best)

    def _prune(self, best_step: int | None, verified_step: int | None = None) -> None:
        """Rank 0, in the background: delete what retention does not keep, after the newest was verified.

        verified_step: of a checkpoint that was verified already.
        """
        best = best_step if self._keep.keep_best else None
        self._fence.check(now=True)
        try:
            pruned = prune(
                self._directory,
                self._keep.keep_last,
                best,
                self._keep.keep_every_steps,
                progress=self._unless_hurried,
                verified_step=verified_step,
            )
        except _HurriedError:
            return
        except (OSError, InputError) as error:
            message = error.message if isinstance(error, InputError) else error.strerror
            self._remark(f"old checkpoints could not be deleted: {message}")
            return
        for damage in pruned.damages:
            self._remark(f"nothing was deleted: {damage}")
        for name in pruned.left:
            self._remark(f"{name} could not be removed yet; the next save tries again")

    def _unless_hurried(self, _done_bytes: int, _all_bytes: int) -> None:
        """Reading the newest checkpoint back takes one rank as long as reading all ranks' files: stop it."""
        if self._is_hurried:
            raise _HurriedError
