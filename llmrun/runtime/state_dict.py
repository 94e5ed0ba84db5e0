"""The state of training as a checkpoint's snapshot, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from llmrun.core.generators import generator_states, seed_boundary
from llmrun.core.optimizer import MOMENTS
from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.schedule import learning_rate
from llmrun.core.state import TrainingState, partial_digests
from llmrun.errors import RefusedError
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.async_writer import HostBuffers, digests_of
from llmrun.runtime.evaluation import Evaluations
from llmrun.storage.checkpoint.manifest import TRAINER_FORMAT
from llmrun.storage.checkpoint.parts import StateSnapshot
from llmrun.storage.checkpoint.reader import Checkpoint


def snapshot_of(
    state: TrainingState,
    copy: HostBuffers,
    worker_spec: WorkerSpec,
    chain: bytes,
    evaluations: Evaluations,
    smooth: dict[str, float],
) -> StateSnapshot:
    """This rank's part of the state after `state.step` steps, whose tensors `copy` has taken.

    chain, smooth: only rank 0's count.
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
        trainer=_trainer(state, evaluations, smooth),
        rng=generator_states(),
        model=copy.model,
        optimizer=copy.optimizer,
        digests=digests_of,
    )


def _trainer(state: TrainingState, evaluations: Evaluations, smooth: dict[str, float]) -> dict[str, Any]:
    """The scalars of the state machine."""
    spec, batch = state.spec, state.spec.batch
    rate = learning_rate(state.step, batch, spec.schedule, spec.optimizer.lr) if state.step else None
    return {
        "format": TRAINER_FORMAT,
        "step": state.step,
        "data_position": state.step * batch.M * batch.sequences,
        "epoch": state.step * batch.M * batch.sequences // state.n_windows,
        "schedule": {"name": spec.schedule.name, "learning_rate": rate, "steps": batch.steps},
        "optimizer": {"name": spec.optimizer.name, "step": state.step},
        **evaluations.as_json(state.step),
        "metrics": {"loss_smooth": smooth},
        "quarantine": [],
    }


def restore(state: TrainingState, checkpoint: Checkpoint) -> list[int]:
    """Put a checkpoint's state into `state`; returns the weights' digests, in flat order.

    A collective.  Raises RefusedError where tensors do not have the digests, or generators the state, that
    were saved; CheckpointDamage where they cannot be read.
    """
    state.strategy.load(lambda slot, start, count: torch.from_numpy(checkpoint.read(slot.name, start, count)))
    for name in MOMENTS:
        moment = state.optimizer.moments[name]
        for piece in state.strategy.share.pieces:
            values = checkpoint.read(f"{piece.slot.name}.{name}", piece.start, piece.count)
            moment[piece.own_start : piece.own_start + piece.count].copy_(torch.from_numpy(values))
    state.step = checkpoint.step
    state.optimizer.set_finished_steps(int(checkpoint.trainer["optimizer"]["step"]))
    _compare_generators(state, checkpoint.rng())
    return _compare_digests(state, checkpoint)


def _compare_digests(state: TrainingState, checkpoint: Checkpoint) -> list[int]:
    """Digest what was loaded and compare it with the manifest, tensor by tensor."""
    shards = {"": state.strategy.weights, **{f".{name}": state.optimizer.moments[name] for name in MOMENTS}}
    partial = [digest for shard in shards.values() for digest in partial_digests(state, shard)]
    found = sum_columns(gather_integers(partial, state.D, state.device))
    names = [name + suffix for suffix in shards for name in (slot.name for slot in state.strategy.slots)]
    wrong = [
        name
        for name, digest in zip(names, found, strict=True)
        if int(checkpoint.manifest.tensors[name].digest, 16) != digest
    ]
    if wrong:
        raise RefusedError(
            f"{wrong[0]} does not have the digest that {checkpoint.path.name} states"
            + (f"; nor do {len(wrong) - 1} other tensors" if len(wrong) > 1 else ""),
            where=checkpoint.path.name,
            hints=["resume from an older checkpoint: `--from STEP`"],
        )
    return found[: len(state.strategy.slots)]


def _compare_generators(state: TrainingState, saved: Mapping[str, np.ndarray]) -> None:
    """The generators are a function of seed and step: what was saved must be what they are set to."""
    seed_boundary(state.spec.seed, state.step)
    for name, values in generator_states().items():
        if name not in saved or not np.array_equal(saved[name], values):
            raise RefusedError(
                f"the random state {name} in the checkpoint of step {state.step} is not that of"
                f" seed {state.spec.seed} at this step"
            )
