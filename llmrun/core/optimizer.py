"""AdamW on this rank's share of the weights."""

import torch
from torch import Tensor, nn

from llmrun.core.reduce.layout import Share
from llmrun.core.training_spec import OptimizerSpec

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW:
    """torch's AdamW on at most two flat parts of a rank's share: decayed first, then not decayed.

    Pieces start at and are padded to multiples of 64 elements, so the update of an element does not depend on
    where its parameter was cut.  weights: [share.size], float32, updated in place.
    moments: exp_avg and exp_avg_sq, each [share.size], float32.
    """

    def __init__(self, weights: Tensor, share: Share, config: OptimizerSpec) -> None:
        self.moments = {name: torch.zeros_like(weights) for name in MOMENTS}
        self._ranges = [range(share.decay_stop), range(share.decay_stop, share.size)]
        self._parts = [nn.Parameter(weights[part.start : part.stop]) for part in self._ranges]
        decays = (config.weight_decay, 0.0)
        self._adamw = torch.optim.AdamW(
            [
                {"params": [part], "weight_decay": decay}
                for part, decay in zip(self._parts, decays, strict=True)
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            amsgrad=False,
            maximize=False,
            foreach=config.implementation == "foreach",
            fused=config.implementation == "fused",
        )
        self.set_finished_steps(0)

    def set_finished_steps(self, steps: int) -> None:
        """Set the number of updates that the moments have seen, for the bias correction."""
        for part, rows in zip(self._parts, self._ranges, strict=True):
            device = part.device if self._adamw.defaults["fused"] else torch.device("cpu")
            self._adamw.state[part] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=device),
                **{name: moment[rows.start : rows.stop] for name, moment in self.moments.items()},
            }

    def update(self, gradient: Tensor, learning_rate: float) -> None:
        """One update of the share's weights, in place.  gradient: [share.size], float32."""
        for group, part, rows in zip(self._adamw.param_groups, self._parts, self._ranges, strict=True):
            group["lr"] = learning_rate
            part.grad = gradient[rows.start : rows.stop] if len(rows) else None
        self._adamw.step()
