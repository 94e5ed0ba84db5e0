"""Validation during training: its metrics, and the best result so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.core.evaluate import Evaluator
from llmrun.core.state import TrainingState
from llmrun.storage.metrics import names


class Validation:
    """Evaluates the current weights.  bytes_per_token: of the validation text."""

    def __init__(self, evaluator: Evaluator, bytes_per_token: float) -> None:
        self._evaluator, self._bytes_per_token = evaluator, bytes_per_token

    def metrics(self, state: TrainingState) -> dict[str, float]:
        """val_loss, val_ppl and val_bits_per_byte of the current weights.  A collective."""
        loss = self._evaluator.val_loss(state)
        return {
            names.VAL_LOSS: loss,
            names.VAL_PPL: names.perplexity(loss),
            names.VAL_BITS_PER_BYTE: names.bits_per_byte(loss, self._bytes_per_token),
        }


@dataclass
class ValidationHistory:
    """The last and the best validation perplexity; non-finite values do not count.

    best_saved_step: the best step whose checkpoint was committed; behind best_step if a save failed.
    """

    val_ppl: float | None = None
    val_step: int | None = None
    best_val_ppl: float | None = None
    best_step: int | None = None
    best_saved_step: int | None = None

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "ValidationHistory":
        """The history recorded in a checkpoint's trainer.json."""
        return cls(
            best_val_ppl=trainer["best_val_ppl"],
            best_step=trainer["best_step"],
            best_saved_step=trainer.get("best_saved_step"),
        )

    def add(self, val_ppl: float, step: int) -> bool:
        """Add one; returns whether it is the best so far."""
        if not math.isfinite(val_ppl):
            return False
        self.val_ppl, self.val_step = val_ppl, step
        if self.best_val_ppl is not None and val_ppl >= self.best_val_ppl:
            return False
        self.best_val_ppl, self.best_step = val_ppl, step
        return True

    def note_saved(self, step: int) -> None:
        """Note that the checkpoint of `step` is committed: only then may retention delete an older best one."""
        if step == self.best_step:
            self.best_saved_step = step

    def as_json(self, step: int) -> dict[str, Any]:
        """For trainer.json of `step`: val_ppl is null if that step was not evaluated.

        The checkpoint being written counts as saved, since whoever reads the file found it committed.
        """
        return {
            "val_ppl": self.val_ppl if self.val_step == step else None,
            "best_val_ppl": self.best_val_ppl,
            "best_step": self.best_step,
            "best_saved_step": step if step == self.best_step else self.best_saved_step,
        }
