"""Writes a migrated state as a checkpoint, one group of tensors at a time.

Each group is written as the files of one rank, so memory holds one group, and any D can read the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.config.resolve import Resolved, training_spec
from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.migrate.mapping import Mapped
from llmrun.migrate.tensors import NewModel
from llmrun.run.origin import Origin
from llmrun.storage.checkpoint.layout import WORLD_MAX
from llmrun.storage.checkpoint.manifest import TRAINER_FORMAT
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import Progress
from llmrun.storage.checkpoint.writer import commit, save_rank
from llmrun.storage.durable import DISK, Disk
from llmrun.storage.metrics.throughput import MovingAverage

GROUP_BYTES = 1024**3
"""Parameters and moments that are in memory at a time, at least one tensor."""

DTYPE = "F32"
ATTEMPT = "migration"
COMMIT_TIMEOUT_S = 60.0

Digests = Callable[[Sequence[TensorPiece]], list[int]]


@dataclass(frozen=True)
class Written:
    """A state whose files are written but not committed.

    world: number of groups, each written as one rank.  origin: digests of the state.
    """

    step: int
    world: int
    origin: Origin


def groups_of(sizes: Mapping[str, int], group_bytes: int = GROUP_BYTES) -> list[list[str]]:
    """Divide the names, in order, into groups of at most `group_bytes` of parameters and moments, or one tensor.

    sizes: bytes of each parameter with its moments.
    """
    fewest = sum(sizes.values()) // WORLD_MAX  # so that there are at most WORLD_MAX groups
    limit = max(group_bytes, 2 * fewest)
    groups: list[list[str]] = []
    held = limit
    for name, size in sizes.items():
        if held + size > limit:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _sizes_of(new: NewModel) -> dict[str, int]:
    """Bytes of each parameter with its moments, all float32."""
    return {name: 4 * (1 + len(new.moments[name])) * prod(shape) for name, shape in new.items()}


def write_state(
    checkpoints_dir: Path,
    state: Mapped,
    step: int,
    digests: Digests,
    progress: Progress,
    group_bytes: int = GROUP_BYTES,
    disk: Disk = DISK,
) -> Written:
    """Write the files of a state after `step` finished steps; `commit_state` makes them a checkpoint.

    Raises InputError for invalid values of the script, CheckpointWriteError if a file cannot be written.
    """
    sizes = _sizes_of(state.new)
    groups = groups_of(sizes, group_bytes)
    total_bytes = sum(sizes.values())
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
        done_bytes += sum(sizes[name] for name in names)
        progress(done_bytes, total_bytes)
    weights = {name: found[name] for name in state.new}
    moments = {name: digest for name, digest in found.items() if name not in weights}
    origin = Origin(step, f"{combine_digests(weights):016x}", f"{combine_digests(moments):016x}")
    return Written(step, len(groups), origin)


def _group(state: Mapped, names: Sequence[str], step: int, digests: Digests) -> StateSnapshot:
    """The tensors of a group, as the part of one rank."""
    return _snapshot(
        step,
        model=[_piece(state, name, None) for name in names],
        optimizer=[_piece(state, name, slot) for name in names for slot in state.new.moments[name]],
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
    """Commit the files that `write_state` wrote.  Returns the checkpoint's directory.  Raises CheckpointWriteError."""
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
    """A snapshot with only the fields that a rank writes, or that rank 0 commits."""
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


def trainer_of(
    resolved: Resolved,
    step: int,
    n_windows: int,
    optimizer_step: int,
    migration: Mapping[str, Any],
    text: str,
) -> dict[str, Any]:
    """The content of trainer.json: the position in the new run, without the old model's evaluations.

    n_windows: of the training split.  optimizer_step: updates that the moments contain.  text: the script.
    """
    from llmrun.core.schedule import learning_rate

    spec = training_spec(resolved)
    batch = spec.batch
    position = position_of(resolved, step)
    return {
        "format": TRAINER_FORMAT,
        "step": step,
        "data_position": position,
        "epoch": position // n_windows,
        "schedule": {
            "name": spec.schedule.name,
            "learning_rate": learning_rate(step, batch, spec.schedule, spec.optimizer.lr),
            "steps": batch.steps,
        },
        "optimizer": {"name": spec.optimizer.name, "step": optimizer_step},
        "val_ppl": None,
        "best_val_ppl": None,
        "best_step": None,
        "best_saved_step": None,
        "metrics": {"loss_smooth": MovingAverage().state()},
        "quarantine": [],
        "migration": {**migration, "script": {**migration["script"], "text": text}},
    }


def position_of(resolved: Resolved, step: int) -> int:
    """Sequences that a run of this config has read after `step` steps."""
    return step * resolved.batch.M * resolved.batch.sequences


def optimizer_step_of(checkpoint: Checkpoint) -> int:
    """Updates that the old moments contain; AdamW's bias correction continues from there."""
    optimizer = checkpoint.trainer.get("optimizer")
    found = optimizer.get("step") if isinstance(optimizer, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else checkpoint.step
