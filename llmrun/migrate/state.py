"""Writes a mapped state as a checkpoint, by the writer's own protocol and a group of tensors at a time.

Each group is written as the files of one rank: so memory holds one group, and any D reads the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.core.tensor_digest import TensorDigest, combine_digests
from llmrun.migrate.mapping import Mapped
from llmrun.migrate.tensors import Shape
from llmrun.plan.checkpoint_size import BYTES_PER_PARAMETER
from llmrun.run.origin import Origin
from llmrun.storage.checkpoint.layout import WORLD_MAX
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.verification import Progress
from llmrun.storage.checkpoint.writer import commit, save_rank
from llmrun.storage.durable import DISK, Disk

SLOTS = ("exp_avg", "exp_avg_sq")
"""AdamW's moments, by the names that training gives them."""

GROUP_BYTES = 1024**3
DTYPE = "F32"
ATTEMPT = "migration"
COMMIT_TIMEOUT_S = 60.0

Digests = Callable[[Sequence[TensorPiece]], list[int]]


@dataclass(frozen=True)
class Written:
    """A state whose files are on disk, not committed.

    world:  groups, each written as one rank.  origin: the state by content.
    """

    step: int
    world: int
    origin: Origin


def groups_of(shapes: Mapping[str, Shape], group_bytes: int = GROUP_BYTES) -> list[list[str]]:
    """The names in order, cut into groups of at most `group_bytes` of parameters and moments, or one tensor."""
    fewest = sum(map(_bytes_of, shapes.values())) // WORLD_MAX  # so that the file names suffice
    limit = max(group_bytes, 2 * fewest)
    groups: list[list[str]] = []
    held = limit
    for name, shape in shapes.items():
        if held + _bytes_of(shape) > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += _bytes_of(shape)
    return groups


def _bytes_of(shape: Shape) -> int:
    return BYTES_PER_PARAMETER * prod(shape)


def write_state(
    checkpoints_dir: Path,
    state: Mapped,
    step: int,
    digests: Digests,
    progress: Progress,
    group_bytes: int = GROUP_BYTES,
    disk: Disk = DISK,
) -> Written:
    """Write the files of a state after `step` finished steps; `commit_state` makes a checkpoint of them.

    Raises InputError where the script makes something wrong, CheckpointWriteError where the disk refuses.
    """
    groups = groups_of(state.new, group_bytes)
    total_bytes = sum(map(_bytes_of, state.new.values()))
    found: dict[str, TensorDigest] = {}
    done_bytes = 0

    def noted(pieces: Sequence[TensorPiece]) -> list[int]:
        values = digests(pieces)
        found.update(
            (piece.name, TensorDigest(DTYPE, piece.shape, digest))
            for piece, digest in zip(pieces, values, strict=True)
        )
        return values

    for rank, names in enumerate(groups):
        save_rank(checkpoints_dir, _group(state, names, step, noted), rank, len(groups), disk)
        done_bytes += sum(_bytes_of(state.new[name]) for name in names)
        progress(done_bytes, total_bytes)
    weights = {name: found[name] for name in state.new}
    moments = {name: digest for name, digest in found.items() if name not in weights}
    origin = Origin(step, f"{combine_digests(weights):016x}", f"{combine_digests(moments):016x}")
    return Written(step, len(groups), origin)


def _group(state: Mapped, names: Sequence[str], step: int, digests: Digests) -> StateSnapshot:
    """A group's tensors in memory, as a rank's part of a save; gone when that is written."""
    return _snapshot(
        step,
        model=[_piece(state, name, None) for name in names],
        optimizer=[_piece(state, name, slot) for name in names for slot in SLOTS],
        digests=digests,
    )


def _piece(state: Mapped, name: str, slot: str | None) -> TensorPiece:
    values = state.values(name, slot)
    full_name, kind = (name, "parameter") if slot is None else (f"{name}.{slot}", f"optimizer/{slot}")
    return TensorPiece(full_name, kind, DTYPE, values.shape, 0, values.reshape(-1))


def commit_state(
    checkpoints_dir: Path,
    written: Written,
    *,
    tokens: int,
    fingerprint: str,
    parts: Mapping[str, str],
    trainer: Mapping[str, Any],
    rng: Mapping[str, np.ndarray],
    disk: Disk = DISK,
) -> Path:
    """Make the checkpoint of what `write_state` wrote; returns its directory.  Raises CheckpointWriteError."""
    snapshot = _snapshot(
        written.step,
        tokens=tokens,
        fingerprint=fingerprint,
        parts=parts,
        chain=written.origin.chain.hex(),
        trainer=trainer,
        rng=rng,
    )
    return commit(checkpoints_dir, snapshot, written.world, COMMIT_TIMEOUT_S, disk)


def _snapshot(step: int, **given: Any) -> StateSnapshot:
    """A snapshot of which only some fields count: a rank's pieces, or what rank 0 commits."""
    nothing: dict[str, Any] = {
        "tokens": 0,
        "fingerprint": "",
        "parts": {},
        "chain": "",
        "trainer": {},
        "rng": {},
        "model": (),
        "optimizer": (),
        "digests": lambda _: [],
    }
    return StateSnapshot(step=step, attempt=ATTEMPT, **{**nothing, **given})
