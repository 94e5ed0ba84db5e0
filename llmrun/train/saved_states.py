"""Holds the state of a replay against checkpoints of the run that is replayed, byte by byte.

saved-states.json   {"step-00000140": {"tensors": 27, "differing": []}, …}; null for a checkpoint that went away
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llmrun.checkpoint.contents import Checkpoint
from llmrun.checkpoint.errors import CheckpointDamage
from llmrun.checkpoint.layout import step_of
from llmrun.checkpoint.reader import open_checkpoint
from llmrun.durable import replace_json
from llmrun.errors import InputError
from llmrun.reduce.collectives import gather_integers, sum_columns
from llmrun.run.directory import RunDirectory
from llmrun.train.optimizer import MOMENTS
from llmrun.train.state import TrainingState

FILE_NAME = "saved-states.json"


class SavedStates:
    """The checkpoints that a replay must meet.  paths: of directories with a checkpoint's own name."""

    def __init__(self, run_directory: RunDirectory, paths: Sequence[str]) -> None:
        self._run = run_directory
        self._paths = {step_of(Path(path).name): Path(path) for path in paths}
        self._found: dict[str, dict[str, object] | None] = {}

    def compare(self, state: TrainingState) -> None:
        """Compare weights and moments with the checkpoint of this step, where there is one.  A collective."""
        path = self._paths.get(state.step)
        if path is None:
            return
        checkpoint = _opened(path)
        names = [slot.name + suffix for suffix in _shards(state) for slot in state.strategy.slots]
        flags = [0] * len(names) if checkpoint is None else _unequal(state, checkpoint)
        rows = gather_integers([int(checkpoint is None), *flags], state.D, state.device)
        absent, *counts = sum_columns(rows)
        differing = [name for name, count in zip(names, counts, strict=True) if count]
        self._found[path.name] = None if absent else {"tensors": len(names), "differing": differing}
        if state.rank == 0:
            replace_json(self._run.path / FILE_NAME, self._found)


def _opened(path: Path) -> Checkpoint | None:
    """The checkpoint; None where it is gone or damaged, which the launcher tells."""
    try:
        return open_checkpoint(path)
    except (InputError, CheckpointDamage, OSError):
        return None


def _shards(state: TrainingState) -> dict[str, Tensor]:
    """This rank's weights and moments, by the suffix of their names in a checkpoint."""
    return {"": state.strategy.weights, **{f".{name}": state.optimizer.moments[name] for name in MOMENTS}}


def _unequal(state: TrainingState, checkpoint: Checkpoint) -> list[int]:
    """1 for each tensor of which this rank's part has other bytes than the checkpoint's, in flat order."""
    unequal: list[int] = []
    for suffix, shard in _shards(state).items():
        found: dict[str, int] = {}
        for piece in state.strategy.share.pieces:
            saved = torch.from_numpy(checkpoint.read(piece.slot.name + suffix, piece.start, piece.count))
            own = shard[piece.own_start : piece.own_start + piece.count].cpu()
            same = torch.equal(own.view(torch.int32), saved.view(torch.int32))
            found[piece.slot.name] = int(not same)
        unequal += [found.get(slot.name, 0) for slot in state.strategy.slots]
    return unequal
