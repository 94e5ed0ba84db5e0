"""Digests of the tensors that modules exchange in forward and backward passes, each with the module that made it."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from llmrun.core.tensor_digest import Digester
from llmrun.run.trace import Phase, TraceEntry

PassPlace = Callable[[int], tuple[int, int] | None]
"""Maps the index of a forward pass to (step, micro-batch); None: the pass is not recorded."""


class ModuleTrace:
    """Hooks on every module of a model that report each tensor, in the order of execution.

    only_between_modules: report only those gradients that the nodes of a module pass on to parameters or to the code of
    other modules.  A model whose code loops over positions has many times more nodes.

    A module that is called outside a forward pass of the model is recomputed for the backward pass (activation
    checkpointing): its tensors have the phase `recompute`.
    """

    def __init__(
        self,
        model: nn.Module,
        digester: Digester,
        place_of: PassPlace,
        report: Callable[[TraceEntry, Tensor], None],
        *,
        only_between_modules: bool = False,
    ) -> None:
        self._only_between_modules = only_between_modules
        self._digester, self._place_of, self._report = digester, place_of, report
        self._calls: list[str] = []
        self._owners: dict[Node, str] = {}
        self._n_passes = 0
        self._place: tuple[int, int] | None = None
        self._is_in_forward = False
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(self._enters(name), with_kwargs=True),
                module.register_forward_hook(self._leaves(name), always_call=True),
            ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _enters(self, name: str) -> Callable[..., None]:
        """The hook before a module: its inputs were made by its caller."""

        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            if not name:
                self._place = self._place_of(self._n_passes)
                self._n_passes += 1
                self._is_in_forward = True
                self._calls.clear()
                self._owners.clear()
            caller = self._calls[-1] if self._calls else name
            what = (
                f"input of {name.removeprefix(f'{caller}.')}"
                if self._calls
                else "tokens"
                if not name
                else "input"
            )
            self._record(self._phase, caller, what, (args, kwargs))
            self._own(caller, (args, kwargs))
            self._calls.append(name)

        return hook

    def _leaves(self, name: str) -> Callable[..., None]:
        """The hook after a module; also called if it raised, without output: recomputation ends by an exception."""

        def hook(_: nn.Module, _args: Any, output: Any) -> None:
            if self._calls:
                self._calls.pop()
            self._record(self._phase, name, "output", output)
            self._own(name, output)
            if not self._calls and self._is_in_forward:
                self._is_in_forward = False
                self._watch_backward()

        return hook

    @property
    def _phase(self) -> Phase:
        return "forward" if self._is_in_forward else "recompute"

    def _own(self, module: str, values: Any) -> None:
        """Attribute the nodes that led to `values` and have no module yet to the code of `module`."""
        if not self._is_in_forward:
            return
        waiting = [tensor.grad_fn for tensor in tensors_in(values)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._owners:
                self._owners[node] = module
                waiting += [before for before, _ in node.next_functions]

    def _watch_backward(self) -> None:
        """Record the gradients that each node of the finished graph passes on."""
        for node, module in self._owners.items():
            is_leaf = hasattr(node, "variable")  # a leaf only accumulates the gradients of others
            if not is_leaf and (not self._only_between_modules or self._leaves_module(node)):
                node.register_hook(self._passes_on(module, node.name()))
        self._owners.clear()

    def _leaves_module(self, node: Node) -> bool:
        """Whether a node passes gradients on to a parameter or to a node of another module."""
        following = [each for each, _ in node.next_functions if each is not None]
        module = self._owners[node]
        return any(hasattr(each, "variable") or self._owners.get(each) != module for each in following)

    def _passes_on(self, module: str, node: str) -> Callable[..., None]:
        """The hook after a node of the backward pass."""

        def hook(gradients: Any, _incoming: Any) -> None:
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    self._record("backward", module, f"gradient {index} of {node}", gradient)

        return hook

    def _record(self, phase: Phase, module: str, what: str, values: Any) -> None:
        """Digest and report the tensors in `values`."""
        if self._place is None:
            return
        step, micro_batch = self._place
        tensors = list(tensors_in(values))
        for index, tensor in enumerate(tensors):
            entry = TraceEntry(
                step=step,
                micro_batch=micro_batch,
                phase=phase,
                module=module,
                what=what if len(tensors) == 1 else f"{what} ({index})",
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                digest=self._digester.digest(tensor.detach().clone()),
            )
            self._report(entry, tensor)


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
