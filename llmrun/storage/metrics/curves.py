"""The loss curve of a run, read from its metrics.jsonl."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmrun.storage.metrics import names
from llmrun.storage.metrics.jsonl import number, rows


@dataclass(frozen=True)
class Curve:
    """The smoothed loss of a run, and its evaluations.

    loss_smooth: [steps], float64, nats; entry n is that of step n + 1, NaN if the file does not have it.
    evaluations: step -> val_loss, nats.
    """

    loss_smooth: np.ndarray
    evaluations: dict[int, float]

    @property
    def steps(self) -> int:
        """Finished steps."""
        return len(self.loss_smooth)


def first_equal_pair(curves: Sequence[np.ndarray]) -> tuple[int, int] | None:
    """The indices of the first two curves that are equal over their common steps: one run counted twice; or None."""
    for later, curve in enumerate(curves):
        for earlier in range(later):
            common = min(len(curve), len(curves[earlier]))
            if common and np.array_equal(curve[:common], curves[earlier][:common]):
                return earlier, later
    return None


def read_curve(path: Path) -> Curve:
    """The curve in a metrics.jsonl; without steps if the file is missing or empty.

    Of a step that is there twice, the last row counts.
    """
    losses: dict[int, float] = {}
    evaluations: dict[int, float] = {}
    for row in rows(path):
        step = row[names.STEP]
        loss = number(row.get(names.LOSS_SMOOTH))
        losses[step] = math.nan if loss is None else loss
        val_loss = number(row.get(names.VAL_LOSS))
        if val_loss is not None:
            evaluations[step] = val_loss
    curve = np.full(max(losses, default=0), np.nan)
    for step, loss in losses.items():
        if step >= 1:
            curve[step - 1] = loss
    return Curve(curve, evaluations)
