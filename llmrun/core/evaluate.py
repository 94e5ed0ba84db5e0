"""Validation loss on a fixed set of windows, the same for every D."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmrun.core.order import fixed_windows
from llmrun.core.reduce.collectives import bits_of, float_of, gather_integers, sum_columns
from llmrun.core.reduce.tree import tree_sum
from llmrun.core.state import TrainingState
from llmrun.core.windows import Split
from llmrun.storage.metrics import names


class Evaluator:
    """Evaluates in logical micro-batches of the training shape, dealt to ranks in turn.

    windows:         how many windows of the validation split to use at most.
    bytes_per_token: of the validation text.
    """

    def __init__(self, split: Split, seed: int, windows: int, sequences: int, bytes_per_token: float) -> None:
        self._split = split
        chosen = fixed_windows(seed, split.n_windows, windows)
        self._micro_batches = [chosen[i : i + sequences] for i in range(0, len(chosen), sequences)]
        self.n_targets = len(chosen) * split.L_ctx
        self._bytes_per_token = bytes_per_token

    def metrics(self, state: TrainingState) -> dict[str, float]:
        """val_loss, val_ppl and val_bits_per_byte.  A collective."""
        loss = self.val_loss(state)
        return {
            names.VAL_LOSS: loss,
            names.VAL_PPL: names.perplexity(loss),
            names.VAL_BITS_PER_BYTE: names.bits_per_byte(loss, self._bytes_per_token),
        }

    def val_loss(self, state: TrainingState) -> float:
        """Mean loss per target token, nats: float64 tree sum of the micro-batches' float32 sums.

        A collective: every rank calls it and gets the same number.
        """
        sums = [0] * len(self._micro_batches)
        mine = list(range(state.rank, len(sums), state.D))
        along = state.strategy.passes(len(sums)) - len(mine)
        state.strategy.model.eval()
        with torch.no_grad():
            for number in mine:
                sums[number] = bits_of(self._loss_sum(state, number))
            for _ in range(along):
                self._loss_sum(state, 0)
        state.strategy.model.train()
        rows = gather_integers(sums, state.D, state.device)
        return tree_sum([float_of(bits) for bits in sum_columns(rows)]) / self.n_targets

    def _loss_sum(self, state: TrainingState, number: int) -> float:
        """Sum of the token losses of one micro-batch."""
        windows = np.stack([self._split.window(int(w)) for w in self._micro_batches[number]])
        tokens = torch.from_numpy(windows).to(device=state.device, dtype=torch.int64)
        with torch.autocast(state.device.type, dtype=torch.bfloat16, enabled=state.is_bf16):
            loss, _ = state.strategy.model(tokens)
        return float(loss.item())


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
