"""Cuts a ledger back to a checkpoint's step and keeps what was cut aside.

First the tail is written under its own name and forced to the device, then the ledger is replaced by its kept
part: whatever happens in between, every record stands in at least one of the two.
"""

from pathlib import Path

from llmrun.durable import DISK, Disk, replace_file
from llmrun.errors import RefusedError
from llmrun.ledger.header import Header
from llmrun.ledger.reader import LedgerReader


def cut_back(path: Path, step: int | None, tail_path: Path, disk: Disk = DISK) -> Path | None:
    """Cut the ledger at `path` behind the record of `step`; None keeps not even record 0.

    The records that follow become a ledger of their own at `tail_path`, with their first step and the chain
    before it in its header.  A last record that is torn belongs to neither.
    Returns `tail_path`, or None where no record followed.
    Raises RefusedError where the ledger is shorter than `step`, or where a record up to it does not hold.
    """
    ledger = LedgerReader(path)
    n_kept = 0 if step is None else step - ledger.first_step + 1
    _check_kept(ledger, step, n_kept)
    n_cut = ledger.n_records - n_kept
    if n_cut:
        first_step = ledger.first_step + n_kept
        chain_before = ledger.chain_at(first_step - 1) if first_step else b""
        header = Header(ledger.header.producer, ledger.header.quantities, first_step, chain_before)
        replace_file(tail_path, [header.to_bytes(), ledger.words[n_kept:].data], disk)
    if n_cut or not ledger.ends_cleanly:
        kept = [ledger.words[:n_kept].data] if n_kept else []
        replace_file(path, [ledger.header.to_bytes(), *kept], disk)
    return tail_path if n_cut else None


def _check_kept(ledger: LedgerReader, step: int | None, n_kept: int) -> None:
    """See that the records to keep are there and hold.  Raises RefusedError."""
    if n_kept < 0:
        raise RefusedError(
            f"the ledger {ledger.path} begins after step {ledger.first_step - 1}, it cannot be cut back to {step}"
        )
    if ledger.n_records < n_kept:
        raise RefusedError(
            f"the ledger {ledger.path} ends at step {ledger.last_step}, before step {step} of the checkpoint",
            hints=["restore the ledger from a copy, or resume from an older checkpoint: `--from STEP`"],
        )
    if step is not None:
        refuse_broken(ledger, step)


def refuse_broken(ledger: LedgerReader, step: int) -> None:
    """See that all records up to `step` hold.  Raises RefusedError."""
    broken = ledger.verify_chain()
    if broken is not None and broken <= step:
        raise RefusedError(
            f"record {broken} of the ledger {ledger.path} does not hold: it was damaged or edited",
            hints=["restore the ledger from a copy, or resume from a checkpoint before it: `--from STEP`"],
        )
