"""Which module of a model, and which line of its code, executes an operation: from Python's stack and autograd's graph."""

import contextlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from llmrun.run.inspection import CodePlace, Operation
from llmrun.runtime.module_trace import tensors_in
from llmrun.runtime.refused_on_cuda import is_refused_on_cuda

TORCH = str(Path(torch.__file__).parent)
RUNTIME = str(Path(__file__).parent)
STANDARD_LIBRARY = str(Path(contextlib.__file__).parent)
NO_DETERMINISTIC = "does not have a deterministic implementation"
TRACE_LINES = 8


class CodePlaces:
    """The places of one model's code."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}

    def of_stack(self) -> tuple[str, str | None]:
        """(module, source) of the innermost code of the model that is being executed."""
        return self._of_frames(_frames(sys._getframe(1)))  # noqa: SLF001

    def of_exception(self, error: BaseException) -> tuple[str, str | None]:
        """(module, source) of the innermost code of the model that an exception passed."""
        return self._of_frames(_traced(error.__traceback__))

    def _of_frames(self, frames: list[tuple[FrameType, int]]) -> tuple[str, str | None]:
        """frames: with their lines, the innermost first."""
        module, source = None, None
        for frame, line in frames:
            file = frame.f_code.co_filename
            if source is None and is_model_code(file):
                source = f"{file}:{line}"
            if module is None:
                module = self._names.get(id(frame.f_locals.get("self")))
            if module is not None and source is not None:
                break
        return module or "", source


def is_model_code(file: str) -> bool:
    """Whether a source file may hold a model's code: not torch, not what runs it."""
    is_library = file.startswith(STANDARD_LIBRARY) and "site-packages" not in file
    return not (file.startswith(("<", TORCH, RUNTIME)) or is_library or file.endswith("core/step.py"))


def _frames(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    found = []
    while frame is not None:
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return found


def _traced(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    return [(frame, line) for frame, line in traceback.walk_tb(trace)][::-1]


def last_lines(error: BaseException) -> tuple[str, ...]:
    """The last frames of a traceback without those of llmrun's runtime and of torch: `file:line, in name: code`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_model_code(f.filename)]
    lines = [
        f"{frame.filename}:{frame.lineno}, in {frame.name}" + (f": {frame.line}" if frame.line else "")
        for frame in frames
    ]
    return tuple(lines[-TRACE_LINES:])


class NodePlaces(TorchFunctionMode):
    """Remembers for each node of the autograd graph the code that made it."""

    def __init__(self, places: CodePlaces) -> None:
        super().__init__()
        self._places = places
        self._of_node: dict[Node, tuple[str, str | None]] = {}
        self._entered: tuple[str, str | None] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute a function of torch; the nodes that it made belong to its caller."""
        result = func(*args, **(kwargs or {}))
        self._own(result, None)
        return result

    def watch_modules(self, model: nn.Module) -> list[Any]:
        """Let nodes that no function of torch made (those of custom functions) belong to the innermost module."""
        return [
            module.register_forward_hook(self._owns(name), prepend=True)
            for name, module in model.named_modules()
        ]

    def _owns(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            self._own(output, (name, None))

        return hook

    def _own(self, values: Any, place: tuple[str, str | None] | None) -> None:
        """Attribute the nodes that led to `values` and have no place yet.  place: None: that of the stack."""
        waiting = [tensor.grad_fn for tensor in tensors_in(values)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._of_node:
                place = place or self._places.of_stack()
                self._of_node[node] = place
                waiting += [before for before, _ in node.next_functions]

    def place_of_current(self) -> CodePlace:
        """The place of what is being executed."""
        node: Node | None = torch._C._current_autograd_node()  # noqa: SLF001
        if node is None:
            return CodePlace("forward", *self._places.of_stack())
        return CodePlace("backward", *self._of_node.get(node, ("", None)))

    def watch_backward(self) -> None:
        """Remember which node the backward pass has entered last."""
        for node, place in self._of_node.items():
            if not hasattr(node, "variable"):
                node.register_prehook(self._enters(place))

    def forget(self) -> None:
        """Forget the nodes, which keep the tensors of their pass."""
        self._of_node.clear()
        self._entered = None

    def _enters(self, place: tuple[str, str | None]) -> Callable[[Any], None]:
        def hook(_: Any) -> None:
            self._entered = place

        return hook

    def place_of_exception(self, error: BaseException) -> CodePlace:
        """The place that an exception came from."""
        module, source = self._places.of_exception(error)
        if self._entered is None:
            return CodePlace("forward", module, source)
        return CodePlace("backward", module or self._entered[0], source or self._entered[1])


class OperationScan(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the operations that deterministic mode refuses, and executes them all the same.

    refused: here, each name and place once.  refused_on_cuda: not here but on CUDA, by name, with the first place.
    """

    def __init__(self, nodes: NodePlaces) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._nodes = nodes
        self.refused_on_cuda: dict[str, Operation] = {}
        self.refused: dict[tuple[str, CodePlace], Operation] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute one operation."""
        name = str(func)
        if name not in self.refused_on_cuda and is_refused_on_cuda(name, args, kwargs or {}):
            self.refused_on_cuda[name] = Operation(name, self._nodes.place_of_current())
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if NO_DETERMINISTIC not in str(error):
                raise
            place = self._nodes.place_of_current()
            self.refused[name, place] = Operation(name, place, str(error).partition(",")[0])
        with refusals_are_warnings():
            return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def refusals_are_warnings() -> Any:
    """Deterministic mode in which refused operations are executed, with a warning on standard error."""
    was_only_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=True, warn_only=was_only_warning)
