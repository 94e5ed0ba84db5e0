"""Runs made by hand: ledger, digests of tensors, checkpoints, run.json, all consistent with one another."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord, Segment
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.writer import commit, save_rank
from llmrun.storage.durable import Disk
from llmrun.storage.ledger.record import QUANTITIES, LedgerRecord, quantities_due, tensors_due
from llmrun.storage.ledger.tensors import write_tensors
from llmrun.storage.ledger.writer import LedgerWriter
from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]

SHAPES = {"embed.weight": (8, 4), "layers.0.up.weight": (6, 4), "norm.weight": (4,)}
PREIMAGES = {
    "config": {"seed": 42, "optimizer": {"lr": 0.001}},
    "data": {"train": "aa"},
    "code": {"llmrun/core/step.py": "bb"},
    "environment": {"torch": "2.13.0"},
}


class QuickDisk(Disk):
    """A disk that never waits for the device."""

    def fsync(self, descriptor: int) -> None:
        """Leave it to the system."""

    def fsync_directory(self, path: Path) -> None:
        """Leave it to the system."""


@dataclass
class State:
    """What a run is at one step; tests change it in place."""

    step: int
    weights: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    rng: dict[str, np.ndarray]


def state_at(step: int) -> State:
    """The state after `step` steps: numbers drawn from step and name."""

    def values(kind: str, name: str) -> np.ndarray:
        key = int.from_bytes(hashlib.sha256(f"{kind} {name} {step}".encode()).digest()[:4], "little")
        return np.random.default_rng(key).standard_normal(SHAPES[name], dtype=np.float32)

    return State(
        step,
        {name: values("weights", name) for name in SHAPES},
        {name: values("gradients", name) for name in SHAPES},
        {f"{name}.{slot}": values(slot, name) for name in SHAPES for slot in ("exp_avg", "exp_avg_sq")},
        {"torch": np.arange(step, step + 16, dtype=np.uint8), "numpy": np.array([step], dtype=np.uint64)},
    )


def digest_of(values: np.ndarray) -> int:
    """Any 64-bit digest of a tensor's bytes."""
    return int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:8], "little")


def digests_of(tensors: dict[str, np.ndarray]) -> dict[str, TensorDigest]:
    """The digest of each tensor."""
    return {name: TensorDigest("F32", values.shape, digest_of(values)) for name, values in tensors.items()}


def record_of(state: State) -> LedgerRecord:
    """What the ledger says of a state."""
    step = state.step
    full = LedgerRecord(
        step=step,
        tokens=1024 * step,
        loss=6.0 / (1 + step),
        grad_norm=1.5 + step,
        learning_rate=1e-3,
        tokens_digest=11 * step,
        gradients_digest=combine_digests(digests_of(state.gradients)),
        weights_digest=combine_digests(digests_of(state.weights)),
        optimizer_digest=combine_digests(digests_of(state.optimizer)),
    )
    return replace(full, **dict.fromkeys(full.quantities - quantities_due(step)))


def keep_tensors(run: RunDirectory, state: State) -> None:
    """What `ledger-tensors/` keeps of a state."""
    groups = {"weights": digests_of(state.weights)}
    if state.step:
        groups |= {"gradients": digests_of(state.gradients), "optimizer": digests_of(state.optimizer)}
    write_tensors(run.ledger_tensors, state.step, groups, QuickDisk())


def save(run: RunDirectory, state: State, chain: str, fingerprint: Fingerprint) -> Path:
    """A checkpoint of a state."""
    kinds = {f"{name}.{slot}": f"optimizer/{slot}" for name in SHAPES for slot in ("exp_avg", "exp_avg_sq")}
    pieces = [
        TensorPiece(name, kinds.get(name, "parameter"), "F32", values.shape, 0, values.reshape(-1))
        for name, values in (state.weights | state.optimizer).items()
    ]
    snapshot = StateSnapshot(
        step=state.step,
        attempt="1",
        tokens=1024 * state.step,
        fingerprint=fingerprint.digest,
        parts=fingerprint.parts,
        chain=chain,
        trainer={"step": state.step},
        rng=state.rng,
        model=[piece for piece in pieces if piece.kind == "parameter"],
        optimizer=[piece for piece in pieces if piece.kind != "parameter"],
        digests=lambda pieces: [digest_of(piece.values) for piece in pieces],
    )
    save_rank(run.checkpoints, snapshot, 0, 1, QuickDisk())
    return commit(run.checkpoints, snapshot, 1, 0.1, QuickDisk())


def segment(
    number: int, from_step: int, to_step: int, fingerprint: Fingerprint, base: Fingerprint
) -> Segment:
    """One segment of run.json."""
    changed = {
        part: fingerprint.preimages[part]
        for part in base.parts
        if fingerprint.parts[part] != base.parts[part]
    }
    values = {
        "segment": number,
        "D": 1,
        "from_step": from_step,
        "to_step": to_step,
        "why": "finished",
        "fingerprint": fingerprint.digest,
        "parts": fingerprint.parts,
        "preimages": changed,
    }
    return Segment(**{field.name: values.get(field.name) for field in fields(Segment)})


def make_run(
    path: Path,
    last_step: int = 24,
    alter: Callable[[State], None] = lambda _: None,
    change: Callable[[LedgerRecord], LedgerRecord] = lambda record: record,
    checkpoints: Iterable[int] = (10, 20),
    preimages: dict[str, object] | None = None,
    later: tuple[int, dict[str, object]] | None = None,
    status: str = "finished",
    records: Iterable[str] = QUANTITIES,
) -> Path:
    """A run of `last_step` steps.

    alter: changes a state before it is recorded and saved.  change: changes a record before it is written.
    later: (step, preimages) of a second segment.  records: the quantities that the ledger holds beside the step.
    """
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.checkpoints.mkdir()
    fingerprint = Fingerprint(PREIMAGES | (preimages or {}))
    kept = {"step", *records}
    writer = LedgerWriter.create(run.ledger_file, "test", last_step, kept, disk=QuickDisk())
    for step in range(last_step + 1):
        state = state_at(step)
        alter(state)
        full = change(record_of(state))
        record = writer.append(replace(full, **dict.fromkeys(full.quantities - kept)))
        if tensors_due(step):
            keep_tensors(run, state)
        if step in set(checkpoints):
            save(run, state, record.chain.hex(), fingerprint)
    writer.close()
    segments = [segment(1, 0, last_step, fingerprint, fingerprint)]
    if later is not None:
        segments.append(segment(2, later[0], last_step, Fingerprint(PREIMAGES | later[1]), fingerprint))
    values = {
        "identity": path.name,
        "status": status,
        "steps": last_step,
        "fingerprint": fingerprint.as_json(),
        "segments": segments,
    }
    record = RunRecord(**{field.name: values.get(field.name) for field in fields(RunRecord)})
    record.write(run.record_file)
    return path


def from_step(step: int, act: Callable[[State], None]) -> Callable[[State], None]:
    """Do `act` to the states from `step` on."""
    return lambda state: act(state) if state.step >= step else None


def flip(values: np.ndarray) -> None:
    """Flip the lowest bit of the first element."""
    values.reshape(-1).view(np.uint32)[0] ^= 1


@pytest.fixture
def runs(tmp_path, monkeypatch) -> SimpleNamespace:
    """Ways to make runs below `runs/` of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    make = lambda name, **options: make_run(Path("runs") / name, **options)  # noqa: E731
    return SimpleNamespace(make=make, from_step=from_step, flip=flip, path=lambda name: Path("runs") / name)
