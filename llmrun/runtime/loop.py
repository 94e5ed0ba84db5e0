"""The training loop: step, record, evaluate, save, stop; reads top to bottom."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from llmrun.config.schema import Config
from llmrun.core.digest import Digester
from llmrun.core.loader import Loader
from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.state import TrainingState, partial_digests
from llmrun.core.step import train_step
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.run.signals import WorkerStopRequest
from llmrun.run.worker_spec import OutcomeKind, WorkerSpec
from llmrun.runtime.checkpoint_policy import Checkpointing
from llmrun.runtime.evaluation import Evaluations, Validation
from llmrun.runtime.instruments import CheckpointComparison
from llmrun.runtime.progress import Progress
from llmrun.runtime.recorder import Recorder
from llmrun.storage.metrics import names


class Loop:
    """One segment's steps on one rank.  Whatever depends on time or signals is agreed by all ranks.

    trainer: what the checkpoint that the segment starts from knows beside tensors.
    """

    def __init__(
        self,
        run: RunDirectory,
        worker_spec: WorkerSpec,
        config: Config,
        state: TrainingState,
        loader: Loader,
        validation: Validation | None,
        recorder: Recorder | None,
        stop: WorkerStopRequest,
        progress: Progress,
        trainer: Mapping[str, Any] | None,
        fence: Fence,
    ) -> None:
        self.worker_spec, self.config, self.state = worker_spec, config, state
        self.loader, self.validation, self.recorder, self.stop = loader, validation, recorder, stop
        self.progress = progress
        self.evaluations = Evaluations() if trainer is None else Evaluations.of(trainer)
        if recorder is not None and trainer is not None:
            recorder.smooth.restore(trainer["metrics"]["loss_smooth"])
        self.checkpointing = Checkpointing(
            run, worker_spec, config, state, self.evaluations, recorder, progress, fence
        )
        self._checkpoint_comparison = CheckpointComparison(run_directory=run, paths=worker_spec.compared)
        self._token_digester = Digester(torch.device("cpu"))

    def run(self) -> OutcomeKind:
        """Step until the segment's end or a request to stop; no save that can be finished is lost."""
        try:
            return self._run()
        finally:
            self.checkpointing.leave()

    def _run(self) -> OutcomeKind:
        state = self.state
        if state.step == 0:
            self._record_initial()
        if any(row[0] for row in gather_integers(self._flags(), state.D, state.device)):
            return "preempted"
        self.checkpointing.prune_at_start()
        begun_s = time.perf_counter()
        ended = self._steps()
        self.progress.loop_s = time.perf_counter() - begun_s
        return ended

    def _steps(self) -> OutcomeKind:
        """All steps of the segment, with their evaluations and saves."""
        state = self.state
        while state.step < self.worker_spec.until_step:
            begun_s = time.perf_counter()
            facts = train_step(state, self.loader, self._token_digester, self._flags)
            self.progress.step = state.step
            metrics: dict[str, Any] = {}
            if self.recorder is not None:
                metrics = self.recorder.step(facts, state.step * facts.tokens, begun_s)
            self._checkpoint_comparison.compare(state)
            is_best = self._evaluate(metrics)
            timer_due = self.checkpointing.heed([flags for _, *flags in facts.flags], metrics)
            if self.recorder is not None:
                self.recorder.emit(metrics)
            is_stopping = any(stop for stop, *_ in facts.flags)
            is_last = is_stopping or state.step == self.worker_spec.until_step
            is_due = is_last or is_best or timer_due or self.checkpointing.is_due(state.step)
            if self.worker_spec.saves and is_due:
                self.checkpointing.save(must=is_last, hurried=is_stopping)
            if is_stopping and state.step < self.worker_spec.until_step:
                return "preempted"
        return "finished" if state.step == state.spec.batch.steps else "reached"

    def _flags(self) -> list[int]:
        """[asked to stop, and what checkpointing has to tell]; only rank 0 looks for the stop file."""
        return [int(self.stop.is_set(look_for_file=self.state.rank == 0)), *self.checkpointing.flags()]

    def _record_initial(self) -> None:
        """Record 0: the digest of the initial weights."""
        state = self.state
        partial = partial_digests(state, state.strategy.weights)
        digests = sum_columns(gather_integers(partial, state.D, state.device))
        if self.recorder is not None:
            self.recorder.initial(digests)

    def _evaluate(self, metrics: dict[str, Any]) -> bool:
        """Evaluate where it is due, and say whether to save because it was the best so far."""
        every = self.config.eval.every_steps
        step = self.state.step
        if self.validation is None or every is None or (step % every and step < self.worker_spec.until_step):
            return False
        found = self.validation.metrics(self.state)
        metrics |= found
        return self.evaluations.add(found[names.VAL_PPL], step) and self.config.checkpoint.keep_best
