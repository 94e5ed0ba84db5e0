"""Validation loss on a fixed set of windows, the same for every D."""

import numpy as np
import torch

from llmrun.core.order import fixed_windows
from llmrun.core.reduce.collectives import bits_of, float_of, gather_integers, sum_columns
from llmrun.core.reduce.tree import tree_sum
from llmrun.core.state import TrainingState
from llmrun.core.windows import Split


class Evaluator:
    """Evaluates in logical micro-batches of the training shape, handed out to ranks in turn.

    windows: how many windows of the validation split to use at most.
    """

    def __init__(self, split: Split, seed: int, windows: int, sequences: int) -> None:
        self._split = split
        chosen = fixed_windows(seed, split.n_windows, windows)
        self._micro_batches = [chosen[i : i + sequences] for i in range(0, len(chosen), sequences)]

    def val_loss(self, state: TrainingState) -> float:
        """Mean loss per target token, natural log: float64 tree sum of the micro-batches' float32 sums.

        A collective: every rank gets the same number.
        """
        count = len(self._micro_batches)
        sums, targets = [0] * count, [0] * count
        own = range(state.rank, count, state.D)
        padding = state.strategy.passes(count) - len(own)
        state.strategy.model.eval()
        with torch.no_grad():
            for number in own:
                loss, targets[number] = self._loss_sum(state, number)
                sums[number] = bits_of(loss)
            for _ in range(padding):
                self._loss_sum(state, 0)
        state.strategy.model.train()
        rows = gather_integers([*sums, *targets], state.D, state.device)
        found = sum_columns(rows)
        return tree_sum([float_of(bits) for bits in found[:count]]) / sum(found[count:])

    def _loss_sum(self, state: TrainingState, number: int) -> tuple[float, int]:
        """(sum of the token losses, number of targets) of one micro-batch."""
        windows = np.stack([self._split.window(int(w)) for w in self._micro_batches[number]])
        tokens = torch.from_numpy(windows).to(device=state.device, dtype=torch.int64)
        with torch.autocast(state.device.type, dtype=torch.bfloat16, enabled=state.is_bf16):
            loss, n_targets = state.strategy.model(tokens)
        return float(loss.item()), n_targets
