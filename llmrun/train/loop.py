"""The training loop: step, record, evaluate, save, stop; reads top to bottom."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from llmrun.checkpoint.errors import DISK_FULL, CheckpointWriteError, write_error
from llmrun.checkpoint.layout import step_name
from llmrun.checkpoint.retention import prune
from llmrun.checkpoint.snapshot import Snapshot
from llmrun.checkpoint.space import check_room
from llmrun.checkpoint.writer import commit, discard, save_rank
from llmrun.ledger.digest import Digester
from llmrun.metrics import names
from llmrun.reduce.collectives import gather_integers, sum_columns
from llmrun.run.directory import RunDirectory
from llmrun.run.orders import OutcomeKind, SegmentOrders
from llmrun.train.digests import partial_digests
from llmrun.train.evaluate import Evaluations, Evaluator
from llmrun.train.loader import Loader
from llmrun.train.progress import Progress
from llmrun.train.recorder import Recorder
from llmrun.train.saved_states import SavedStates
from llmrun.train.saving import snapshot_of
from llmrun.train.state import TrainingState
from llmrun.train.step import train_step
from llmrun.train.stopping import StopRequest

COMMIT_TIMEOUT_S = 600.0
_SECONDS_PER_MINUTE = 60.0
_DONE, _FAILED = 0, -1
"""How a rank's part of a save went, as an integer for all; a number of the system above 0 says why it failed."""


class Loop:
    """One segment's steps on one rank.  Whatever depends on time or signals is agreed by all ranks."""

    def __init__(
        self,
        run: RunDirectory,
        orders: SegmentOrders,
        state: TrainingState,
        loader: Loader,
        evaluator: Evaluator | None,
        recorder: Recorder | None,
        stop: StopRequest,
        progress: Progress,
    ) -> None:
        self.run_directory, self.orders, self.state = run, orders, state
        self.loader, self.evaluator, self.recorder, self.stop = loader, evaluator, recorder, stop
        self.progress = progress
        self.evaluations = Evaluations()
        self._saved_states = SavedStates(run_directory=run, paths=orders.compared)
        self._token_digester = Digester(torch.device("cpu"))
        self._saved_at_s = time.monotonic()

    def remember(self, trainer: Mapping[str, Any]) -> None:
        """Take over what a checkpoint knows beside tensors."""
        self.evaluations = Evaluations.of(trainer)
        if self.recorder is not None:
            self.recorder.smooth.restore(trainer["metrics"]["loss_smooth"])

    def run(self) -> OutcomeKind:
        """Step until the segment's end or a request to stop."""
        state = self.state
        if state.step == 0:
            self._record_initial()
        if any(row[0] for row in gather_integers(self._flags(), state.D, state.device)):
            return "preempted"
        while state.step < self.orders.until_step:
            begun_s = time.perf_counter()
            facts = train_step(state, self.loader, self._token_digester, self._flags)
            self.progress.step = state.step
            metrics: dict[str, Any] = {}
            if self.recorder is not None:
                metrics = self.recorder.step(facts, state.step * facts.tokens, begun_s)
            self._saved_states.compare(state)
            is_best = self._evaluate(metrics)
            if self.recorder is not None:
                self.recorder.emit(metrics)
            is_stopping = any(row[0] for row in facts.flags)
            timer_due = any(row[1] for row in facts.flags)
            if self.orders.saves and (is_best or is_stopping or self._is_save_due(timer_due=timer_due)):
                self._save(is_stopping=is_stopping)
            if is_stopping and state.step < self.orders.until_step:
                return "preempted"
        return "finished" if state.step == state.resolved.batch.steps else "reached"

    def _flags(self) -> list[int]:
        """[asked to stop, minutes are over]; only rank 0 looks at the clock and the stop file."""
        leads = self.state.rank == 0
        minutes = self.state.resolved.config.checkpoint.every_minutes
        passed_s = time.monotonic() - self._saved_at_s
        timer_due = leads and minutes is not None and passed_s >= minutes * _SECONDS_PER_MINUTE
        return [int(self.stop.is_set(look_for_file=leads)), int(timer_due)]

    def _record_initial(self) -> None:
        """Record 0: the digest of the initial weights."""
        state = self.state
        partial = partial_digests(state, state.strategy.weights)
        digests = sum_columns(gather_integers(partial, state.D, state.device))
        if self.recorder is not None:
            self.recorder.initial(digests)

    def _evaluate(self, metrics: dict[str, Any]) -> bool:
        """Evaluate where it is due, and say whether to save because it was the best so far."""
        every = self.state.resolved.config.eval.every_steps
        step = self.state.step
        if self.evaluator is None or every is None or (step % every and step < self.orders.until_step):
            return False
        found = self.evaluator.metrics(self.state)
        metrics |= found
        return (
            self.evaluations.add(found[names.VAL_PPL], step)
            and self.state.resolved.config.checkpoint.keep_best
        )

    def _is_save_due(self, *, timer_due: bool) -> bool:
        """By steps, by minutes, or because the segment ends."""
        every = self.state.resolved.config.checkpoint.every_steps
        step = self.state.step
        return timer_due or step == self.orders.until_step or (every is not None and step % every == 0)

    def _save(self, *, is_stopping: bool) -> None:
        """Save a checkpoint, and prune; a full disk does not stop the run where the config says so."""
        state, directory = self.state, self.run_directory.checkpoints
        chain, smooth = b"", {}
        if self.recorder is not None:
            self.recorder.sync()
            chain, smooth = self.recorder.ledger.chain, self.recorder.smooth.state()
        snapshot = snapshot_of(state, self.orders, chain, self.evaluations, smooth)
        failed = self._together(lambda: self._write_part(snapshot))
        if failed is None:
            failed = self._together(lambda: self._commit(snapshot))
        elif state.rank == 0:
            discard(directory, snapshot)
        self._saved_at_s = time.monotonic()
        if failed is None:
            self.evaluations.note_saved(state.step)
            if state.rank == 0:
                self._prune()
            return
        may_continue = state.resolved.config.checkpoint.on_disk_full == "continue"
        must_save = is_stopping or state.step == self.orders.until_step
        if must_save or not (failed.disk_full and may_continue):
            raise failed
        if state.rank == 0:
            self.progress.remarks.append(f"no checkpoint at step {state.step}: {failed.says}")

    def _write_part(self, snapshot: Snapshot) -> None:
        """This rank's part; rank 0 first looks whether the whole checkpoint would fit."""
        state, directory = self.state, self.run_directory.checkpoints
        if state.rank == 0:
            check_room(directory, snapshot.nbytes * state.D)
        save_rank(directory, snapshot, state.rank, state.D)

    def _commit(self, snapshot: Snapshot) -> None:
        """Rank 0 makes the checkpoint: all parts are there, a network file system may only show them late."""
        if self.state.rank == 0:
            directory = self.run_directory.checkpoints
            self.progress.checkpoint = commit(directory, snapshot, self.state.D, COMMIT_TIMEOUT_S).name

    def _together(self, work: Callable[[], None]) -> CheckpointWriteError | None:
        """Every rank does its work; then all know whether all could, and if not, why the same rank could not.

        A collective.  A full disk goes before any other failure, of which it may be the cause.
        """
        state, code = self.state, _DONE
        own: CheckpointWriteError | None = None
        try:
            work()
        except CheckpointWriteError as error:
            own, code = error, _FAILED if error.errno is None else error.errno
        codes = [row[0] for row in gather_integers([code], state.D, state.device)]
        failed = [rank for rank, found in enumerate(codes) if found != _DONE]
        if not failed:
            return None
        rank = next((rank for rank in failed if codes[rank] in DISK_FULL), failed[0])
        if rank == state.rank:
            return own
        if codes[rank] == _FAILED:
            return CheckpointWriteError(
                f"rank {rank} could not save {step_name(state.step)}: its log says why"
            )
        return write_error(step_name(state.step), OSError(codes[rank], ""), rank)

    def _prune(self) -> None:
        """Delete what retention does not keep, after the newest was verified."""
        keep = self.state.resolved.config.checkpoint
        best = self.evaluations.best_saved_step if keep.keep_best else None
        pruned = prune(self.run_directory.checkpoints, keep.keep_last, best, keep.keep_every_steps)
        self.progress.remarks += [f"nothing was deleted: {damage}" for damage in pruned.damages]
