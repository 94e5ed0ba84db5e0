"""Validation loss on a fixed set of windows, the same for every D."""

import numpy as np
import torch

from llmrun.core.order import fixed_windows
from llmrun.core.reduce.collectives import bits_of, float_of, gather_integers, sum_columns
from llmrun.core.reduce.tree import tree_sum
from llmrun.core.state import TrainingState
from llmrun.core.windows import Split


class Evaluator:
    """Evaluates in logical micro-batches of the training shape, dealt to ranks in turn.

    windows: how many windows of the validation split to use at most.
    """

    def __init__(self, split: Split, seed: int, windows: int, sequences: int) -> None:
        self._split = split
        chosen = fixed_windows(seed, split.n_windows, windows)
        self._micro_batches = [chosen[i : i + sequences] for i in range(0, len(chosen), sequences)]
        self.n_targets = len(chosen) * split.L_ctx

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
