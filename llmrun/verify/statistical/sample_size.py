"""Plans a comparison: the number of runs that a margin needs, from the variance of a baseline."""

from dataclasses import dataclass
from typing import Any

from llmrun.verify.statistical.equivalence import (
    Margin,
    Measurement,
    group_json,
    last_common_step,
    measure_groups,
    parse_margin,
)
from llmrun.verify.statistical.groups import Group, check_comparable
from llmrun.verify.statistical.hypothesis_tests import seeds_needed

MARGINS = ("0.5%", "1%", "2%", "5%")


@dataclass(frozen=True)
class SeedPlan:
    """The number of runs in each group that show equivalence, by margin and measure; None: more than 10,000.

    samples: the baseline in each measure.
    """

    baseline: Group
    alpha: float
    power: float
    step: int
    samples: list[Measurement]
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
                for measured in self.samples
            ],
            "seeds": [
                {"margin": {"text": margin.text, "nats": margin.nats}, "needed": needed}
                for margin, needed in self.seeds
            ],
        }


def plan_seeds(baseline: Group, margin: Margin, alpha: float, power: float) -> SeedPlan:
    """What the samples of the baseline asks of a comparison, at the allowed margin and at some round ones."""
    check_comparable((baseline,))
    step = last_common_step((baseline,))
    samples = measure_groups((baseline,), step)
    level = alpha / len(samples)
    margins = {allowed.nats: allowed for allowed in (*map(parse_margin, MARGINS), margin)}
    seeds = [
        (
            allowed,
            {
                measured.name: seeds_needed(allowed.nats, measured.samples[0].sd, level, power)
                for measured in samples
            },
        )
        for allowed in sorted(margins.values(), key=lambda allowed: allowed.nats)
    ]
    return SeedPlan(baseline, alpha, power, step, samples, seeds)
