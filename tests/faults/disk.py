"""Damage on disk."""

import shutil
from pathlib import Path

import numpy as np

from llmrun.core.order import Order
from llmrun.data.manifest import read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.run.directory import RunDirectory
from llmrun.storage.ledger.chain import next_chain
from llmrun.storage.ledger.reader import HEADER_BYTES, LedgerReader
from llmrun.storage.ledger.record import BODY_BYTES, RECORD_BYTES

SEED, L_CTX, SAMPLES = 42, 32, 16
"""Of the undisturbed run: 16 sequences of 32 tokens make a step."""


def checkpoint_of(run: Path, step: int) -> Path:
    """A checkpoint's directory."""
    return run / "checkpoints" / f"step-{step:08d}"


def tear_last_record(run: Path) -> None:
    """Only the first 64 bytes of the last record are there."""
    ledger = RunDirectory(run).ledger_file
    last = HEADER_BYTES + LedgerReader(ledger).last_step * RECORD_BYTES
    _write(ledger, last + 64, bytes(RECORD_BYTES - 64))


def edit_record(run: Path, step: int) -> None:
    """The lowest bit of the loss flips."""
    ledger = RunDirectory(run).ledger_file
    at = HEADER_BYTES + step * RECORD_BYTES + 16
    _write(ledger, at, bytes([ledger.read_bytes()[at] ^ 1]))


def forge_record(run: Path, step: int) -> None:
    """As `edit_record`, and every link from there on is computed anew."""
    edit_record(run, step)
    ledger = RunDirectory(run).ledger_file
    raw = ledger.read_bytes()
    before = LedgerReader(ledger).chain_at(step - 1)
    for number in range(step, LedgerReader(ledger).last_step + 1):
        at = HEADER_BYTES + number * RECORD_BYTES
        before = next_chain(before, raw[at : at + BODY_BYTES])
        _write(ledger, at + BODY_BYTES, before)


def remove_record(run: Path, step: int) -> None:
    """The file without one record."""
    ledger = RunDirectory(run).ledger_file
    raw, at = ledger.read_bytes(), HEADER_BYTES + step * RECORD_BYTES
    ledger.write_bytes(raw[:at] + raw[at + RECORD_BYTES :])


def copy_checkpoint(source: Path, step: int, run: Path, under: int) -> None:
    """A whole checkpoint in the place of another."""
    shutil.rmtree(checkpoint_of(run, under))
    shutil.copytree(checkpoint_of(source, step), checkpoint_of(run, under))


def flip_byte(run: Path, step: int) -> None:
    """The lowest bit of the last byte of the weights' file flips."""
    file = checkpoint_of(run, step) / "model-00001-of-00001.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def change_token_of_sample(data: Path, step: int, sample: int) -> None:
    """The lowest bit of token 5 of one sample of a step flips in the dataset's file."""
    manifest = read_manifest(data)
    split = open_split(data, manifest, "train", L_CTX, verify=False)
    window = Order(SEED, split.n_windows).entry((step - 1) * SAMPLES + sample)
    (shard,) = manifest.splits["train"].shards
    tokens = np.fromfile(data / shard.name, dtype="<u2")
    tokens[window * L_CTX + 5] ^= 1
    (data / shard.name).write_bytes(tokens.tobytes())


def _write(path: Path, at: int, content: bytes) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + content + raw[at + len(content) :])
