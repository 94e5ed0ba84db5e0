"""The training loop: step, record, evaluate, save, stop."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from llmrun.config.schema import Config
from llmrun.core.loader import Loader
from llmrun.core.reduce.collectives import gather_integers
from llmrun.core.state import WEIGHTS, TrainingState, whole_digests
from llmrun.core.step import train_step
from llmrun.core.tensor_digest import Digester
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.run.signals import WorkerStopRequest
from llmrun.run.worker_spec import OutcomeKind, WorkerSpec
from llmrun.runtime.checkpoint_policy import CheckpointPolicy
from llmrun.runtime.evaluation import Validation, ValidationHistory
from llmrun.runtime.hooks import Hooks
from llmrun.runtime.progress import Progress
from llmrun.runtime.recorder import Recorder
from llmrun.storage.metrics import names


class Loop:
    """The steps of one segment on one rank.  All ranks agree on whatever depends on time or signals.

    validation: None if the config asks for no evaluation.
    recorder:   rank 0's; None on every other rank.
    trainer:    trainer.json of the checkpoint that the segment starts from; None if it starts at step 0.
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
        hooks: Sequence[Hooks] = (),
    ) -> None:
        self._worker_spec, self._config, self._state = worker_spec, config, state
        self._loader, self._validation, self._recorder, self._stop = loader, validation, recorder, stop
        self._progress, self._hooks = progress, hooks
        self._history = ValidationHistory() if trainer is None else ValidationHistory.of(trainer)
        if recorder is not None and trainer is not None:
            recorder.smooth.restore(trainer["metrics"]["loss_smooth"])
        self._checkpoints = CheckpointPolicy(
            run, worker_spec, config, state, self._history, recorder, progress, fence
        )
        self._token_digester = Digester(torch.device("cpu"))

    def run(self) -> OutcomeKind:
        """Step until the segment's end or a request to stop, then finish the save that is being written."""
        with ExitStack() as stack:
            for hooks in self._hooks:
                stack.callback(hooks.on_end)
                hooks.on_start(self._state)
            stack.callback(self._checkpoints.close)
            return self._run()

    def _run(self) -> OutcomeKind:
        state = self._state
        if state.step == 0:
            self._record_initial()
        if any(stop for stop, *_ in gather_integers(self._flags(), state.D, state.device)):
            return "preempted"
        self._checkpoints.prune_at_start()
        started_s = time.perf_counter()
        kind = self._steps()
        self._progress.loop_s = time.perf_counter() - started_s
        return kind

    def _steps(self) -> OutcomeKind:
        """All steps of the segment, with their evaluations and saves."""
        state, until_step = self._state, self._worker_spec.until_step
        while state.step < until_step:
            for hooks in self._hooks:
                hooks.before_step(state)
            started_s = time.perf_counter()
            result = train_step(state, self._loader, self._token_digester, self._flags)
            self._progress.step = state.step
            metrics: dict[str, Any] = {}
            if self._recorder is not None:
                metrics = self._recorder.step(result, state.step * result.tokens, started_s)
            for hooks in self._hooks:
                hooks.after_step(state, result)
            is_best = self._evaluate(metrics)
            timer_due = self._checkpoints.take_flags([flags for _, *flags in result.flags], metrics)
            if self._recorder is not None:
                self._recorder.emit(metrics)
            is_stopping = any(stop for stop, *_ in result.flags)
            is_last = is_stopping or state.step == until_step
            is_due = is_last or is_best or timer_due or self._checkpoints.is_due(state.step)
            if self._worker_spec.saves and is_due:
                self._checkpoints.save(required=is_last, stopping=is_stopping)
            if is_stopping and state.step < until_step:
                return "preempted"
        return "finished" if state.step == state.spec.batch.steps else "reached"

    def _flags(self) -> list[int]:
        """[whether to stop, and the flags of the checkpoint policy]; only rank 0 looks for the stop file."""
        return [int(self._stop.is_set(look_for_file=self._state.rank == 0)), *self._checkpoints.flags()]

    def _record_initial(self) -> None:
        """Record 0: the digests of the initial weights."""
        digests, _ = whole_digests(self._state, {WEIGHTS: self._state.as_shard(self._state.strategy.weights)})
        if self._recorder is not None:
            self._recorder.initial(digests)

    def _evaluate(self, metrics: dict[str, Any]) -> bool:
        """Evaluate if it is due; returns whether to save because the result is the best so far."""
        every, step = self._config.eval.every_steps, self._state.step
        if self._validation is None or every is None:
            return False
        if step % every and step < self._worker_spec.until_step:
            return False
        found = self._validation.metrics(self._state)
        metrics |= found
        return self._history.add(found[names.VAL_PPL], step) and self._config.checkpoint.keep_best
