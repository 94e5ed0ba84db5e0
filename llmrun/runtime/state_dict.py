"""The state of training as a checkpoint's snapshot, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from llmrun.core.generators import generator_states, seed_boundary
from llmrun.core.schedule import learning_rate
from llmrun.core.state import WEIGHTS, TrainingState, by_name, slots_by_suffix, whole_digests
from llmrun.errors import RefusedError
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.async_writer import HostBuffers, digests_of
from llmrun.runtime.evaluation import ValidationHistory
from llmrun.runtime.model_watch import buffer_digests
from llmrun.storage.checkpoint.manifest import TRAINER_FORMAT
from llmrun.storage.checkpoint.parts import StateSnapshot
from llmrun.storage.checkpoint.reader import Checkpoint


def snapshot_of(
    state: TrainingState,
    buffers: HostBuffers,
    worker_spec: WorkerSpec,
    chain: bytes,
    history: ValidationHistory,
    smooth: dict[str, float],
) -> StateSnapshot:
    """This rank's part of the state after `state.step` steps, whose tensors were copied to `buffers`.

    chain, smooth: of rank 0; those of other ranks are ignored.
    Sets all generators to the boundary after the step, which is the state that is saved.
    """
    seed_boundary(state.spec.seed, state.step)
    return StateSnapshot(
        step=state.step,
        attempt=f"segment-{worker_spec.segment:03d}",
        tokens=state.step * state.spec.batch.gb_tok,
        fingerprint=worker_spec.fingerprint,
        parts=worker_spec.parts,
        chain=chain.hex(),
        trainer=_trainer(state, history, smooth),
        rng=generator_states(),
        model=buffers.model,
        optimizer=buffers.optimizer,
        digests=digests_of,
    )


def _trainer(state: TrainingState, history: ValidationHistory, smooth: dict[str, float]) -> dict[str, Any]:
    """The content of trainer.json."""
    spec, batch = state.spec, state.spec.batch
    rate = learning_rate(state.step, batch, spec.schedule, spec.optimizer.lr) if state.step else None
    return {
        "format": TRAINER_FORMAT,
        "step": state.step,
        "data_position": state.step * batch.M * batch.sequences,
        "epoch": state.step * batch.M * batch.sequences // state.n_windows,
        "schedule": {"name": spec.schedule.name, "learning_rate": rate, "steps": batch.steps},
        "optimizer": {"name": spec.optimizer.name, "step": state.step},
        **history.as_json(state.step),
        "metrics": {"loss_smooth": smooth},
        "quarantine": [],
        **({"buffers": buffers} if (buffers := buffer_digests(state)) else {}),
    }


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into `state`.  A collective.

    Raises RefusedError if a tensor does not have the digest, or a generator the state, that was saved; CheckpointDamage
    if a file cannot be read.
    """
    state.strategy.load(lambda slot, start, count: torch.from_numpy(checkpoint.read(slot.name, start, count)))
    for suffix, shard in state.shards.items():
        if suffix != WEIGHTS:
            for piece in shard.pieces:
                values = checkpoint.read(piece.slot.name + suffix, piece.start, piece.count)
                own = shard.values[piece.own_start : piece.own_start + piece.count]
                own.copy_(torch.from_numpy(values))
    state.step = checkpoint.step
    state.optimizer.set_finished_steps(int(checkpoint.trainer["optimizer"]["step"]))
    _compare_generators(state, checkpoint.rng())
    _compare_digests(state, checkpoint)
    _compare_buffers(state, checkpoint)


def _compare_digests(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Digest what was loaded and compare it with the manifest, tensor by tensor."""
    digests, _ = whole_digests(state, state.shards)
    wrong = [
        name
        for name, found in by_name(slots_by_suffix(state), digests).items()
        if int(checkpoint.manifest.tensors[name].digest, 16) != found.digest
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise RefusedError(
            f"cannot load {wrong[0]}{more}: its digest differs from the one in {checkpoint.path.name}",
            where=checkpoint.path.name,
            hints=["resume from an older checkpoint: `--from STEP`"],
        )


def _compare_buffers(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Compare the persistent buffers that the model's constructor has made with those of the saved run."""
    saved, found = checkpoint.trainer.get("buffers", {}), buffer_digests(state)
    wrong = [name for name in {**saved, **found} if saved.get(name) != found.get(name)]
    if wrong and saved:  # a migrated state has none
        raise RefusedError(
            f"the buffer {wrong[0]} must be as it was saved, {saved.get(wrong[0])}, got {found.get(wrong[0])}",
            where=checkpoint.path.name,
            hints=["a persistent buffer must follow from the factory's arguments and the seed"],
        )


def _compare_generators(state: TrainingState, saved: Mapping[str, np.ndarray]) -> None:
    """Compare the saved generator states with those that seed and step determine."""
    seed_boundary(state.spec.seed, state.step)
    for name, values in generator_states().items():
        if name not in saved or not np.array_equal(saved[name], values):
            raise RefusedError(
                f"cannot load the checkpoint of step {state.step}: its random state `{name}` is not that of"
                f" seed {state.spec.seed} at this step"
            )
