"""Digests every tensor that modules hand on while steps are executed: what `llmrun verify --bisect` compares.

Forward: hooks of modules.  Backward: hooks of autograd's nodes, which add nothing to the graph (hooks on tensors of a
module would, and could so change the order in which gradients are added).  A node belongs to the innermost module
whose code made it.  Hooks only read, so the traced step is recorded with the bits that it has without them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from llmrun.run.directory import RunDirectory
from llmrun.run.orders import SegmentOrders
from llmrun.run.trace import Entry, Phase, read_trace, write_kept, write_trace
from llmrun.train.state import TrainingState


class Tracer:
    """Traces all steps that are executed while it is entered; then writes the trace into the run's directory.

    Knows micro-batches by counting the model's forward passes: with D = 1 they come in the order of their numbers.
    """

    def __init__(self, run: RunDirectory, orders: SegmentOrders, state: TrainingState) -> None:
        assert state.D == 1, "a trace needs all micro-batches on one rank"
        model = state.strategy.model
        assert isinstance(model, nn.Module)
        self._run, self._state, self._model = run, state, model
        self._against = None if orders.trace_against is None else read_trace(Path(orders.trace_against))
        self._kept = orders.trace_kept
        self._entries: list[Entry] = []
        self._calls: list[str] = []
        self._owners: dict[Node, str] = {}
        self._n_passes = -1
        self._first_step = state.step + 1
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._enters(name), with_kwargs=True),
                module.register_forward_hook(self._leaves(name)),
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        write_trace(self._run.path, self._entries)

    def _enters(self, name: str) -> Callable[..., None]:
        """What runs before a module: the module's inputs were made by its caller."""

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
        """What runs after a module."""

        def hook(_: nn.Module, _args: Any, output: Any) -> None:
            self._calls.pop()
            self._record("forward", name, "output", output)
            self._own(name, output)
            if not self._calls:
                self._watch_backward()

        return hook

    def _own(self, module: str, values: Any) -> None:
        """All nodes that led to `values` and belong to nobody yet were made by the code of `module`."""
        waiting = [tensor.grad_fn for tensor in tensors_in(values)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._owners:
                self._owners[node] = module
                waiting += [before for before, _ in node.next_functions]

    def _watch_backward(self) -> None:
        """Record the gradients that each node of the finished graph hands on."""
        for node, module in self._owners.items():
            if not hasattr(node, "variable"):  # a leaf only adds what others made
                node.register_hook(self._hands_on(module, node.name()))
        self._owners.clear()

    def _hands_on(self, module: str, node: str) -> Callable[..., None]:
        """What runs after a node of the backward pass."""

        def hook(gradients: Any, _incoming: Any) -> None:
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    self._record("backward", module, f"gradient {index} of {node}", gradient)

        return hook

    def _record(self, phase: Phase, module: str, what: str, values: Any) -> None:
        """Digest the tensors in `values`; the one that is asked for, or first differs, is kept."""
        M = self._state.resolved.batch.M
        tensors = list(tensors_in(values))
        for index, tensor in enumerate(tensors):
            self._add(
                Entry(
                    step=self._first_step + self._n_passes // M,
                    micro_batch=self._n_passes % M,
                    phase=phase,
                    module=module,
                    what=what if len(tensors) == 1 else f"{what} ({index})",
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    shape=tuple(tensor.shape),
                    digest=self._state.digester.digest(tensor.detach().clone()),
                ),
                tensor,
            )

    def _add(self, entry: Entry, tensor: Tensor) -> None:
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
