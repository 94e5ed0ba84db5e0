"""Before a candidate is trained: the scatter of a baseline, and how many seeds a margin takes."""

from dataclasses import dataclass
from typing import Any

from llmrun.verify.statistical.compare import Measurement, group_json, last_common_step, measure_groups
from llmrun.verify.statistical.groups import Group, check_comparable
from llmrun.verify.statistical.margin import Margin, parse_margin
from llmrun.verify.statistical.tests import seeds_needed

MARGINS = ("0.5%", "1%", "2%", "5%")


@dataclass(frozen=True)
class SeedPlan:
    """The scatter of each measure, and for each margin the runs in each group that show it; None: too many."""

    baseline: Group
    alpha: float
    power: float
    step: int
    scatter: list[Measurement]
    seeds: list[tuple[Margin, dict[str, int | None]]]

    def as_json(self) -> dict[str, Any]:
        """The plan with stable keys."""
        return {
            "mode": "statistical",
            "verdict": None,
            "alpha": self.alpha,
            "power": self.power,
            "step": self.step,
            "baseline": group_json(self.baseline),
            "measures": [
                {
                    "name": measured.name,
                    "step": measured.step,
                    "unit": "nats",
                    "baseline_mean": measured.samples[0].mean,
                    "baseline_sd": measured.samples[0].sd,
                }
                for measured in self.scatter
            ],
            "seeds": [
                {"margin": {"text": margin.text, "nats": margin.nats}, "needed": needed}
                for margin, needed in self.seeds
            ],
        }


def plan_seeds(baseline: Group, margin: Margin, alpha: float, power: float) -> SeedPlan:
    """What the scatter of the baseline asks of a comparison, at the wished margin and at some round ones."""
    check_comparable((baseline,))
    step = last_common_step((baseline,))
    scatter = measure_groups((baseline,), step)
    level = alpha / len(scatter)
    margins = {wished.nats: wished for wished in (*map(parse_margin, MARGINS), margin)}
    seeds = [
        (
            wished,
            {
                measured.name: seeds_needed(wished.nats, measured.samples[0].sd, level, power)
                for measured in scatter
            },
        )
        for wished in sorted(margins.values(), key=lambda wished: wished.nats)
    ]
    return SeedPlan(baseline, alpha, power, step, scatter, seeds)
