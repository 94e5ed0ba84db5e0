"""Instruments of a replay or a check, attached to the loop as hooks: comparison with saved checkpoints, a trace of tensors,
a kill at a given step, an inspection of the model.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llmrun.core.loader import MicroBatches, micro_batches_of_lane
from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.state import TrainingState
from llmrun.core.step import StepResult
from llmrun.errors import InputError, RunFailedError
from llmrun.run.directory import RunDirectory
from llmrun.run.trace import TraceEntry, read_trace, write_kept, write_trace
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.hooks import Hooks
from llmrun.runtime.inspection import Inspector
from llmrun.runtime.module_trace import ModuleTrace
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.layout import step_name, step_of
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.durable import replace_json

FILE_NAME = "saved-states.json"


def instruments(run: RunDirectory, worker_spec: WorkerSpec, batches: MicroBatches) -> list[Hooks]:
    """The instruments that a worker spec asks for; none in training."""
    found: list[Hooks] = []
    if worker_spec.compared:
        found.append(CheckpointComparison(run, worker_spec.compared))
    if worker_spec.traced:
        found.append(Tracer(run, worker_spec))
    if worker_spec.inspected:
        found.append(Inspector(run, worker_spec, batches))
    if worker_spec.killed_after is not None:
        found.append(KillAfterSave(run, worker_spec.killed_after))
    return found


class CheckpointComparison(Hooks):
    """Compares the state with saved checkpoints; the result goes to saved-states.json in the run's directory.

    paths: directories that have a checkpoint's own name.
    """

    def __init__(self, run: RunDirectory, paths: Sequence[str]) -> None:
        self._run = run
        self._paths = {step_of(Path(path).name): Path(path) for path in paths}
        self._found: dict[str, dict[str, object] | None] = {}

    def on_start(self, state: TrainingState) -> None:
        """Compare the state that the segment starts from."""
        self._compare(state)

    def after_step(self, state: TrainingState, result: StepResult) -> None:  # noqa: ARG002
        """Compare the state after a step."""
        self._compare(state)

    def _compare(self, state: TrainingState) -> None:
        """Compare weights and moments with the checkpoint of this step, if there is one.  A collective."""
        path = self._paths.get(state.step)
        if path is None:
            return
        checkpoint = _opened(path)
        names = [slot.name + suffix for suffix, shard in state.shards.items() for slot in shard.slots]
        flags = [0] * len(names) if checkpoint is None else _unequal(state, checkpoint)
        rows = gather_integers([int(checkpoint is None), *flags], state.D, state.device)
        absent, *counts = sum_columns(rows)
        differing = [name for name, count in zip(names, counts, strict=True) if count]
        self._found[path.name] = None if absent else {"tensors": len(names), "differing": differing}
        if state.rank == 0:
            replace_json(self._run.path / FILE_NAME, self._found)


def _opened(path: Path) -> Checkpoint | None:
    """The checkpoint; None if it is gone or damaged, which the launcher reports."""
    try:
        return open_checkpoint(path)
    except (InputError, CheckpointDamage, OSError):
        return None


def _unequal(state: TrainingState, checkpoint: Checkpoint) -> list[int]:
    """By tensor, in the order of `state.shards` and flat order: 1 if this rank's part differs from the checkpoint's."""
    unequal: list[int] = []
    for suffix, shard in state.shards.items():
        found: dict[str, int] = {}
        for piece in shard.pieces:
            saved = torch.from_numpy(checkpoint.read(piece.slot.name + suffix, piece.start, piece.count))
            own = shard.values[piece.own_start : piece.own_start + piece.count].cpu()
            same = torch.equal(own.view(torch.int32), saved.view(torch.int32))
            found[piece.slot.name] = int(not same)
        unequal += [found.get(slot.name, 0) for slot in shard.slots]
    return unequal


class Tracer(Hooks):
    """Digests the tensors that modules exchange in all steps of a segment; writes this rank's trace when it ends.

    A forward pass belongs to the micro-batch that the loop runs at its position in the step on this rank.
    """

    def __init__(self, run: RunDirectory, worker_spec: WorkerSpec) -> None:
        self._run = run
        self._against = (
            None if worker_spec.trace_against is None else read_trace(Path(worker_spec.trace_against))
        )
        self._kept = worker_spec.trace_kept
        self._only_between_modules = worker_spec.trace_only_between_modules
        self._first_step = worker_spec.from_step + 1
        self._rank = 0
        self._numbers: list[int | None] = []
        self._entries: list[TraceEntry] = []
        self._trace: ModuleTrace | None = None

    def on_start(self, state: TrainingState) -> None:
        """Register hooks on every module of the model."""
        model, batch = state.strategy.model, state.spec.batch
        assert isinstance(model, nn.Module)
        self._rank = state.rank
        self._numbers = [
            None if lane is None else number
            for lane in state.strategy.lanes
            for number in micro_batches_of_lane(batch, lane)
        ]
        self._trace = ModuleTrace(
            model,
            state.digester,
            self._micro_batch_of,
            self._add,
            only_between_modules=self._only_between_modules,
        )

    def on_end(self) -> None:
        """Remove the hooks and write the trace."""
        if self._trace is not None:
            self._trace.remove()
        write_trace(self._run.path, self._entries, self._rank)

    def _micro_batch_of(self, n_pass: int) -> tuple[int, int] | None:
        """(step, micro-batch) of the forward pass with this index; None for a padding micro-batch."""
        steps, position = divmod(n_pass, len(self._numbers))
        number = self._numbers[position]
        return None if number is None else (self._first_step + steps, number)

    def _add(self, entry: TraceEntry, tensor: Tensor) -> None:
        """Keep the entry, and the tensor's bytes if it was asked for or is the first to differ."""
        number = len(self._entries)
        self._entries.append(entry)
        against = self._against
        if against is not None and (number >= len(against) or against[number] != entry):
            self._kept, self._against = number, None
        if self._kept == number:
            flat = tensor.detach().cpu().contiguous().view(-1)
            write_kept(self._run.path, number, flat.view(torch.uint8).numpy().tobytes())


class KillAfterSave(Hooks):
    """Ends the rank by SIGKILL in the step after `step`, as soon as the checkpoint of `step` is committed."""

    PATIENCE_S = 300.0
    POLL_S = 0.01

    def __init__(self, run: RunDirectory, step: int) -> None:
        self._path, self._step = run.checkpoints / step_name(step), step

    def before_step(self, state: TrainingState) -> None:
        """Wait for the checkpoint, then end this process.  Raises RunFailedError if there is none in time."""
        if state.step != self._step:
            return
        for _ in range(int(self.PATIENCE_S / self.POLL_S)):
            if self._path.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.POLL_S)
        raise RunFailedError(
            f"cannot save step {self._step} within {self.PATIENCE_S:.0f} s", where=self._path
        )
