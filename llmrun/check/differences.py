"""The first difference between two executions of the same steps: a tensor of a module, a record, or a saved tensor."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmrun.check.scratch import Execution
from llmrun.run.trace import TraceEntry
from llmrun.storage.ledger.compare import first_difference
from llmrun.text import listed

_TENSORS_MAX = 3
_SAVED_STATES = "saved-states.json"


@dataclass(frozen=True)
class Difference:
    """Where two executions differ first.

    step:     1-based.
    phase:    forward, backward or recompute if it is a tensor of a module, else None.
    module:   dotted name; empty for the model itself; None if no module's tensors differ.
    micro_batch: number in the step; None if no module's tensors differ.
    quantity: what differs, in words: `output`, `gradient 0 of MmBackward0`; of a record `gradients`, `weights`, …
    tensors:  names of the tensors that differ, if only saved states do.
    """

    step: int
    quantity: str
    phase: str | None = None
    module: str | None = None
    micro_batch: int | None = None
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.module is not None:
            phase = "recomputed forward" if self.phase == "recompute" else self.phase
            return f"{phase} of {named(self.module)} ({self.quantity}, micro-batch {self.micro_batch}, step {self.step})"
        names = f" of {listed(self.tensors, _TENSORS_MAX)}" if self.tensors else ""
        return f"{self.quantity}{names} after step {self.step}; all tensors that modules exchange are equal"


def named(module: str) -> str:
    """A module's dotted name; the model itself has none."""
    return module or "the model itself"


def difference_between(reference: Execution, other: Execution) -> Difference | None:
    """The first difference, in the order in which `reference` executed; None if all that both recorded is equal.

    `other` may hold only the last steps, and lack nodes of the backward pass.
    """
    return (
        recomputed_difference(other.trace)
        or module_difference(reference.trace, other.trace)
        or record_difference(reference, other)
        or state_difference(other)
    )


Place = tuple[Any, ...]


def numbered(entries: Iterable[TraceEntry]) -> Iterator[tuple[Place, TraceEntry]]:
    """Each entry with a key that is unique in one execution: its place, and how often the place came before."""
    seen: Counter[Place] = Counter()
    for entry in entries:
        yield (*entry.place, seen[entry.place]), entry
        seen[entry.place] += 1


def module_difference(reference: Iterable[TraceEntry], other: Iterable[TraceEntry]) -> Difference | None:
    """The first tensor that differs, or that only one of the forward passes has."""
    digests = {key: entry.digest for key, entry in numbered(other) if entry.phase != "recompute"}
    steps = {key[0] for key in digests}
    for key, entry in numbered(reference):
        if entry.step not in steps or entry.phase == "recompute":
            continue
        if key not in digests and entry.phase == "backward":
            continue
        if digests.get(key) != entry.digest:
            return _of_entry(entry)
    return None


def recomputed_difference(entries: list[TraceEntry]) -> Difference | None:
    """The first recomputed tensor that differs from the one of the forward pass in the same execution."""
    forward: dict[Place, list[int]] = {}
    for entry in entries:
        if entry.phase == "forward":
            forward.setdefault(_without_phase(entry), []).append(entry.digest)
    for entry in entries:
        if entry.phase == "recompute":
            expected = forward.get(_without_phase(entry))
            if expected is not None and entry.digest not in expected:
                return _of_entry(entry)
    return None


def _without_phase(entry: TraceEntry) -> Place:
    return (entry.step, entry.micro_batch, entry.module, entry.what, entry.dtype, entry.shape)


def _of_entry(entry: TraceEntry) -> Difference:
    return Difference(entry.step, entry.what, entry.phase, entry.module, entry.micro_batch)


def record_difference(reference: Execution, other: Execution) -> Difference | None:
    """The first step whose ledger records differ."""
    if reference.ledger is None or other.ledger is None:
        return None
    found = first_difference(reference.ledger, other.ledger)
    return None if found is None else Difference(found.step, found.quantity)


def state_difference(other: Execution) -> Difference | None:
    """The first checkpoint of the reference whose bytes differ from the executed state."""
    for step, differing in saved_states(other):
        if differing:
            return Difference(step, "state", tensors=differing)
    return None


def saved_states(other: Execution) -> list[tuple[int, tuple[str, ...]]]:
    """(step, names of differing tensors) of all states that were compared with checkpoints, ascending."""
    path = other.run.path / _SAVED_STATES
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return sorted(
        (int(name.rpartition("-")[2]), tuple(entry["differing"]))
        for name, entry in found.items()
        if entry is not None
    )
