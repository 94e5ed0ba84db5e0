"""Counts the FLOPs of a step and reads the peak memory of rank 0, for `llmrun plan --calibrate`."""

from torch.utils.flop_counter import FlopCounterMode

from llmrun.core.state import TrainingState
from llmrun.core.step import StepResult
from llmrun.run.directory import RunDirectory
from llmrun.runtime.hooks import Hooks
from llmrun.runtime.progress import Progress
from llmrun.storage.durable import replace_json

FILE_NAME = "work-count.json"
"""`FLOPs_per_token` (forward and backward, as torch's flop counter counts them) and `peak_memory_bytes` (null: unknown)."""

COUNTED_STEP = 1
"""Counting takes time, and the first step is not timed."""


class WorkCount(Hooks):
    """Counts in the first step; writes the peak after every step, since it may still grow."""

    def __init__(self, run: RunDirectory, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._counter = FlopCounterMode(display=False)
        self._FLOPs_per_token: float | None = None

    def before_step(self, state: TrainingState) -> None:
        """Start counting before the first step."""
        if state.step == COUNTED_STEP - 1:
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    def after_step(self, state: TrainingState, result: StepResult) -> None:  # noqa: ARG002
        """Stop counting after the first step, and write what is known."""
        batch = state.spec.batch
        if state.step == COUNTED_STEP:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            passes = len(state.strategy.lanes) * batch.micro_batches_per_lane
            self._FLOPs_per_token = self._counter.get_total_flops() / (passes * batch.mu_tok)
        if state.rank == 0:
            peak = None if self._progress.peak is None else self._progress.peak()
            document = {"FLOPs_per_token": self._FLOPs_per_token, "peak_memory_bytes": peak}
            replace_json(self._run.path / FILE_NAME, document)
