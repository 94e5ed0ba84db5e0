"""The trace of re-executed steps: one digest for each tensor that modules exchange, in the order of execution.

trace.jsonl   one JSON array a line: step, micro-batch, phase, module, what, dtype, shape, digest
trace-R.jsonl the same of rank R > 0, with the micro-batches that it ran
kept.bin      the bytes of one of these tensors, little-endian, contiguous
kept.json     {"entry": index of that tensor's line, from 0}

Workers write traces (`llmrun.runtime.instruments`); reading needs no torch.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from llmrun.storage.durable import replace_file, replace_json, replace_text

TRACE_NAME = "trace.jsonl"
KEPT_BYTES = "kept.bin"
KEPT_ENTRY = "kept.json"

Phase = Literal["forward", "backward", "recompute"]
"""`recompute`: the forward pass of a module that is executed again for the backward pass."""


def trace_name(rank: int) -> str:
    """The name of a rank's trace."""
    return TRACE_NAME if rank == 0 else f"trace-{rank}.jsonl"


@dataclass(frozen=True)
class TraceEntry:
    """One tensor.

    step:        the step that it belongs to (1-based, as in the ledger).
    micro_batch: number of the micro-batch in the step.
    module:      dotted name of the module whose code made the tensor; empty for the model itself.
    what:        `output`, `input of CHILD` (made between the children of `module`), `gradient 0 of MmBackward0`.
    dtype:       as torch names it, without `torch.`.
    digest:      64 bits, as in the ledger.
    """

    step: int
    micro_batch: int
    phase: Phase
    module: str
    what: str
    dtype: str
    shape: tuple[int, ...]
    digest: int

    @property
    def place(self) -> tuple[Any, ...]:
        """Everything except the digest: equal in two executions of the same code."""
        return astuple(self)[:-1]


def write_trace(directory: Path, entries: Iterable[TraceEntry], rank: int = 0) -> None:
    """Write the trace of one rank of an execution durably."""
    lines = (json.dumps(astuple(entry), ensure_ascii=False) for entry in entries)
    replace_text(directory / trace_name(rank), "".join(f"{line}\n" for line in lines))


def read_trace(path: Path) -> list[TraceEntry]:
    """The entries in a file that `write_trace` wrote."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        step, micro_batch, phase, module, what, dtype, shape, digest = json.loads(line)
        entries.append(TraceEntry(step, micro_batch, phase, module, what, dtype, tuple(shape), digest))
    return entries


def read_traces(directory: Path) -> list[TraceEntry]:
    """The entries of all ranks of an execution, rank by rank; empty if it wrote none."""
    found: list[TraceEntry] = []
    for rank in itertools.count():
        path = directory / trace_name(rank)
        if not path.exists():
            return found
        found += read_trace(path)
    raise AssertionError


def write_kept(directory: Path, number: int, content: bytes) -> None:
    """Keep the bytes of the tensor of entry `number`, replacing what was kept before."""
    replace_file(directory / KEPT_BYTES, [content])
    replace_json(directory / KEPT_ENTRY, {"entry": number})


def read_kept(directory: Path) -> tuple[int, bytes] | None:
    """(index of the entry, bytes of its tensor); None if none was kept."""
    stated = directory / KEPT_ENTRY
    if not stated.exists():
        return None
    return int(json.loads(stated.read_text())["entry"]), (directory / KEPT_BYTES).read_bytes()


def first_different(a: list[TraceEntry], b: list[TraceEntry]) -> int | None:
    """The index of the first entry that differs; None if all are equal."""
    for number, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return number
    return None if len(a) == len(b) else min(len(a), len(b))
