"""The operands of `llmrun verify`: run directories, checkpoints and ledger files."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord, contradictions_of, read_record
from llmrun.storage.checkpoint.layout import MANIFEST, step_name, steps_in
from llmrun.storage.ledger.reader import LedgerReader, is_ledger

Kind = Literal["run", "checkpoint", "ledger"]


@dataclass(frozen=True)
class Operand:
    """One side of a comparison.

    label:       A or B.
    ledger:      of a run or a ledger file; None for a checkpoint.
    record:      run.json, if there is one.
    checkpoints: committed checkpoints by step.
    """

    label: str
    path: Path
    kind: Kind
    ledger: LedgerReader | None
    record: RunRecord | None
    checkpoints: dict[int, Path]

    @property
    def ledger_tensors(self) -> Path:
        """The directory with digests of single tensors; need not exist."""
        return RunDirectory(self.path).ledger_tensors

    @cached_property
    def contradictions(self) -> tuple[str, ...]:
        """One line for each value that run.json states twice and differently; if there are any, none of it is used."""
        found = [] if self.record is None else contradictions_of(self.record)
        return tuple(f"run.json of {self.label} contradicts itself: {line}" for line in found)

    @property
    def running(self) -> bool:
        """Whether run.json says that the run is in progress (it may have been killed)."""
        return self.record is not None and self.record.status == "running"


def open_operand(label: str, path: Path) -> Operand:
    """Open the run, checkpoint or ledger at `path`.

    Raises InputError if it is none of the three, DamagedError if a ledger's header is damaged.
    """
    if path.is_dir():
        return _open_directory(label, path)
    if not path.exists():
        raise InputError(f"no such file or directory: {path}", hints=[WANTED])
    if not path.is_file() or not is_ledger(path):
        raise InputError(f"{path} must be a run, a checkpoint or a ledger", hints=[WANTED])
    return Operand(label, path, "ledger", LedgerReader(path), None, {})


WANTED = "give a run's directory or name, a checkpoint's directory, or a ledger.bin"


def _open_directory(label: str, path: Path) -> Operand:
    run = RunDirectory(path)
    if (path / MANIFEST).is_file():
        return Operand(label, path, "checkpoint", None, None, {})
    if run.ledger_file.is_file():
        record = read_record(run.record_file, compared=False) if run.is_run else None
        # The ledger is opened last: a run in progress records a step before it saves it.
        found = {step: run.checkpoints / step_name(step) for step in steps_in(run.checkpoints)}
        return Operand(label, path, "run", LedgerReader(run.ledger_file), record, found)
    if run.is_run:
        raise InputError(f"{path} has no ledger: no step was recorded yet")
    raise InputError(f"{path} must be a run or a checkpoint", hints=[WANTED])
