"""Instruments of a replay, attached to the loop as hooks: comparison with saved checkpoints, and a trace of tensors."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.state import TrainingState
from llmrun.core.step import StepResult
from llmrun.core.tensor_digest import Digester
from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory
from llmrun.run.trace import Phase, TraceEntry, read_trace, write_kept, write_trace
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.hooks import Hooks
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.layout import step_of
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.durable import replace_json

FILE_NAME = "saved-states.json"


def instruments(run: RunDirectory, worker_spec: WorkerSpec) -> list[Hooks]:
    """The instruments that a worker spec asks for; none in training."""
    found: list[Hooks] = []
    if worker_spec.compared:
        found.append(CheckpointComparison(run, worker_spec.compared))
    if worker_spec.traced:
        found.append(Tracer(run, worker_spec))
    return found


class CheckpointComparison(Hooks):
    """Compares the state with saved checkpoints; the result goes to saved-states.json in the run's directory.

    paths: directories that have a checkpoint's own name.
    """

    def __init__(self, run: RunDirectory, paths: Sequence[str]) -> None:
        self._run = run
        self._paths = {step_of(Path(path).name): Path(path) for path in paths}
        self._found: dict[str, dict[str, object] | None] = {}

    def after_step(self, state: TrainingState, result: StepResult) -> None:  # noqa: ARG002
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
    """Digests the tensors that modules exchange in all steps of a segment; writes the trace when it ends.

    Micro-batches are told apart by counting the model's forward passes: at D = 1 they run in the order of their numbers.
    """

    def __init__(self, run: RunDirectory, worker_spec: WorkerSpec) -> None:
        assert worker_spec.D == 1, "a trace needs all micro-batches on one rank"
        self._run = run
        self._against = (
            None if worker_spec.trace_against is None else read_trace(Path(worker_spec.trace_against))
        )
        self._kept = worker_spec.trace_kept
        self._entries: list[TraceEntry] = []
        self._calls: list[str] = []
        self._owners: dict[Node, str] = {}
        self._n_passes = -1
        self._first_step = worker_spec.from_step + 1
        self._M = 1
        self._digester: Digester | None = None
        self._handles: list[Any] = []

    def on_start(self, state: TrainingState) -> None:
        """Register hooks on every module of the model."""
        model = state.strategy.model
        assert isinstance(model, nn.Module)
        self._M, self._digester = state.spec.batch.M, state.digester
        for name, module in model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._enters(name), with_kwargs=True),
                module.register_forward_hook(self._leaves(name)),
            ]

    def on_end(self) -> None:
        """Remove the hooks and write the trace."""
        for handle in self._handles:
            handle.remove()
        write_trace(self._run.path, self._entries)

    def _enters(self, name: str) -> Callable[..., None]:
        """The hook before a module: its inputs were made by its caller."""

        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._calls:
                self._n_passes += 1
                self._owners.clear()
            caller = self._calls[-1] if self._calls else name
            what = f"input of {name.removeprefix(f'{caller}.')}" if self._calls else "tokens"
            self._record("forward", caller, what, (args, kwargs))
            self._own(caller, (args, kwargs))
            self._calls.append(name)

        return hook

    def _leaves(self, name: str) -> Callable[..., None]:
        """The hook after a module."""

        def hook(_: nn.Module, _args: Any, output: Any) -> None:
            self._calls.pop()
            self._record("forward", name, "output", output)
            self._own(name, output)
            if not self._calls:
                self._watch_backward()

        return hook

    def _own(self, module: str, values: Any) -> None:
        """Attribute the nodes that led to `values` and have no module yet to the code of `module`."""
        waiting = [tensor.grad_fn for tensor in tensors_in(values)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._owners:
                self._owners[node] = module
                waiting += [before for before, _ in node.next_functions]

    def _watch_backward(self) -> None:
        """Record the gradients that each node of the finished graph passes on."""
        for node, module in self._owners.items():
            if not hasattr(node, "variable"):  # a leaf only accumulates the gradients of others
                node.register_hook(self._passes_on(module, node.name()))
        self._owners.clear()

    def _passes_on(self, module: str, node: str) -> Callable[..., None]:
        """The hook after a node of the backward pass."""

        def hook(gradients: Any, _incoming: Any) -> None:
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    self._record("backward", module, f"gradient {index} of {node}", gradient)

        return hook

    def _record(self, phase: Phase, module: str, what: str, values: Any) -> None:
        """Digest the tensors in `values`; keep the one that was asked for or is the first to differ."""
        assert self._digester is not None
        tensors = list(tensors_in(values))
        for index, tensor in enumerate(tensors):
            self._add(
                TraceEntry(
                    step=self._first_step + self._n_passes // self._M,
                    micro_batch=self._n_passes % self._M,
                    phase=phase,
                    module=module,
                    what=what if len(tensors) == 1 else f"{what} ({index})",
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    shape=tuple(tensor.shape),
                    digest=self._digester.digest(tensor.detach().clone()),
                ),
                tensor,
            )

    def _add(self, entry: TraceEntry, tensor: Tensor) -> None:
        number = len(self._entries)
        self._entries.append(entry)
        against = self._against
        if against is not None and (number >= len(against) or against[number] != entry):
            self._kept, self._against = number, None
        if self._kept == number:
            flat = tensor.detach().cpu().contiguous().view(-1)
            write_kept(self._run.path, number, flat.view(torch.uint8).numpy().tobytes())


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)
