"""Inspects a model before the first step: what its passes depend on beside weights and tokens, and what they execute."""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmrun.core.loader import MicroBatch, MicroBatches
from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.foreign import construct
from llmrun.core.state import TrainingState
from llmrun.core.step import micro_batch_loss
from llmrun.errors import LlmrunError
from llmrun.run.directory import RunDirectory
from llmrun.run.inspection import Inspection, ModelError
from llmrun.run.trace import Phase, TraceEntry
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.code_places import (
    CodePlaces,
    NodePlaces,
    OperationScan,
    last_lines,
    refusals_are_warnings,
)
from llmrun.runtime.flop_count import flop_counter
from llmrun.runtime.hidden_state import hidden_state
from llmrun.runtime.hooks import Hooks
from llmrun.runtime.model_import import own_files
from llmrun.runtime.module_trace import ModuleTrace

ADDITIVE_WITHIN = 0.1
"""Relative difference up to which the loss of two sequences counts as the sum of their losses."""


class Inspector(Hooks):
    """Runs passes over micro-batches 0 and 1 with the initial weights and writes what it finds.

    No step should follow: the passes leave hidden state behind, which they are to find.
    """

    def __init__(self, run: RunDirectory, worker_spec: WorkerSpec, batches: MicroBatches) -> None:
        self._run, self._batches = run, batches
        self._import_root: str | None = worker_spec.config["model"]["import_root"]

    def on_start(self, state: TrainingState) -> None:
        """Inspect the model.  Raises LlmrunError if the model breaks the interface."""
        assert state.D == 1, "the inspection hooks plain parameters"
        numbers = (0, min(1, state.spec.batch.M - 1))
        micro_batches = [MicroBatch(0, number, self._batches.tokens(0, number)) for number in numbers]
        found = ModelInspection(state, micro_batches).run()
        spec = state.spec.model
        if isinstance(spec, FactorySpec):
            assert self._import_root is not None, "the config must be resolved"
            found = replace(
                found,
                shadowed=shadowed_imports(Path(self._import_root)),
                shared=parameters_with_shared_memory(construct(spec.call)),
            )
        found.write(self._run.path)


class ModelInspection:
    """The passes of an inspection, in order."""

    def __init__(self, state: TrainingState, micro_batches: Sequence[MicroBatch]) -> None:
        model = state.strategy.model
        assert isinstance(model, nn.Module)
        self._state, self._model, self._micro_batches = state, model, micro_batches
        self._nodes = NodePlaces(CodePlaces(model))
        self._with_gradient: set[str] = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._notes_gradient(name))  # type: ignore[no-untyped-call]

    def run(self) -> Inspection:
        """All findings; if the model raises, those up to there."""
        scan = OperationScan(self._nodes)
        found: dict[str, Any] = {}
        error = None
        try:
            self._find(scan, found)
        except LlmrunError:
            raise
        except Exception as raised:  # noqa: BLE001  whatever the user's code raises is a finding
            place = self._nodes.place_of_exception(raised)
            error = ModelError(f"{type(raised).__name__}: {raised}", place, last_lines(raised))
        return Inspection(
            error=error,
            refused=tuple(scan.refused.values()),
            refused_on_cuda=tuple(scan.refused_on_cuda.values()),
            frozen=tuple(n for n, p in self._model.named_parameters() if not p.requires_grad),
            tokens=self._state.spec.batch.mu_tok,
            **found,
        )

    def _find(self, scan: OperationScan, found: dict[str, Any]) -> None:
        """Scan and count, then repeat."""
        first = self._micro_batches[0]
        before = parameter_identities(self._model)
        state_before = hidden_state(self._model, own_files(), self._state.digester)
        hooks = self._nodes.watch_modules(self._model)
        counter = flop_counter()
        with counter, scan, self._nodes:
            loss, _ = micro_batch_loss(self._state, first)
            self._nodes.watch_backward()
            loss.backward()  # type: ignore[no-untyped-call]
        for hook in hooks:
            hook.remove()
        self._nodes.forget()
        self._drop_gradients()
        with refusals_are_warnings():
            self._repeat(found)
            found["flops"] = counter.get_total_flops() or None
            state_after = hidden_state(self._model, own_files(), self._state.digester)
            changed = state_before.changed(state_after)
            found["changed"] = tuple((module_holding(name, self._model), name) for name in changed)
            found["replaced"] = _differing(before, parameter_identities(self._model))
            found["without_gradient"] = tuple(
                name
                for name, parameter in self._model.named_parameters()
                if parameter.requires_grad and name not in self._with_gradient
            )
            found["not_additive"] = self._not_additive()

    def _repeat(self, found: dict[str, Any]) -> None:
        """Run micro-batches 0, 1 and 0 again, and compare the tensors of the two passes over micro-batch 0."""
        entries: list[list[TraceEntry]] = [[], [], []]

        def add(entry: TraceEntry, _: Tensor) -> None:
            entries[entry.step].append(entry)

        first, other = self._micro_batches
        trace = ModuleTrace(
            self._model, self._state.digester, lambda n_pass: (n_pass, 0), add, only_between_modules=True
        )
        for micro_batch in (first, other, first):
            self._pass(micro_batch)
        trace.remove()
        found["repeated"] = _first_difference(entries[0], entries[2])

    def _pass(self, micro_batch: MicroBatch) -> None:
        """Forward and backward of one micro-batch; its gradients are dropped."""
        loss, _ = micro_batch_loss(self._state, micro_batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for parameter in self._model.parameters():
            parameter.grad = None

    def _notes_gradient(self, name: str) -> Any:
        def hook(_: Tensor) -> None:
            self._with_gradient.add(name)

        return hook

    def _not_additive(self) -> str | None:
        """Compare two micro-batches in one pass with each by itself, without dropout; None if a batch cannot grow."""
        first, other = self._micro_batches
        both = MicroBatch(0, 0, torch.cat([first.tokens, other.tokens]))
        self._model.eval()
        try:
            with torch.no_grad():
                (a, n_a), (b, n_b), (whole, n) = (
                    micro_batch_loss(self._state, each) for each in (first, other, both)
                )
        except RuntimeError:
            return None
        finally:
            self._model.train()
        if n != n_a + n_b:
            return f"{n:,} targets in two micro-batches together, {n_a:,} and {n_b:,} in each by itself"
        total, together = float(a) + float(b), float(whole)
        if abs(together - total) > ADDITIVE_WITHIN * abs(total):
            return (
                f"the loss of two micro-batches is {together:.6g} in one pass and {total:.6g} as the sum of two: "
                "a mean instead of a sum"
            )
        return None


def module_holding(name: str, model: nn.Module) -> str | None:
    """The module with the buffer or attribute `name`, or something inside it; None for a global of a Python module."""
    parts = re.split(r"[.\[]", name)
    prefixes = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    modules = {each for each, _ in model.named_modules() if each}
    inner = next((prefix for prefix in prefixes if prefix in modules), None)
    if inner is not None:
        return inner
    return "" if hasattr(model, parts[0]) else None


def parameter_identities(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """By name: which parameter it is, its memory, shape, dtype and whether it requires a gradient."""
    return {
        name: (id(each), each.data_ptr(), tuple(each.shape), each.dtype, each.requires_grad)
        for name, each in model.named_parameters(remove_duplicate=False)
    }


def _differing(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Names whose value is another one, in the order of `after`."""
    return tuple(name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name))


def _first_difference(
    one: Sequence[TraceEntry], other: Sequence[TraceEntry]
) -> tuple[Phase, str, str] | None:
    """The first tensor that differs in two passes over the same micro-batch."""
    for a, b in zip(one, other, strict=False):
        if a.place[2:] != b.place[2:] or a.digest != b.digest:
            return b.phase, b.module, b.what
    if len(one) != len(other):
        more = max(one, other, key=len)[min(len(one), len(other))]
        return more.phase, more.module, more.what
    return None


def parameters_with_shared_memory(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """Pairs of different parameters that begin at the same address."""
    first: dict[int, str] = {}
    found = []
    for name, parameter in model.named_parameters():
        other = first.setdefault(parameter.data_ptr(), name)
        if other != name:
            found.append((other, name))
    return tuple(found)


def shadowed_imports(import_root: Path) -> tuple[tuple[str, str, str], ...]:
    """Imports in the loaded modules below `import_root` for which a file there has the name, and another one was found."""
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_relative_to(import_root) or "site-packages" in file:
            continue
        for line, name in top_level_imports(Path(file)):
            own = [
                path
                for path in (import_root / f"{name}.py", import_root / name / "__init__.py")
                if path.exists()
            ]
            imported = getattr(sys.modules.get(name), "__file__", None)
            if own and name in sys.modules and (imported is None or not own[0].samefile(imported)):
                found.append((f"{file}:{line}", str(own[0]), imported or "Python itself"))
    return tuple(found)


def top_level_imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each absolute import in a source file, the name without what follows its first dot."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.lineno, node.module.partition(".")[0]
