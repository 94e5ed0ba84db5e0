"""Compares checkpoints: with each other tensor by tensor, and with the ledger of the run they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmrun.errors import InputError
from llmrun.run.record_check import groups_of
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.verification import Progress, verify_files
from llmrun.storage.ledger.tensors import differing_tensors

QUANTITY_ORDER = ("optimizer", "weights", "rng")
"""The quantities that a checkpoint holds, a cause before its effects."""


@dataclass(frozen=True)
class StateDifference:
    """How two checkpoints of one step differ.

    tensors: by quantity (optimizer, weights, rng) the names of what differs; only what differs is there.
    """

    step: int
    tensors: Mapping[str, list[str]]

    @property
    def quantity(self) -> str:
        """The first quantity that differs, in causal order."""
        return next(quantity for quantity in QUANTITY_ORDER if quantity in self.tensors)


@dataclass
class StatesCompared:
    """What a comparison of checkpoints found.

    steps:      steps whose checkpoints were read byte by byte and found equal.
    n_tensors:  tensors compared in all.
    difference: the first difference; None where there is none.
    damage:     what is wrong with a checkpoint, in words.
    notes:      what could not be compared, and why.
    """

    steps: list[int] = field(default_factory=list)
    n_tensors: int = 0
    difference: StateDifference | None = None
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_states(a: Checkpoint, b: Checkpoint) -> StateDifference | None:
    """Compare two sound checkpoints of one step: digests of all tensors, bytes of all random states."""
    groups_a, groups_b = groups_of(a.manifest), groups_of(b.manifest)
    found = {name: differing_tensors(groups_a[name], groups_b[name]) for name in groups_a}
    found["rng"] = _differing_rng(a, b)
    differing = {quantity: names for quantity, names in found.items() if names}
    return StateDifference(a.step, differing) if differing else None


def differing_names(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The weights that differ, then what differs of the optimizer's state."""
    groups_a, groups_b = groups_of(a.manifest), groups_of(b.manifest)
    return [
        name for quantity in groups_a for name in differing_tensors(groups_a[quantity], groups_b[quantity])
    ]


def _differing_rng(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The random states that are not equal byte by byte."""
    states_a, states_b = a.rng(), b.rng()
    shared = [name for name in states_a if name in states_b]
    unequal = [
        name
        for name in shared
        if states_a[name].dtype != states_b[name].dtype or not np.array_equal(states_a[name], states_b[name])
    ]
    return [*unequal, *sorted(states_a.keys() ^ states_b.keys())]


def sound_checkpoint(
    path: Path, compared: StatesCompared, label: str, every_byte: bool, progress: Progress | None = None
) -> Checkpoint | None:
    """A checkpoint, its structure checked, with `every_byte` its files too.

    None where it is damaged (which goes into `compared`), or was pruned meanwhile by its own run.
    """
    try:
        damages = verify_files(path, progress) if every_byte else []
        if not damages:
            return open_checkpoint(path)
    except CheckpointDamage as error:
        damages = list(error.damages)
    except (InputError, FileNotFoundError):
        damages = []
    if not path.is_dir():
        compared.notes.append(f"{path.name} of {label} was removed meanwhile and is not compared")
        return None
    compared.damage += [f"checkpoint {damage} ({label})" for damage in damages]
    return None
