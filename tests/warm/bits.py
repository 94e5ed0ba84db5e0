"""Compares runs bit by bit, without llmrun's own verification."""

import hashlib

from llmrun.run.directory import RunDirectory
from llmrun.storage.checkpoint.verification import open_verified
from llmrun.storage.ledger.reader import LedgerReader


def chain_of(run: RunDirectory) -> str:
    """The ledger's last chain, in hex."""
    return LedgerReader(run.ledger_file).chain.hex()


def losses_of(run: RunDirectory) -> list[str]:
    """Every recorded loss, exactly."""
    ledger = LedgerReader(run.ledger_file)
    return [ledger.record(step).loss.hex() for step in ledger.steps if step]


def tensors_of(run: RunDirectory, step: int) -> dict[str, str]:
    """sha256 of every tensor's bytes in a checkpoint, joined from its files."""
    checkpoint = open_verified(run.checkpoints / f"step-{step:08d}")
    return {
        name: hashlib.sha256(checkpoint.read(name).tobytes()).hexdigest()
        for name in checkpoint.manifest.tensors
    } | {f"rng {name}": hashlib.sha256(v.tobytes()).hexdigest() for name, v in checkpoint.rng().items()}


def assert_equal_runs(a: RunDirectory, b: RunDirectory, step: int) -> None:
    """Equal losses, equal chains, equal bytes of every tensor after `step`."""
    assert losses_of(a) == losses_of(b)
    assert chain_of(a) == chain_of(b)
    assert tensors_of(a, step) == tensors_of(b, step)
