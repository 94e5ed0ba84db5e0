"""What evaluations came to: their metrics, and the best one so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.core.evaluate import Evaluator
from llmrun.core.state import TrainingState
from llmrun.storage.metrics import names


class Validation:
    """An evaluator and the metrics of what it finds.  bytes_per_token: of the validation text."""

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
class Evaluations:
    """The last and the best validation perplexity; non-finite ones do not count.

    best_saved_step: step of the best one whose checkpoint was committed: the disk may have been full since.
    """

    val_ppl: float | None = None
    val_step: int | None = None
    best_val_ppl: float | None = None
    best_step: int | None = None
    best_saved_step: int | None = None

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "Evaluations":
        """Those that a checkpoint's trainer.json knows."""
        return cls(
            best_val_ppl=trainer["best_val_ppl"],
            best_step=trainer["best_step"],
            best_saved_step=trainer.get("best_saved_step"),
        )

    def add(self, val_ppl: float, step: int) -> bool:
        """Take one in; returns whether it is the best so far."""
        if not math.isfinite(val_ppl):
            return False
        self.val_ppl, self.val_step = val_ppl, step
        if self.best_val_ppl is not None and val_ppl >= self.best_val_ppl:
            return False
        self.best_val_ppl, self.best_step = val_ppl, step
        return True

    def note_saved(self, step: int) -> None:
        """A checkpoint of `step` was committed: only then may an older best one go."""
        if step == self.best_step:
            self.best_saved_step = step

    def as_json(self, step: int) -> dict[str, Any]:
        """For trainer.json of `step`: val_ppl is null where that step was not evaluated.

        The checkpoint being written counts as saved: who reads this found it committed.
        """
        return {
            "val_ppl": self.val_ppl if self.val_step == step else None,
            "best_val_ppl": self.best_val_ppl,
            "best_step": self.best_step,
            "best_saved_step": step if step == self.best_step else self.best_saved_step,
        }
