"""Small states, cut among any number of writers, saved and compared."""

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmrun.storage.checkpoint.layout import MANIFEST, SUMS, group_of
from llmrun.storage.checkpoint.manifest import render_sums
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.retention import sweep
from llmrun.storage.checkpoint.safetensors import DTYPES
from llmrun.storage.checkpoint.writer import commit, save_rank
from llmrun.storage.durable import Disk


class QuickDisk(Disk):
    """A disk that never waits for the device: for saves that only set a scene."""

    def fsync(self, descriptor: int) -> None:
        """Leave it to the system."""

    def fsync_directory(self, path: Path) -> None:
        """Leave it to the system."""


QUICK = QuickDisk()


@dataclass(frozen=True, eq=False)
class Whole:
    """A whole tensor of a state: `values` is flat."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray

    @property
    def numel(self) -> int:
        """The number of elements."""
        return self.values.size


def whole(name: str, kind: str, dtype: str, shape: tuple[int, ...], seed: int) -> Whole:
    """A tensor with bits drawn from a seed (0 and 1 for BOOL)."""
    carrier = DTYPES[dtype]
    count = int(np.prod(shape, dtype=np.int64))
    drawn = np.random.default_rng(seed).integers(0, 256, count * carrier.itemsize, dtype=np.uint8)
    values = (drawn % 2).view(bool) if dtype == "BOOL" else drawn.view(carrier)
    return Whole(name, kind, dtype, shape, values)


def small_state(seed: int = 0) -> list[Whole]:
    """Six tensors of several kinds, types and awkward shapes."""
    return [
        whole("model.embed_tokens.weight", "parameter", "F32", (7, 5), seed + 1),
        whole("model.norm.weight", "parameter", "BF16", (9,), seed + 2),
        whole("counter", "buffer", "I64", (), seed + 3),
        whole("mask", "extra", "BOOL", (3, 1, 2), seed + 4),
        whole("model.embed_tokens.weight.exp_avg", "optimizer/exp_avg", "F32", (7, 5), seed + 5),
        whole("model.embed_tokens.weight.exp_avg_sq", "optimizer/exp_avg_sq", "F64", (7, 5), seed + 6),
    ]


def digest_of(values: np.ndarray, start: int) -> int:
    """Any digest whose pieces add up mod 2^64."""
    octets = values.view(np.uint8).astype(np.uint64)
    weights = (np.arange(octets.size, dtype=np.uint64) + np.uint64(start * values.itemsize)) * np.uint64(
        2**57 + 3
    )
    return int((octets * (weights + np.uint64(1))).sum(dtype=np.uint64))


def even_cuts(state: Sequence[Whole], world: int) -> dict[str, list[int]]:
    """The world+1 cuts of each tensor: as equal as whole elements allow."""
    return {tensor.name: [tensor.numel * rank // world for rank in range(world + 1)] for tensor in state}


def pieces_of_rank(state: Sequence[Whole], cuts: dict[str, list[int]], rank: int) -> list[TensorPiece]:
    """What `rank` writes; a tensor without elements is named by rank 0."""
    pieces = []
    for tensor in state:
        start, stop = cuts[tensor.name][rank], cuts[tensor.name][rank + 1]
        if start == stop and not (tensor.numel == 0 and rank == 0):
            continue
        values = tensor.values[start:stop]
        pieces.append(TensorPiece(tensor.name, tensor.kind, tensor.dtype, tensor.shape, start, values))
    return pieces


def snapshot(
    step: int, pieces: Sequence[TensorPiece], attempt: str = "001", **changed: object
) -> StateSnapshot:
    """A snapshot of these pieces."""
    fields = {
        "step": step,
        "attempt": attempt,
        "tokens": step * 1024,
        "fingerprint": hashlib.sha256(b"fingerprint").hexdigest(),
        "parts": {"config": hashlib.sha256(b"config").hexdigest()},
        "chain": hashlib.sha256(str(step).encode()).hexdigest(),
        "trainer": {"step": step, "val_ppl": 12.5, "best_saved_step": step, "text": "μ"},
        "rng": {"torch": np.arange(step, step + 16, dtype=np.uint8), "position": np.array(step)},
        "model": [piece for piece in pieces if group_of(piece.kind) == "model"],
        "optimizer": [piece for piece in pieces if group_of(piece.kind) == "optimizer"],
        "digests": lambda pieces: [digest_of(piece.values, piece.start) for piece in pieces],
    }
    return StateSnapshot(**(fields | changed))


def save(
    directory: Path,
    step: int,
    world: int = 2,
    state: Sequence[Whole] | None = None,
    cuts: dict[str, list[int]] | None = None,
    attempt: str = "001",
    disk: Disk = QUICK,
    timeout_s: float = 0.05,
) -> Path:
    """Save a state by `world` writers, one after the other, rank 0 last; first what others left is swept."""
    state = small_state(step) if state is None else state
    cuts = even_cuts(state, world) if cuts is None else cuts
    snapshots = [snapshot(step, pieces_of_rank(state, cuts, rank), attempt) for rank in range(world)]
    sweep(directory, disk=disk)
    for rank in reversed(range(world)):
        save_rank(directory, snapshots[rank], rank, world, disk)
    return commit(directory, snapshots[0], world, timeout_s, disk)


def holds(checkpoint: Checkpoint, state: Sequence[Whole]) -> bool:
    """Whether a checkpoint holds exactly this state."""
    tensors = checkpoint.manifest.tensors
    same = [
        checkpoint.read(tensor.name).tobytes() == tensor.values.tobytes()
        and checkpoint.read_all(tensor.name).shape == tensor.shape
        and (tensors[tensor.name].kind, tensors[tensor.name].dtype) == (tensor.kind, tensor.dtype)
        and tensors[tensor.name].digest == f"{digest_of(tensor.values, 0):016x}"
        for tensor in state
    ]
    return all(same) and {tensor.name for tensor in state} == tensors.keys()


def resign(checkpoint: Path, change: Callable[[dict], object] | None = None) -> None:
    """What a forger does: state the true size and sha256 of every file again, after changing the manifest."""
    document = json.loads((checkpoint / MANIFEST).read_text())
    for name, row in document["files"].items():
        if (checkpoint / name).is_file():
            content = (checkpoint / name).read_bytes()
            row |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    sums = {name: row["sha256"] for name, row in document["files"].items()}
    if change is not None:
        change(document)
    resign_text(checkpoint, json.dumps(document), sums)


def resign_text(checkpoint: Path, manifest: str, sums: dict[str, str] | None = None) -> None:
    """Write any text as the manifest, with SHA256SUMS that fits it."""
    if sums is None:
        document = json.loads((checkpoint / MANIFEST).read_text())
        sums = {name: row["sha256"] for name, row in document["files"].items()}
    (checkpoint / MANIFEST).write_text(manifest)
    (checkpoint / SUMS).write_bytes(
        render_sums(sums | {MANIFEST: hashlib.sha256(manifest.encode()).hexdigest()})
    )


@dataclass
class FaultyDisk(QuickDisk):
    """A disk whose operation number `fails_at` raises OSError, or kills; afterwards it works, or never again."""

    fails_at: int
    code: int = errno.EIO
    for_ever: bool = False
    count: int = 0
    names: list[str] = field(default_factory=list)

    def _step(self, name: str) -> None:
        self.count += 1
        self.names.append(name)
        if self.count == self.fails_at or (self.for_ever and self.count > self.fails_at):
            self.fail(name)

    def fail(self, name: str) -> None:
        """What the chosen operation does instead."""
        raise OSError(self.code, f"injected at {name}")


def _faulty(name: str) -> Callable[..., object]:
    def operation(self: FaultyDisk, *arguments: object) -> object:
        self._step(name)
        return getattr(QuickDisk, name)(self, *arguments)

    return operation


for _name in (
    "create",
    "write",
    "size",
    "fsync",
    "close",
    "rename",
    "fsync_directory",
    "make_directory",
    "remove_file",
    "remove_tree",
):
    setattr(FaultyDisk, _name, _faulty(_name))


@pytest.fixture(scope="session")
def states() -> SimpleNamespace:
    """The functions above, for tests and for hypothesis."""
    return SimpleNamespace(
        Whole=Whole,
        whole=whole,
        small=small_state,
        even_cuts=even_cuts,
        pieces=pieces_of_rank,
        snapshot=snapshot,
        save=save,
        holds=holds,
        resign=resign,
        resign_text=resign_text,
        digest=digest_of,
        FaultyDisk=FaultyDisk,
        quick=QUICK,
    )
