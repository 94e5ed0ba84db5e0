"""The optimizer on a rank's share of the weights: AdamW on elements, Muon on whole matrices."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llmrun.core.moments import Moment, RateOf
from llmrun.core.muon import ShardedMuon
from llmrun.core.parameter_groups import MOMENTS, OptimizerSpec, ParameterGroup
from llmrun.core.reduce.layout import Share


class ShardedAdamW:
    """torch's AdamW on flat parts of a rank's share, one for each group of parameters.

    Pieces start at and are padded to multiples of 64 elements, so the update of an element does not depend on
    where its parameter was cut.  weights: [share.size], float32, updated in place.
    """

    def __init__(
        self, weights: Tensor, share: Share, groups: Sequence[ParameterGroup], config: OptimizerSpec
    ) -> None:
        assert all(group.optimizer == "adamw" for group in groups)
        self._peak = config.lr
        self._ranges = [share.part(section) for section in range(len(groups))]
        part = range(self._ranges[-1].stop if groups else 0)
        self.moments = {name: Moment("adamw", weights, part) for name in MOMENTS["adamw"]}
        self._scales = [group.lr_scale for group in groups]
        self._parts = [nn.Parameter(weights[rows.start : rows.stop]) for rows in self._ranges]
        self._adamw = torch.optim.AdamW(
            [
                {"params": [part], "weight_decay": group.weight_decay}
                for part, group in zip(self._parts, groups, strict=True)
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            amsgrad=False,
            maximize=False,
            foreach=config.implementation == "foreach",
            fused=config.implementation == "fused",
        )

    def set_finished_steps(self, steps: int) -> None:
        """Set the number of updates that the moments have seen, for the bias correction."""
        for part, rows in zip(self._parts, self._ranges, strict=True):
            device = part.device if self._adamw.defaults["fused"] else torch.device("cpu")
            self._adamw.state[part] = {
                "step": torch.tensor(float(steps), dtype=torch.float32, device=device),
                **{name: moment.values[rows.start : rows.stop] for name, moment in self.moments.items()},
            }

    def update(self, gradient: Tensor, rate_of: RateOf) -> None:
        """One update, in place.  gradient: [share.size], float32."""
        rate = rate_of(self._peak)
        rows_of = zip(self._adamw.param_groups, self._parts, self._ranges, self._scales, strict=True)
        for group, part, rows, scale in rows_of:
            group["lr"] = rate * scale
            part.grad = gradient[rows.start : rows.stop] if len(rows) else None
        self._adamw.step()


class ShardedOptimizer:
    """The update of a rank's share: AdamW on its first sections, Muon on the others.

    weights:  [share.size], float32, updated in place.
    share_of: the share of any rank.
    groups:   of the sections of a share, AdamW's first.
    moments:  by name, as torch's optimizers name them.
    """

    def __init__(
        self,
        weights: Tensor,
        share_of: Callable[[int], Share],
        rank: int,
        D: int,
        groups: Sequence[ParameterGroup],
        config: OptimizerSpec,
    ) -> None:
        by_adamw = [group for group in groups if group.optimizer == "adamw"]
        by_muon = groups[len(by_adamw) :]
        self.moments: dict[str, Moment] = {}
        self._adamw: ShardedAdamW | None = None
        self._muon: ShardedMuon | None = None
        if by_adamw:
            self._adamw = ShardedAdamW(weights, share_of(rank), by_adamw, config)
            self.moments |= self._adamw.moments
        if by_muon:
            assert config.muon is not None
            self._muon = ShardedMuon(weights, share_of, rank, D, by_muon, len(by_adamw), config.muon)
            self.moments |= self._muon.moments
        self.set_finished_steps(0)

    def set_finished_steps(self, steps: int) -> None:
        """Set the number of updates that the moments have seen."""
        if self._adamw is not None:
            self._adamw.set_finished_steps(steps)

    def update(self, gradient: Tensor, rate_of: RateOf) -> None:
        """One update, in place.  A collective.  gradient: [share.size], float32; its elements are overwritten."""
        if self._adamw is not None:
            self._adamw.update(gradient, rate_of)
        if self._muon is not None:
            self._muon.update(gradient, rate_of)
